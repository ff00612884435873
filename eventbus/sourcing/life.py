"""The life of a stream: cut, archived, tombstoned; there is no way back from any of it."""

from eventbus.errors import StorageError
from eventbus.storage import Storage
from eventbus.storage.events import Closed, StreamHead


async def truncate(
    storage: Storage, stream: str, *, before: int, tenant: str, actor: str, reason: str
) -> bool:
    """Cut it; `EventLog.truncate` says what is promised."""
    async with storage.transaction() as tx:
        cut = await tx.events.truncate(
            stream, before=before, tenant=tenant, actor=actor, reason=reason
        )
        if not cut:
            refuse_to_cut(stream, before, await tx.events.head(stream, tenant=tenant))
    return cut


async def close(
    storage: Storage, stream: str, *, state: Closed, tenant: str, actor: str, reason: str
) -> bool:
    """Close it; `EventLog.archive` and `EventLog.tombstone` say what is promised."""
    async with storage.transaction() as tx:
        closed = await tx.events.close(
            stream, state=state, tenant=tenant, actor=actor, reason=reason
        )
        if not closed and await tx.events.head(stream, tenant=tenant) is None:
            raise _refused(stream, "there is no such stream")
    return closed


def refuse_to_cut(stream: str, before: int, head: StreamHead | None) -> None:
    """Refuse what a stream cannot be cut to; that it begins there already is no reason.

    Raises:
        StorageError: EB5017.
    """
    if head is None:
        raise _refused(stream, "there is no such stream")
    if head.state == "tombstoned":
        raise _refused(stream, "it is tombstoned: it shows no event any more")
    if before < 1:
        raise _refused(stream, f"versions begin at 1, not at {before}")
    if before > head.version + 1:
        raise _refused(
            stream, f"it ends at version {head.version}: cut at {head.version + 1} at most"
        )


def _refused(stream: str, why: str) -> StorageError:
    return StorageError(
        "EB5017",
        f"stream {stream[:100]!r} cannot be cut or closed like that",
        where="bus.events",
        why=why,
        next="eventbus event head STREAM says how it stands",
    )
