"""One locked saga in one transaction: what is fed to it, and what comes of that."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from time import time
from types import TracebackType
from uuid import UUID

from eventbus.errors import ConcurrencyError, StorageError
from eventbus.handler import Reject
from eventbus.message import Message, sent_at
from eventbus.saga.course import Course
from eventbus.saga.course import Mark as CourseMark
from eventbus.saga.decision import Decision, Key, LocalRun
from eventbus.saga.family import Family
from eventbus.saga.handover import Handover
from eventbus.saga.incoming import input_of
from eventbus.saga.input import GaveUp, Input, LocalDone, Replied, Started
from eventbus.saga.outgoing import Sender, Tools
from eventbus.saga.tenancy import with_tenant
from eventbus.saga.work import run_local
from eventbus.storage import Transaction
from eventbus.storage.sagas import HELD, Arm, Correlation, SagaChange, SagaRecord, Stashed

JITTER = 0.1  # of the wait of what is tried again
_TRIED_AGAIN = ("undo:", "resolve:")  # timers
_UNDOS = {"succeeded": "undone", "failed": "failed", "rejected": "failed", "skipped": "skipped"}
_IGNORED = frozenset({"late", "duplicate", "stray"})
_AUTHORS = frozenset({"EB5003", "EB5005", "EB5009"})  # storage errors that an author's SQL causes


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a transition stood."""

    course: CourseMark
    messages: int
    stashed: tuple[Stashed, ...]
    correlations: int
    drained: int


class Transition:
    """Feeds a saga; `write` then writes it beside others."""

    def __init__(
        self, family: Family, course: Course, record: SagaRecord, tools: Tools, tx: Transaction
    ) -> None:
        self.course: Course = course
        self.family = family
        self.record = record
        self.messages: list[Message] = []
        self.stashed: list[Stashed] = []
        self._correlations: list[Correlation] = []
        self._drained: list[Stashed] = []
        self._tools = tools
        self._tx = tx
        self._sender = Sender(
            tools,
            tx,
            family.name,
            record.saga_id,
            record.key,
            course.definition.version,
            family.replies,
        )

    @property
    def business_key(self) -> Correlation:
        """By which events find it."""
        return Correlation(self.family.name, "", self.record.key)

    @property
    def _held(self) -> Correlation:
        """Under which it holds what it cannot take now."""
        return Correlation(self.family.name, HELD, str(self.record.saga_id))

    @property
    def is_closed(self) -> bool:
        """Whether inputs wait: it is paused, or one of them failed and a person must look."""
        saga = self.course.saga
        return saga.paused or (saga.error is not None and saga.error.reason == "input-failed")

    async def offer(self, message: Message) -> None:
        """An answer or an event that found it: fed, or held until the saga can take it.

        Raises:
            Exception: what the message is to be parked with; undo what was done for it.
        """
        if self.is_closed:
            self._hold(message)
        else:
            await self._take(input_of(message, self.course, self._tools), message)

    async def start(self, input: Started, message: Message, early: Sequence[Stashed]) -> None:
        """The event that starts it, then what came before it, taken out of the stash."""
        self._drained += early
        await self._take(input, message)
        await self._offer_again(early)

    async def feed(self, input: Input, cause: Message | None = None) -> Decision | None:
        """What is no message; the decision, None if the input was gone."""
        decision = self.course.feed(input)
        if decision is None:
            return None
        await self._note(decision, cause)
        drain = decision.drain
        latest: Decision | None = decision
        while latest is not None and latest.local_runs:
            done = await self._run(latest.local_runs[0], cause)
            latest = self.course.feed(done)
            if latest is not None:
                await self._note(latest, cause)
                drain = drain or latest.drain
        if drain:
            await self._drain_held()
        return decision

    async def take_over(self) -> None:
        """Offer what a worker without its version kept for it."""
        await self._drain_held()

    async def drain(self, keys: Collection[Correlation]) -> None:
        """Offer what waited by these keys, which are locked or its own."""
        waiting = list(await self._tx.sagas.drain(keys))
        self._drained += waiting
        await self._offer_again(waiting)

    async def _offer_again(self, waiting: Sequence[Stashed]) -> None:
        """One that fails makes it stuck, and waits on."""
        for each in waiting:
            try:
                async with AllOrNone(self._tx, [self]):
                    await self.offer(each.message)
            except Exception as error:  # the border where the author's code may fail in any way
                raise_if_ours(error)
                await self.feed(GaveUp(each.message.id, f"{type(error).__name__}: {error}"))
                self._hold(each.message)

    def change(self) -> SagaChange:
        """All of it as one write."""
        change = self.course.change(
            worker=self._tools.worker, correlations=tuple(dict.fromkeys(self._correlations))
        )
        if not any(arm.name.startswith(_TRIED_AGAIN) for arm in change.arm):
            return change
        return replace(change, arm=tuple(self._jittered(arm) for arm in change.arm))

    def mark(self) -> Mark | None:
        """Where it stands, for `back`; None: nothing was fed to it yet, as nearly always."""
        if not self.course.touched and not (self.stashed or self._drained):
            return None
        return Mark(
            self.course.mark(),
            len(self.messages),
            tuple(self.stashed),
            len(self._correlations),
            len(self._drained),
        )

    def back(self, mark: Mark | None) -> None:
        """Forget what came since then; what was taken out of the stash goes back."""
        if mark is None:
            self.course = Course(self.course.definition, self.record)
            self.messages, self._correlations = [], []
            self.stashed, self._drained = self._drained, []
            return
        self.course.back(mark.course)
        del self.messages[mark.messages :]
        del self._correlations[mark.correlations :]
        self.stashed = [*mark.stashed, *self._drained[mark.drained :]]
        del self._drained[mark.drained :]

    @property
    def undone(self) -> Iterator[tuple[str, str]]:
        """Undos that ended in what was fed: the step, and "undone" or "failed"."""
        before = {(row.seq, row.phase): row.status for row in self.record.steps}
        for row in self.course.steps:
            outcome = _UNDOS.get(row.status) if row.phase == "undo" else None
            if outcome is not None and before.get((row.seq, row.phase)) != row.status:
                yield row.name, outcome

    async def _take(self, input: Input, message: Message) -> None:
        decision = await self.feed(input, message)
        if isinstance(input, Replied) and decision is not None and decision.ignored is None:
            self._clock(input.effect_id, message)
        if decision is not None and decision.ignored == "held":
            self._hold(message)

    def _clock(self, effect_id: UUID, answer: Message) -> None:
        """From the command, whose id has its time, to the answer; by the clocks of workers."""
        if self._tools.instrumentation is None:
            return
        sent = sent_at(answer.headers.get("causationid", ""))
        names = [row.name for row in self.course.steps if row.effect_id == effect_id]
        if sent is not None and names:
            seconds = max(0.0, time() - sent)
            self._tools.observe(
                "saga_step_duration_seconds", seconds, saga=self.family.name, step=names[0]
            )

    def _hold(self, message: Message) -> None:
        self.stashed.append(Stashed(key=self._held, message=message, ttl=None))

    async def _drain_held(self) -> None:
        """Under the lock of the saga nobody else holds anything for it."""
        waiting, self.stashed = self.stashed, []
        await self.drain([self._held])
        await self._offer_again(waiting)

    async def _run(self, run: LocalRun, cause: Message | None) -> LocalDone:
        try:
            async with self._tx.savepoint():
                with self._tools.unit(self._tx, cause) as unit:
                    data = await run_local(self.course.definition, run, unit)
        except Reject as no:
            return LocalDone(run.effect_id, "rejected", reply=no.rejection)
        return LocalDone(run.effect_id, "succeeded", data)

    async def _note(self, decision: Decision, cause: Message | None) -> None:
        sender = self._sender
        self.messages += [await sender.command(send, cause) for send in decision.commands]
        self.messages += [await sender.event(event, cause) for event in decision.events]
        if decision.correlations:
            self._correlations += [self._correlation(key) for key in decision.correlations]
            self.messages.append(await sender.reminder(decision.correlations, cause))
        if decision.ignored in _IGNORED:
            outcome = decision.ignored
            self._tools.count("saga_ignored_inputs_total", saga=self.family.name, outcome=outcome)

    def _correlation(self, key: Key) -> Correlation:
        value = with_tenant(self._sender.tenant, key.value)
        return Correlation(self.family.name, key.name, value)

    def _jittered(self, arm: Arm) -> Arm:
        """What is tried again must not be tried by all sagas at once."""
        if not arm.name.startswith(_TRIED_AGAIN):
            return arm
        return replace(arm, delay=arm.delay * (1 + JITTER * self._tools.random.random()))


async def write(
    tx: Transaction,
    transitions: Sequence[Transition],
    tools: Tools,
    handovers: Sequence[Handover] = (),
) -> None:
    """All of them: rows, what is held or handed over, then what goes out.

    Raises:
        StorageError: nothing was written, roll back.
    """
    changed = [each for each in transitions if each.course.changed]
    changes = [each.change() for each in changed]
    changes += [each.change(worker=tools.worker) for each in handovers if each.changed]
    if changes:
        try:
            await tx.sagas.save(changes)
        except ConcurrencyError:  # a path left out the lock: a bug of ours
            name = transitions[0].family.name if transitions else handovers[0].saga
            tools.count("saga_tripwire_total", saga=name)
            raise
    stashed = [one for each in transitions for one in each.stashed]
    stashed += [one for each in handovers for one in each.stashed]
    if stashed:
        await tx.sagas.stash(stashed)
    messages = [message for each in transitions for message in each.messages]
    if messages:
        await tx.outbox.add(messages)
    for each in changed:
        if each.course.saga.status != each.record.status or not each.record.version:
            status = each.course.saga.status
            tools.count("saga_transitions_total", saga=each.family.name, status=status)
        for step, outcome in each.undone:
            tools.count(
                "saga_compensations_total", saga=each.family.name, step=step, outcome=outcome
            )


class AllOrNone(AbstractAsyncContextManager[None]):
    """If the block raises, forget what it fed; authors' SQL is rolled back too."""

    def __init__(self, tx: Transaction, transitions: Sequence[Transition]) -> None:
        self._transitions = transitions
        run_sql = any(each.course.definition.has_local_steps for each in transitions)
        self._block = tx.savepoint() if run_sql else None

    async def __aenter__(self) -> None:
        self._marks = [each.mark() for each in self._transitions]
        if self._block is not None:
            await self._block.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            for each, mark in zip(self._transitions, self._marks, strict=True):
                each.back(mark)
        if self._block is not None:
            await self._block.__aexit__(kind, error, trace)


def raise_if_ours(error: Exception) -> None:
    """Our database being in trouble is no failure of an input."""
    if isinstance(error, StorageError) and error.code not in _AUTHORS:
        raise error
