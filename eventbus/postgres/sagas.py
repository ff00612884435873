"""Sagas: many at once, in one lock order: keys, then instances by id, then everything else."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from eventbus.postgres import (
    saga_calls,
    saga_effects,
    saga_instances,
    saga_reading,
    saga_save,
    saga_stash,
    saga_sweep,
    saga_timers,
)
from eventbus.postgres.parking import PostgresParking
from eventbus.postgres.session import Session
from eventbus.storage.parking import Parked
from eventbus.storage.saga_verdicts import expired
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


class PostgresSagas:
    """A saga that is locked stays so until its transaction ends; READ COMMITTED."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def register(self, definitions: Sequence[DefinitionRow]) -> None:
        """Remember versions.

        Raises:
            ConfigurationError: EB7031, a known version with another digest; nothing was written.
        """
        await saga_instances.register(self._session, definitions)

    async def find(self, keys: Collection[Correlation]) -> dict[Correlation, UUID]:
        """The sagas of the keys that have one."""
        return await saga_instances.find(self._session, keys)

    async def lock_keys(self, keys: Collection[Correlation]) -> None:
        """Advisory locks to the end of the transaction; then look again."""
        await saga_instances.lock_keys(self._session, keys)

    async def start(self, starts: Sequence[SagaStart]) -> frozenset[UUID]:
        """Insert; the ids that are new."""
        return await saga_instances.start(self._session, starts)

    async def lock(self, ids: Collection[UUID]) -> Sequence[SagaRecord]:
        """Rows by id, then their steps."""
        return await saga_instances.lock(self._session, ids)

    async def lock_due(
        self, definitions: Collection[tuple[str, int]], *, limit: int
    ) -> Sequence[SagaRecord]:
        """Idle sagas with due timers, which are deleted."""
        return await saga_timers.lock_due(self._session, definitions, limit=limit)

    async def next_due(self, definitions: Collection[tuple[str, int]]) -> timedelta | None:
        """How long until a timer is due; None if none is armed."""
        return await saga_timers.next_due(self._session, definitions)

    async def save(self, changes: Sequence[SagaChange]) -> None:
        """Write transitions, all or none.

        Raises:
            ConcurrencyError: EB7030, some are not at `was`; nothing was written.
        """
        await saga_save.save(self._session, changes)

    async def stash(self, inputs: Sequence[Stashed]) -> None:
        """Keep inputs that have no saga yet."""
        await saga_stash.stash(self._session, inputs)

    async def drain(self, keys: Collection[Correlation]) -> Sequence[Stashed]:
        """Delete and return, in the order of arrival."""
        return await saga_stash.drain(self._session, keys)

    async def claim_calls(
        self, definitions: Collection[tuple[str, int]], *, owner: str, ttl: timedelta, limit: int
    ) -> Sequence[Call]:
        """Take calls that are free or whose lease ended."""
        return await saga_calls.claim(self._session, definitions, owner=owner, ttl=ttl, limit=limit)

    async def renew_calls(self, calls: Sequence[Call], *, ttl: timedelta) -> Sequence[Call]:
        """Extend; those still ours."""
        return await saga_calls.renew(self._session, calls, ttl=ttl)

    async def finish_calls(self, calls: Sequence[Call]) -> Sequence[Call]:
        """Delete those still ours."""
        return await saga_calls.finish(self._session, calls)

    async def begin_effect(self, effects: Sequence[EffectStart]) -> Sequence[EffectRow]:
        """Insert or take over, else what stands, locked; aligned with `effects`."""
        return await saga_effects.begin(self._session, effects)

    async def forget_effect(self, ids: Collection[UUID]) -> None:
        """Delete rows that this transaction has made."""
        await saga_effects.forget(self._session, ids)

    async def finish_effect(self, effects: Sequence[EffectEnd]) -> None:
        """Store outcomes.

        Raises:
            ConcurrencyError: EB7033, some are not ours to end; nothing was written.
        """
        await saga_effects.finish(self._session, effects)

    async def sweep(self, *, older_than: timedelta, limit: int) -> int:
        """Forget at most `limit` of each kind; expired inputs become dead letters."""
        forgotten = await saga_sweep.sagas(self._session, older_than, limit)
        forgotten += await saga_sweep.effects(self._session, older_than, limit)
        late = await saga_stash.expire(self._session, limit)
        groups: defaultdict[str, list[Parked]] = defaultdict(list)
        for one in late:
            groups[one.key.saga].append(expired(one))
        for group in sorted(groups):
            await PostgresParking(self._session).park(groups[group], group=group)
        return forgotten + len(late)

    async def look(self, query: SagaQuery, *, limit: int) -> Sequence[SagaSummary]:
        """Those longest in their status first."""
        return await saga_reading.look(self._session, query, limit=limit)

    async def timers(
        self, *, ids: Collection[UUID] = (), due: bool = False, limit: int
    ) -> Sequence[ArmedTimer]:
        """What is armed, the next one first."""
        return await saga_reading.timers(self._session, ids, due=due, limit=limit)

    async def journal(self, saga_id: UUID) -> Sequence[Journalled]:
        """All transitions of a saga, in order."""
        return await saga_reading.journal(self._session, saga_id)

    async def in_flight(self) -> Sequence[InFlight]:
        """Open sagas by type, version, state, step and status."""
        return await saga_reading.in_flight(self._session)
