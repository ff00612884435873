"""Sagas: one writer stands for the locks of rows and of keys."""

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from eventbus.sqlite import (
    saga_calls,
    saga_effects,
    saga_instances,
    saga_reading,
    saga_stash,
    saga_sweep,
    saga_timers,
)
from eventbus.sqlite.parking import SqliteParking
from eventbus.sqlite.session import Session
from eventbus.storage import saga_verdicts
from eventbus.storage.parking import Parked
from eventbus.storage.sagas import (
    ArmedTimer,
    Call,
    Correlation,
    DefinitionRow,
    EffectEnd,
    EffectRow,
    EffectStart,
    InFlight,
    Journalled,
    SagaChange,
    SagaQuery,
    SagaRecord,
    SagaStart,
    SagaSummary,
    Stashed,
)


class SqliteSagas:
    """What a transaction has read of a saga stays true until it ends."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def register(self, definitions: Sequence[DefinitionRow]) -> None:
        """Remember versions.

        Raises:
            ConfigurationError: EB7031, a known version with another digest; nothing was written.
        """
        await self._session.run(
            "sagas.register", lambda connection: saga_instances.register(connection, definitions)
        )

    async def find(self, keys: Collection[Correlation]) -> dict[Correlation, UUID]:
        """The sagas of the keys that have one."""
        return await self._session.run(
            "sagas.find", lambda connection: saga_instances.find(connection, keys)
        )

    async def lock_keys(self, keys: Collection[Correlation]) -> None:
        """Nothing to do: no other transaction is open."""
        await self._session.step()

    async def start(self, starts: Sequence[SagaStart]) -> frozenset[UUID]:
        """Insert; the ids that are new."""
        return await self._session.run(
            "sagas.start", lambda connection: saga_instances.start(connection, starts)
        )

    async def lock(self, ids: Collection[UUID]) -> Sequence[SagaRecord]:
        """Instances and steps, by id."""
        return await self._session.run(
            "sagas.lock", lambda connection: saga_instances.lock(connection, ids)
        )

    async def lock_due(
        self, definitions: Collection[tuple[str, int]], *, limit: int
    ) -> Sequence[SagaRecord]:
        """Sagas with due timers, which are deleted."""

        def lock_due(connection: sqlite3.Connection) -> list[SagaRecord]:
            fired = saga_timers.fire(connection, definitions, limit=limit)
            return saga_instances.read(connection, fired, fired)

        return await self._session.run("sagas.lock_due", lock_due)

    async def next_due(self, definitions: Collection[tuple[str, int]]) -> timedelta | None:
        """How long until a timer is due; None if none is armed."""
        return await self._session.run(
            "sagas.next_due", lambda connection: saga_timers.next_due(connection, definitions)
        )

    async def save(self, changes: Sequence[SagaChange]) -> None:
        """Write transitions, all or none.

        Raises:
            ConcurrencyError: EB7030, some are not at `was`; nothing was written.
        """
        await self._session.run(
            "sagas.save", lambda connection: saga_instances.save(connection, changes)
        )
        if any(change.is_urgent for change in changes):
            self._session.hints.add("timers")

    async def stash(self, inputs: Sequence[Stashed]) -> None:
        """Keep inputs that have no saga yet."""
        await self._session.run(
            "sagas.stash", lambda connection: saga_stash.stash(connection, inputs)
        )

    async def drain(self, keys: Collection[Correlation]) -> Sequence[Stashed]:
        """Delete and return, in the order of arrival."""
        return await self._session.run(
            "sagas.drain", lambda connection: saga_stash.drain(connection, keys)
        )

    async def claim_calls(
        self, definitions: Collection[tuple[str, int]], *, owner: str, ttl: timedelta, limit: int
    ) -> Sequence[Call]:
        """Take calls that are free or whose lease ended."""
        return await self._session.run(
            "sagas.claim_calls",
            lambda connection: saga_calls.claim(
                connection, definitions, owner=owner, ttl=ttl, limit=limit
            ),
        )

    async def renew_calls(self, calls: Sequence[Call], *, ttl: timedelta) -> Sequence[Call]:
        """Extend; those still ours."""
        return await self._session.run(
            "sagas.renew_calls", lambda connection: saga_calls.renew(connection, calls, ttl=ttl)
        )

    async def finish_calls(self, calls: Sequence[Call]) -> Sequence[Call]:
        """Delete those still ours."""
        return await self._session.run(
            "sagas.finish_calls", lambda connection: saga_calls.finish(connection, calls)
        )

    async def begin_effect(self, effects: Sequence[EffectStart]) -> Sequence[EffectRow]:
        """Insert or take over, else what stands; aligned with `effects`."""
        return await self._session.run(
            "sagas.begin_effect", lambda connection: saga_effects.begin(connection, effects)
        )

    async def forget_effect(self, ids: Collection[UUID]) -> None:
        """Delete rows that this transaction has made."""
        await self._session.run(
            "sagas.forget_effect", lambda connection: saga_effects.forget(connection, ids)
        )

    async def finish_effect(self, effects: Sequence[EffectEnd]) -> None:
        """Store outcomes.

        Raises:
            ConcurrencyError: EB7033, some are not ours to end; nothing was written.
        """
        await self._session.run(
            "sagas.finish_effect", lambda connection: saga_effects.finish(connection, effects)
        )

    async def sweep(self, *, older_than: timedelta, limit: int) -> int:
        """Forget at most `limit` of each kind; expired inputs become dead letters."""
        forgotten = await self._session.run(
            "sagas.sweep", lambda connection: saga_sweep.sagas(connection, older_than, limit)
        )
        forgotten += await self._session.run(
            "sagas.sweep", lambda connection: saga_sweep.effects(connection, older_than, limit)
        )
        expired = await self._session.run(
            "sagas.expire", lambda connection: saga_stash.expire(connection, limit)
        )
        groups: defaultdict[str, list[Parked]] = defaultdict(list)
        for one in expired:
            groups[one.key.saga].append(saga_verdicts.expired(one))
        for group, parked in groups.items():
            await SqliteParking(self._session).park(parked, group=group)
        return forgotten + len(expired)

    async def look(self, query: SagaQuery, *, limit: int) -> Sequence[SagaSummary]:
        """Those longest in their status first."""
        return await self._session.run(
            "sagas.look", lambda connection: saga_reading.look(connection, query, limit=limit)
        )

    async def timers(
        self, *, ids: Collection[UUID] = (), due: bool = False, limit: int
    ) -> Sequence[ArmedTimer]:
        """What is armed, the next one first."""
        return await self._session.run(
            "sagas.timers",
            lambda connection: saga_reading.timers(connection, ids, due=due, limit=limit),
        )

    async def journal(self, saga_id: UUID) -> Sequence[Journalled]:
        """All transitions of a saga, in order."""
        return await self._session.run(
            "sagas.journal", lambda connection: saga_reading.journal(connection, saga_id)
        )

    async def in_flight(self) -> Sequence[InFlight]:
        """Open sagas by type, version, state, step and status."""
        return await self._session.run("sagas.in_flight", saga_reading.in_flight)
