"""One transaction of a storage: its sub-stores, and the block around it."""

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeVar

from eventbus.sqlite.checkpoints import SqliteCheckpoints
from eventbus.sqlite.desk import Desk
from eventbus.sqlite.events import SqliteEvents
from eventbus.sqlite.inbox import SqliteInbox
from eventbus.sqlite.leases import SqliteLeases
from eventbus.sqlite.outbox import SqliteOutbox, flush
from eventbus.sqlite.own_tables import SqliteOwnTables
from eventbus.sqlite.parking import SqliteParking
from eventbus.sqlite.projections import SqliteProjections
from eventbus.sqlite.sagas import SqliteSagas
from eventbus.sqlite.session import Session
from eventbus.sqlite.sql import SqliteSql
from eventbus.sqlite.subject_keys import SqliteSubjectKeys
from eventbus.storage.nesting import Held, enter, leave

T = TypeVar("T")


class SqliteTransaction:
    """The sub-stores of one transaction."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sql: SqliteSql = SqliteSql(session)
        self.events: SqliteEvents = SqliteEvents(session)
        self.outbox: SqliteOutbox = SqliteOutbox(session)
        self.inbox: SqliteInbox = SqliteInbox(session)
        self.parking: SqliteParking = SqliteParking(session)
        self.checkpoints: SqliteCheckpoints = SqliteCheckpoints(session)
        self.projections: SqliteProjections = SqliteProjections(session)
        self.own_tables: SqliteOwnTables = SqliteOwnTables(session)
        self.leases: SqliteLeases = SqliteLeases(session)
        self.sagas: SqliteSagas = SqliteSagas(session)
        self.subject_keys: SqliteSubjectKeys = SqliteSubjectKeys(session)

    def resource(self, kind: type[T]) -> T:
        """Nothing: the connection belongs to the writer's thread.

        Raises:
            LookupError: always.
        """
        raise LookupError(f"SQLite has no {kind.__name__} to give: use tx.sql")

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Undo the block alone if it raises."""
        return self.session.savepoint()

    def abandon(self) -> None:
        """Roll back and pass the turn on, from another task."""
        self.session.abandon()


class Entry(AbstractAsyncContextManager[SqliteTransaction]):
    """Around a transaction: refuses a second one of the same storage, which would wait for ever."""

    def __init__(self, storage: object, desk: Desk) -> None:
        self._storage = storage
        self._session = Session(desk, flush)

    async def __aenter__(self) -> SqliteTransaction:
        self._held: Held = enter(self._storage, self._session)
        return SqliteTransaction(self._session)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self._held)
        if kind is None:
            await self._session.commit()
        else:
            self._session.rollback()
