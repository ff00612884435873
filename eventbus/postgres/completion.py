"""How a transaction ends: buffered rows, COMMIT, hints; or what is not known about it (X2, X12)."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import asyncpg

from eventbus.errors import CommitUnknownError
from eventbus.postgres.failures import sqlstate_of, translated
from eventbus.postgres.fate import WITNESS, Fate
from eventbus.postgres.outbox import flush
from eventbus.postgres.pools import Connection
from eventbus.postgres.session import Session
from eventbus.storage import Work

_XID = f"SELECT {WITNESS}"
_UNCERTAIN = ("08", "57P", "57014")  # SQLSTATEs after which COMMIT may have happened


async def commit(session: Session, hint: Callable[[Work], None]) -> None:
    """Write what is buffered, commit, then hint.

    Cancelled meanwhile, it raises CancelledError once the outcome is certain.

    Raises:
        StorageError: nothing is kept.
        CommitUnknownError: perhaps all of it is.
    """
    try:
        if session.failed is not None:
            raise session.doomed()
        if session.outgoing:
            await flush(session)
        session.open = False
        if session.borrowed:
            await session.release_last()
        elif session.connection is not None and session.begun:
            await _commit(session, session.connection)
        session.committed = True
    finally:
        session.open = False
        await session.end(roll_back=not session.committed)
        if session.committed:
            for work in session.hints:
                hint(work)


async def roll_back(session: Session) -> None:
    """Nothing is kept. Never raises: the error that led here is the one to see (X11)."""
    session.open = False
    await session.end(roll_back=True)


async def _commit(session: Session, connection: Connection) -> None:
    fate = await _fate(session, connection)
    warnings: list[str] = []

    def listen(_: Any, message: Any) -> None:
        if getattr(message, "sqlstate", "") == "01000":
            warnings.append(str(message))

    sent = asyncio.create_task(_send(connection, listen), name="commit:postgres")
    cancelled = await _outcome(sent)
    error = sent.exception()
    if error is not None:
        _raise_of(error, session, fate)
    session.begun = False
    session.committed = sent.result() != "ROLLBACK" and not warnings
    if sent.result() == "ROLLBACK":  # a statement of the application had failed unseen
        raise session.doomed()
    if warnings:
        raise _unknown(session, fate, f"the standby did not confirm it: {warnings[0]}")
    if cancelled is not None:
        raise cancelled


async def _send(connection: Connection, listen: Callable[[Any, Any], None]) -> str:
    connection.add_log_listener(listen)
    try:
        tag: str = await connection.execute("COMMIT")
    finally:
        with suppress(asyncpg.InterfaceError):  # it is gone, and the listener with it
            connection.remove_log_listener(listen)
    return tag


async def _outcome(sent: "asyncio.Task[str]") -> asyncio.CancelledError | None:
    """Wait for it whatever happens (the driver's deadline bounds it); the last cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not sent.done():
        try:
            await asyncio.wait([sent])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _raise_of(error: BaseException, session: Session, fate: Fate | None) -> None:
    state = sqlstate_of(error)
    where = f"COMMIT, {session.pools.config.where}"
    if state and not state.startswith(_UNCERTAIN):
        session.begun = False  # the server answered: it has rolled back
        raise translated(error, where) from error
    session.whole = False
    unknown = _unknown(session, fate, f"no answer: {type(error).__name__} {error}".rstrip())
    session.pools.note(translated(error, where, cut=True))
    raise unknown from error


async def _fate(session: Session, connection: Connection) -> Fate | None:
    """What an unknown commit is resolved by; a round trip, unless a statement told the xid."""
    if session.fate is None and session.wrote:
        session.testify(await session.run(connection.fetchrow, _XID, where="COMMIT"))
    return session.fate


def _unknown(session: Session, fate: Fate | None, why: str) -> CommitUnknownError:
    pools = session.pools

    async def ask() -> Literal["committed", "rolled_back", "unknown"]:
        return "unknown" if fate is None else await fate.ask(pools)

    return CommitUnknownError(
        "EB5101",
        "it is unknown whether the transaction is committed",
        ids=tuple(session.ids),
        where=f"COMMIT, {pools.config.where}",
        why=why,
        next="await error.resolve() before anything is repeated",
        ask=ask,
    )
