"""Undoing a switch."""

from eventbus.errors import StorageError
from eventbus.sourcing.rebuild import refusals
from eventbus.sourcing.rebuild.level import MET_OTHERS, rest
from eventbus.storage import Storage


async def roll_back(storage: Storage, name: str, *, actor: str, reason: str) -> tuple[int, int]:
    """Let the version that served before serve again, where it stands; (from, to).

    It catches up if its code runs. What the later version read is not lost: it can be switched
    to again. A version that was retired a week ago is not kept.

    Raises:
        ProjectionError: EB6010, there is no such version.
    """
    async with storage.transaction() as tx:
        versions = await tx.projections.versions(name)
    active = next((one for one in versions if one.status == "active"), None)
    before = [one.version for one in versions if one.status == "retired"]
    if active is None or not before:
        raise refusals.nothing(name, "no version that served before is kept")
    ends = [one for one in versions if one.version in {active.version, max(before)}]
    if any(one.runs == "inline" for one in ends):
        raise refusals.nothing(
            name, "an inline version does not catch up: rebuild with the code that served before"
        )
    for attempt in range(refusals.TRIES):
        try:
            async with storage.transaction() as tx:
                await tx.projections.switch(name, to=max(before), back=True)
                told = {"from": active.version, "to": max(before)}
                await tx.projections.audit("rollback", name, actor=actor, reason=reason, told=told)
        except StorageError as error:
            if error.code not in MET_OTHERS or attempt == refusals.TRIES - 1:
                raise
            await rest(attempt)
        else:
            break
    return active.version, max(before)
