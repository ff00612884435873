"""One transaction of a storage: its sub-stores, and the block around it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar, cast

import asyncpg

from eventbus.postgres.checkpoints import PostgresCheckpoints
from eventbus.postgres.completion import commit, roll_back
from eventbus.postgres.events import PostgresEvents
from eventbus.postgres.inbox import PostgresInbox
from eventbus.postgres.leases import PostgresLeases
from eventbus.postgres.outbox import PostgresOutbox
from eventbus.postgres.own_tables import PostgresOwnTables
from eventbus.postgres.parking import PostgresParking
from eventbus.postgres.projections import PostgresProjections
from eventbus.postgres.sagas import PostgresSagas
from eventbus.postgres.session import Session
from eventbus.postgres.sql import PostgresSql
from eventbus.postgres.subject_keys import PostgresSubjectKeys
from eventbus.storage import Work
from eventbus.storage.nesting import Held, enter, leave

T = TypeVar("T")


class PostgresTransaction:
    """The sub-stores of one transaction."""

    def __init__(self, session: Session, resources: Mapping[type, Any]) -> None:
        self.session: Session = session
        self.sql: PostgresSql = PostgresSql(session)
        self.events: PostgresEvents = PostgresEvents(session)
        self.outbox: PostgresOutbox = PostgresOutbox(session)
        self.inbox: PostgresInbox = PostgresInbox(session)
        self.parking: PostgresParking = PostgresParking(session)
        self.checkpoints: PostgresCheckpoints = PostgresCheckpoints(session)
        self.projections: PostgresProjections = PostgresProjections(session)
        self.own_tables: PostgresOwnTables = PostgresOwnTables(session)
        self.leases: PostgresLeases = PostgresLeases(session)
        self.sagas: PostgresSagas = PostgresSagas(session)
        self.subject_keys: PostgresSubjectKeys = PostgresSubjectKeys(session)
        self._resources = resources

    def resource(self, kind: type[T]) -> T:
        """The connection of this transaction: asyncpg's, or what the caller handed over.

        Raises:
            LookupError: there is none of that kind, or no statement was sent in the innermost
                savepoint yet, so what is done through it would not be undone with the block.
        """
        if kind is asyncpg.Connection:
            if not self.session.sent:
                raise LookupError("BEGIN or the savepoint is not sent yet: run a statement first")
            self.session.wrote = self.session.handed_out = True
            return cast("T", self.session.connection)
        if kind in self._resources:
            return cast("T", self._resources[kind])
        raise LookupError(f"this transaction has no {kind.__name__}")

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Undo the block alone if it raises."""
        return self.session.savepoint()

    def abandon(self) -> None:
        """Cut the connection, from another task; nothing of it is kept."""
        self.session.abandon()


class Entry(AbstractAsyncContextManager[PostgresTransaction]):
    """Around a transaction: refuses a second one of the same storage (X6)."""

    def __init__(
        self,
        storage: object,
        session: Session,
        hint: Callable[[Work], None],
        resources: Mapping[type, Any] | None = None,
    ) -> None:
        self._storage = storage
        self._session = session
        self._hint = hint
        self._resources = resources or {}

    async def __aenter__(self) -> PostgresTransaction:
        self._held: Held = enter(self._storage, self._session)
        return PostgresTransaction(self._session, self._resources)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self._held)
        if kind is None:
            await commit(self._session, self._hint)
        else:
            await roll_back(self._session)
