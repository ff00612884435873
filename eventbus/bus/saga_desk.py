"""What operators do with sagas: look, start, and put right, each change in its journal."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from eventbus.errors import CommitUnknownError, SagaError
from eventbus.event import Event
from eventbus.inspection import Inspected, Selection
from eventbus.instrumentation import Instrumentation, count_unknown
from eventbus.message import NO_HEADERS
from eventbus.pubsub.unit_of_work import Publishing, refuse_if_held
from eventbus.saga.decision import Decision
from eventbus.saga.engine import Engine
from eventbus.saga.family import Family
from eventbus.saga.input import Verb
from eventbus.saga.instance import Plan, Stuck
from eventbus.saga.preview import preview
from eventbus.saga.transition import AllOrNone, Transition, write
from eventbus.storage import Transaction
from eventbus.storage.sagas import (
    ArmedTimer,
    InFlight,
    Journalled,
    SagaQuery,
    SagaRecord,
    SagaSummary,
    Status,
)

VerbName = Literal["retry", "skip", "resolve", "cancel", "compensate", "pause", "resume"]
TURNING_BACK: frozenset[VerbName] = frozenset({"cancel", "compensate"})
NO_ARGUMENTS: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One saga, whole."""

    saga: SagaRecord  # with its step log
    summary: SagaSummary
    timers: Sequence[ArmedTimer]
    journal: Sequence[Journalled]

    @property
    def plan(self) -> Plan | None:
        """The undos that were decided on."""
        return None if self.saga.plan is None else Plan.decoded(self.saga.plan)

    @property
    def stuck(self) -> Stuck | None:
        """Why it needs a person."""
        return None if self.saga.error is None else Stuck.decoded(self.saga.error)


class Sagas:
    """`bus.sagas`: of an entered bus, or one that is open as a client."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        storage: Inspected,
        publishing: Publishing,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self._engines = engines
        self._storage = storage
        self._publishing = publishing
        self._instrumentation = instrumentation

    @property
    def families(self) -> Mapping[str, Family]:
        """The sagas of the bus by name, with all their versions."""
        return {name: engine.family for name, engine in self._engines.items()}

    async def start(self, event: Event, *, headers: Mapping[str, str] = NO_HEADERS) -> UUID:
        """Start a saga by its event, without a broker; the id, also of one that runs already.

        Raises:
            SagaError: EB7066, no saga of this bus starts with it, or more than one does; or what
                the first transition says: nothing was started.
        """
        refuse_if_held("sagas.start")
        engine = self._starter(event)
        async with self._changing() as tx:
            (message,) = await self._publishing.events([event], headers, tx=tx)
            return await engine.start(message, tx)

    async def list(
        self, query: SagaQuery | None = None, *, limit: int = 100
    ) -> Sequence[SagaSummary]:
        """Those longest in their status first."""
        async with self._storage.transaction() as tx:
            return await tx.sagas.look(query or SagaQuery(), limit=limit)

    async def find(self, saga: str, key: str) -> SagaSummary | None:
        """The one of a business key; None: there is none."""
        found = await self.list(SagaQuery(saga=saga, key=key), limit=1)
        return found[0] if found else None

    async def show(self, saga_id: UUID) -> Shown:
        """One saga with its step log, timers and journal.

        Raises:
            SagaError: EB7067, there is none.
        """
        async with self._storage.transaction() as tx:
            return await shown(saga_id, tx)

    async def timers(self, *, due: bool = False, limit: int = 100) -> Sequence[ArmedTimer]:
        """What is armed, the next one first; `due`: what should have fired by now."""
        async with self._storage.transaction() as tx:
            return await tx.sagas.timers(due=due, limit=limit)

    async def in_flight(self) -> Sequence[InFlight]:
        """Open sagas by type, version, state, step and status."""
        async with self._storage.transaction() as tx:
            return await tx.sagas.in_flight()

    async def retry(self, saga_id: UUID, *, actor: str, reason: str = "") -> Status:
        """Send the current step, undo or failed input again, under its effect id."""
        return await self.change("retry", saga_id, actor=actor, reason=reason)

    async def _redrive(self, one: Transition, *, actor: str, reason: str) -> None:
        """The input that failed is a dead letter of the saga's group, or a held one."""
        error = None if one.record.error is None else Stuck.decoded(one.record.error)
        if error is None or error.reason != "input-failed":
            return
        message_id = error.what.removeprefix("message ").partition(": ")[0]
        letter = Selection(place="dead-letter", ids=(message_id,), group=one.family.name)
        inspection = self._storage.inspection
        if await inspection.find(letter, limit=1):
            await inspection.change("redrive", letter, actor=actor, reason=reason)

    async def skip(self, saga_id: UUID, *, actor: str, reason: str, reply: Any = None) -> Status:
        """The step or undo that it is stuck on counts as done, with this reply."""
        args = {} if reply is None else {"reply": reply}
        return await self.change("skip", saga_id, args, actor=actor, reason=reason)

    async def resolve(
        self,
        saga_id: UUID,
        *,
        step: str,
        done: bool,
        actor: str,
        reason: str = "",
        reply: Any = None,
    ) -> Status:
        """Say the truth about a step that is unknown, or an undo that failed."""
        args: dict[str, Any] = {"step": step, "as": "done" if done else "undone"}
        if reply is not None:
            args["reply"] = reply
        return await self.change("resolve", saga_id, args, actor=actor, reason=reason)

    async def cancel(self, saga_id: UUID, *, actor: str, reason: str = "") -> Status:
        """Turn back as soon as that is safe."""
        return await self.change("cancel", saga_id, actor=actor, reason=reason)

    async def compensate(self, saga_id: UUID, *, actor: str, reason: str = "") -> Status:
        """Begin to undo now."""
        return await self.change("compensate", saga_id, actor=actor, reason=reason)

    async def preview(self, saga_id: UUID) -> str:
        """What `compensate` would send now, in order, or why it would be refused.

        The same text is in the journal entry of `cancel` and `compensate`.

        Raises:
            SagaError: EB7067, there is no such saga, or its version is not here; EB7002, EB7004,
                its state cannot be read.
        """
        async with self._storage.transaction() as tx:
            return _preview(await self._locked(saga_id, tx))

    async def pause(self, saga_id: UUID, *, actor: str, reason: str = "") -> Status:
        """Inputs and timers wait."""
        return await self.change("pause", saga_id, actor=actor, reason=reason)

    async def resume(self, saga_id: UUID, *, actor: str, reason: str = "") -> Status:
        """Go on with what waited."""
        return await self.change("resume", saga_id, actor=actor, reason=reason)

    async def change(
        self,
        verb: VerbName,
        saga_id: UUID,
        args: Mapping[str, Any] = NO_ARGUMENTS,
        *,
        actor: str,
        reason: str = "",
        dry_run: bool = False,
    ) -> Status:
        """One transition in one transaction; actor, reason and arguments are in its journal.

        Returns:
            the status after it.

        Raises:
            SagaError: EB7067, there is no such saga, or its version is not here; EB7068, the verb
                is not allowed now, which the journal has as well; EB7069, its row cannot be read.
        """
        refuse_if_held(f"sagas.{verb}")
        try:
            async with self._changing() as tx:
                one = await self._locked(saga_id, tx)
                said = {"preview": _preview(one)} if verb in TURNING_BACK else {}
                fed = Verb(verb, {**args, **said}, actor, reason)
                async with AllOrNone(tx, [one]):
                    decision = await one.feed(fed)
                _roll_back_if(dry_run, one, decision)
                await write(tx, [one], self._engines[one.family.name].tools)
        except _DryRun as tried:
            one, decision = tried.one, tried.decision
        if decision is not None and (decision.ignored or "").startswith("refused: "):
            raise _refused(verb, one, str(decision.ignored).removeprefix("refused: "))
        if verb == "retry" and not dry_run:
            await self._redrive(one, actor=actor, reason=reason)
        return one.course.saga.status

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[Transaction]:
        """A transaction; that it has no answer is counted, and told to the caller."""
        try:
            async with self._storage.transaction() as tx:
                yield tx
        except CommitUnknownError as error:
            count_unknown(self._instrumentation, error, "saga", "raised")
            raise

    async def _locked(self, saga_id: UUID, tx: Transaction) -> Transition:
        for record in await tx.sagas.lock([saga_id]):
            engine = self._engines.get(record.saga)
            one = None if engine is None else engine.transition(record, tx)
            if one is None:
                what = f"this bus has no class of {record.saga} v{record.definition}"
                raise not_there(saga_id, "its rules stand in that class: --app", what)
            return one
        raise not_there(saga_id)

    def _starter(self, event: Event) -> Engine:
        starters = [
            engine
            for engine in self._engines.values()
            if any(route.starts for route in engine.family.routes.get(type(event), ()))
        ]
        if len(starters) == 1:
            return starters[0]
        names = ", ".join(engine.family.name for engine in starters)
        raise SagaError(
            "EB7066",
            f"{type(event).__name__} does not say which saga to start",
            where="bus.sagas.start",
            why=f"it starts {names}" if names else "no saga of this bus starts with it",
            next="publish it: each saga that it starts takes it"
            if names
            else "mark a method of the saga with @starts_on",
        )


def _preview(one: Transition) -> str:
    return preview(one.course.definition, one.course.saga, one.course.steps)


class _DryRun(Exception):  # noqa: N818 - it rolls back, and is no error
    def __init__(self, one: Transition, decision: Decision | None) -> None:
        self.one = one
        self.decision = decision


def _roll_back_if(dry_run: object, one: Transition, decision: Decision | None) -> None:
    if dry_run:
        raise _DryRun(one, decision)


async def shown(saga_id: UUID, tx: Transaction) -> Shown:
    """Read it whole; raises EB7067."""
    found = await tx.sagas.look(SagaQuery(ids=[saga_id]), limit=1)
    if not found:
        raise not_there(saga_id)
    (record,) = await tx.sagas.lock([saga_id])
    return Shown(
        saga=record,
        summary=found[0],
        timers=await tx.sagas.timers(ids=[saga_id], limit=1000),
        journal=await tx.sagas.journal(saga_id),
    )


def not_there(
    saga_id: UUID, why: str = "it never was, or was swept", what: str = "no such saga"
) -> SagaError:
    """EB7067: it, or the class that it goes by."""
    return SagaError(
        "EB7067", f"{what}: {saga_id}", where="bus.sagas", why=why, next="eventbus saga list"
    )


def _refused(verb: str, one: Transition, why: str) -> SagaError:
    return SagaError(
        "EB7068",
        f"{verb} is not allowed for saga {one.family.name} {one.record.key}",
        where=f"saga {one.record.saga_id}, status {one.course.saga.status}",
        why=why,
        next=f"eventbus saga show {one.record.saga_id}",
    )
