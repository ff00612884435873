"""Undoing a switch."""

from collections.abc import Sequence

from eventbus.codec import Registry
from eventbus.errors import StorageError
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild import refusals
from eventbus.sourcing.rebuild.level import MET_OTHERS, Level, rest
from eventbus.sourcing.rebuild.options import Beat, Options
from eventbus.sourcing.rebuild.owner import Owner
from eventbus.sourcing.shard import shard_name
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage, Transaction
from eventbus.storage.projections import ProjectionVersion


async def roll_back(
    storage: Storage,
    definition: Definition,
    registry: Registry,
    *,
    encode: Encode,
    actor: str,
    reason: str,
) -> tuple[int, int]:
    """Let the version that served before serve again; (from, to).

    One that follows stands where it stood, and catches up if its code runs. Where one of the two is
    inline nothing would catch up afterwards: it does before, by this code. What the later version
    read is not lost: it can be switched to again. One retired a week ago is not kept.

    Args:
        storage: entered.
        definition: the code that runs.
        registry: decodes what is recorded.
        encode: not used for effects: they are off.
        actor: who asks, for the audit.
        reason: why.

    Raises:
        ProjectionError: EB6004, it is being rebuilt; EB6010, there is no such version, or it is
            of other code and inline; EB6013, appends never paused.
    """
    name = definition.name
    async with storage.transaction() as tx:
        versions = await tx.projections.versions(name)
    active = next((one for one in versions if one.status == "active"), None)
    to = _before(versions)
    if active is None or to is None:
        raise refusals.nothing(name, "no version that served before is kept")
    undone = _Undone(active, to, actor, reason)
    beat = Beat(name, active.version, to.version, "", 0)
    owner = Owner(storage, beat, lambda _: None)
    async with owner.held():  # a rebuild goes by the version that serves
        if "inline" not in {active.runs, to.runs}:
            await _where_it_stands(storage, undone)
            return active.version, to.version
        await _revived(storage, definition, undone)
        level = Level(
            storage,
            definition,
            registry,
            encode=encode,
            old=active,
            shards=await owner.shards(definition, to),
            options=Options(),
            owner=owner,
        )
        await level.act(undone.switched)
    return active.version, to.version


def _before(versions: Sequence[ProjectionVersion]) -> ProjectionVersion | None:
    """The last that served; sooner the one that a rollback was going back to when it was killed."""
    begun = [one for one in versions if one.status == "building" and one.served]
    retired = [one for one in versions if one.status == "retired"]
    return next(reversed([*retired, *begun]), None)


class _Undone:
    """A switch from one version back to another, with its row in the audit."""

    def __init__(
        self, active: ProjectionVersion, to: ProjectionVersion, actor: str, reason: str
    ) -> None:
        self.active = active
        self.to = to
        self._actor = actor
        self._reason = reason

    async def switched(self, tx: Transaction) -> None:
        """In this transaction."""
        name = self.to.name
        await tx.projections.switch(name, to=self.to.version, back=True)
        told = {"from": self.active.version, "to": self.to.version}
        await tx.projections.audit(
            "rollback", name, actor=self._actor, reason=self._reason, told=told
        )


async def _where_it_stands(storage: Storage, undone: _Undone) -> None:
    for attempt in range(refusals.TRIES):
        try:
            async with storage.transaction() as tx:
                await undone.switched(tx)
        except StorageError as error:
            if error.code not in MET_OTHERS or attempt == refusals.TRIES - 1:
                raise
            await rest(attempt)
        else:
            break


async def _revived(storage: Storage, definition: Definition, undone: _Undone) -> None:
    """Let the version be built on, if this code made it, and it is known up to where."""
    to = undone.to
    async with storage.transaction() as tx:
        if to.status == "retired":
            await _refuse_unknown(tx, undone)
            await tx.projections.revive(to.name, to.version)
        try:
            for number in range(to.shards):
                await tx.checkpoints.load(
                    shard_name(to, number), fingerprint=definition.fingerprint
                )
        except StorageError as error:
            if error.code != "EB5202":
                raise
            why = f"version {to.version} is of other code: deploy the code that served before"
            raise refusals.nothing(to.name, why) from error


async def _refuse_unknown(tx: Transaction, undone: _Undone) -> None:
    """Nobody knows what is in the rows of an inline version, unless the switch noted it."""
    to = undone.to
    if to.runs == "following":
        return
    standing = await tx.checkpoints.positions(f"{to.name}@{to.version}/")
    if set(standing.values()) != {undone.active.publishes_after}:
        why = "an earlier release retired it, and did not note up to where its rows are"
        raise refusals.nothing(to.name, why)
