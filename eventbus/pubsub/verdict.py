"""One message in its savepoint, and what becomes of it: done, parked, a dead letter."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from random import Random

from eventbus.errors import CodecError, LimitError, StorageError
from eventbus.event import Untyped
from eventbus.handler import Effect, Group, Invocation, Reject, Retry
from eventbus.instrumentation import Instrumentation, count_unknown
from eventbus.pubsub.attempt import NO_DATA, Attempts, Decoded
from eventbus.pubsub.call import Call, cut
from eventbus.pubsub.gate import Circuit
from eventbus.pubsub.unit_of_work import HandlerContext, Publishing
from eventbus.pubsub.watchdog import Run
from eventbus.resilience.retry import Verdict, attempts_in_place, failure_of, told, verdict_of
from eventbus.storage import Transaction
from eventbus.storage.parking import Failure, Parked

log: logging.Logger = logging.getLogger("eventbus.pubsub")

MET_ANOTHER = "EB5011"  # a conflict or a deadlock: nothing is kept
_ITS_OWN = frozenset({"EB5003", "EB5005", "EB5009"})  # storage errors that a message causes


class ProcessKilledError(Exception):
    """A message whose attempts began and never ended: it may kill its process or connection."""


class OneOfThemError(Exception):
    """What was done for several messages failed: roll back, and try them one by one."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Verdicts:
    """Attempts a message of a group and says what becomes of it."""

    def __init__(
        self,
        group: Group,
        attempts: Attempts,
        publishing: Publishing,
        circuit: Circuit,
        *,
        random: Random,
        instrumentation: Instrumentation | None,
    ) -> None:
        self.group = group
        self.attempts = attempts
        self.last_attempt: int = len(group.retry.parked) + 1  # the next one is not made
        self._publishing = publishing
        self._circuit = circuit
        self._random = random
        self._instrumentation = instrumentation
        self._done = 0
        self._outcomes: Counter[tuple[str, str, str]] = Counter()

    @property
    def pauses(self) -> bool:
        """Whether the circuit opened: what has not started yet must not start now (B9)."""
        return self._circuit.state == "open"

    async def attempt(
        self, call: Call, tx: Transaction, run: Run, effect: Effect | Exception | None = None
    ) -> Parked | None:
        """All handlers of the message in one savepoint, again in place; None: done.

        Args:
            call: the message.
            tx: of the batch.
            run: of the lane.
            effect: what a command of a saga is about, if the batch has begun it, or why not.

        Raises:
            StorageError: our database is in trouble: that is no verdict on the message.
        """
        context = self.context(call, tx)
        context.effect = effect
        try:
            what = await self.decoded(call, tx)
            once = partial(self._in_savepoint, call, what, context, tx, run)
            await attempts_in_place(once, self.group.retry, may_retry=is_its_own)
        except Reject:
            pass  # rolled back; outside a saga nobody waits for the answer
        except Exception as error:  # the border where the user's code may fail in any way
            raise_if_not_its_own(error)
            return self.parked(call, error)
        finally:
            context.open = False
        self.count(call, "done")
        return None

    async def attempt_bare(self, call: Call, tx: Transaction, run: Run) -> None:
        """All handlers of the message, once, with no savepoint around them; counts nothing.

        Raises:
            Exception: whatever failed; what the transaction wrote is to be rolled back.
        """
        context = self.context(call, tx)
        try:
            what = await self.decoded(call, tx)
            await self.attempts.handle(call.route, what, call.message, context, run)
        finally:
            context.open = False

    async def _in_savepoint(
        self, call: Call, what: Decoded, context: HandlerContext, tx: Transaction, run: Run
    ) -> None:
        async with tx.savepoint():
            await self.attempts.handle(call.route, what, call.message, context, run)

    async def attempt_batch(
        self, calls: Sequence[Call], tx: Transaction, run: Run
    ) -> Sequence[Parked | None]:
        """All of them in one call of their batch handler, no savepoint around it; aligned.

        Raises:
            Exception: what was written is to be rolled back; the messages are to be tried one by
                one if one of them is to blame, `is_its_own`.
        """
        (handler,) = calls[0].route.handlers
        contexts = [self.context(call, tx) for call in calls]
        try:
            whats = [Untyped(call.message.type, NO_DATA) for call in calls]
            failures = await self.attempts.call_batch(handler, whats, contexts, run)
        finally:
            for context in contexts:
                context.open = False
        verdicts: list[Parked | None] = []
        for call, failure in zip(calls, failures, strict=True):
            if failure is None:
                self.count(call, "done")
            verdicts.append(None if failure is None else self.parked(call, failure))
        return verdicts

    async def buried(self, call: Call, parked: Parked, tx: Transaction) -> None:
        """A batch handler hears of its dead letters in the transaction that makes them."""
        if parked.delay is None and parked.failure is not None:
            await self._tell(call, tx, discarded=False)

    async def discarded(self, call: Call, tx: Transaction) -> None:
        """And of those that an operator drops, in the transaction in which they go."""
        await self._tell(call, tx, discarded=True)

    async def _tell(self, call: Call, tx: Transaction, *, discarded: bool) -> None:
        handler = call.route.batches
        if handler is None:
            return
        context = self.context(call, tx)
        try:
            what = Untyped(call.message.type, NO_DATA)
            invocation = Invocation(call.route.handlers[0].call, what, context)
            await handler.gave_up(invocation, tx, discarded=discarded)
        finally:
            context.open = False

    async def attempt_outside(self, call: Call, context: HandlerContext, run: Run) -> Parked | None:
        """With no transaction open; what it published stands in the context, for the one after."""

        async def once() -> None:
            context.messages.clear()
            await self.attempts.handle(call.route, what, call.message, context, run)

        claimed = False
        try:
            what = await self.decoded(call, None)
            context.effect = await self.attempts.participant.claim(call.route, call.message)
            claimed = True
            await attempts_in_place(once, self.group.retry, may_retry=is_its_own)
        except Reject:
            context.messages.clear()
        except Exception as error:  # the border where the user's code may fail in any way
            context.messages.clear()
            if not claimed:
                raise_if_not_its_own(error)
            return self.parked(call, error)
        finally:
            context.open = False
        self.count(call, "done")
        return None

    async def record_outside(
        self, context: HandlerContext, parked: Parked | None, tx: Transaction
    ) -> None:
        """What was published outside a transaction, and what became of the effect, if any."""
        for message, delay in context.messages:
            await tx.outbox.add([message], delay=delay)
        dead = parked is not None and parked.failure is not None and parked.delay is None
        effect = context.effect if isinstance(context.effect, Effect) else None
        await self.attempts.participant.settle(effect, tx, failed=parked is not None, dead=dead)

    async def decoded(self, call: Call, tx: Transaction | None) -> Decoded:
        """What the handlers get.

        Raises:
            CodecError: quarantine it.
        """
        if call.wrong is not None:
            raise call.wrong
        call.opening = await self.attempts.opening(call.message, call.route, tx)
        return self.attempts.decode(call.message, call.route, call.opening)

    def context(self, call: Call, tx: Transaction | None) -> HandlerContext:
        """The context of a message, over a transaction or a buffer."""
        return HandlerContext(
            self._publishing, tx, call.message, group=self.group.name, attempt=call.attempt
        )

    def parked(self, call: Call, error: Exception) -> Parked:
        """Where a failed message goes, by the policy of the group."""
        verdict = verdict_of(error, self.group.retry, call.attempt, self._random)
        self._note_failure(call, error, verdict.reason, verdict.code, dead=verdict.delay is None)
        hidden = () if call.opening is None else call.opening.texts
        failure = failure_of(error, verdict, hidden=hidden)
        uncounted = isinstance(error, Retry) and not error.counted
        _log_failure(call, self.group, verdict, failure)
        return Parked(
            message=cut(call.message) if isinstance(error, LimitError) else call.message,
            key=call.key,
            attempts=call.attempt - uncounted,
            delay=verdict.delay,
            origin=call.origin,
            failure=failure,
        )

    def killed(self, call: Call) -> Parked:
        """A dead letter, not started: its attempts are used up by processes that died in them."""
        return self.parked(
            call,
            ProcessKilledError(
                f"{call.attempt - 1} attempts began and did not end: it may kill its process,"
                " or its connection to the database"
            ),
        )

    def as_wished(self, call: Call, buried: Parked, code: str) -> Parked:
        """A dead letter, not started: an operator buried it."""
        self.count(call, "dead")
        self._count_dead(call, code)
        return replace(buried, delay=None)

    def count(self, call: Call, outcome: str) -> None:
        """One more of an outcome; reported with the batch."""
        if outcome == "done":
            self._done += 1
        if self._instrumentation is not None:
            for handler in call.route.handlers:
                self._outcomes[handler.name, _type_label(call), outcome] += 1

    def redriven(self, outcomes: Sequence[str]) -> None:
        """Tell what became of parked messages, once that stands."""
        if self._instrumentation is not None:
            for outcome, amount in Counter(outcomes).items():
                self._instrumentation.count(
                    "redriven_total", amount, group=self.group.name, outcome=outcome
                )

    @contextmanager
    def running_again(self, operation: str) -> Iterator[None]:
        """Count a transaction that met another one, or has no answer: whoever ran it repeats it."""
        try:
            yield
        except StorageError as error:
            if error.code == MET_ANOTHER and self._instrumentation is not None:
                self._instrumentation.count("storage_conflicts_total", operation=operation)
            count_unknown(self._instrumentation, error, operation, "repeated")
            raise

    def report(self) -> None:
        """Tell circuit and instrumentation what the batch came to."""
        if self._done:
            self._circuit.record(ok=True, calls=self._done)
            self._done = 0
        if self._instrumentation is not None:
            report_outcomes(self._instrumentation, self.group, self._outcomes)

    def _note_failure(
        self, call: Call, error: Exception, reason: str, code: str, *, dead: bool
    ) -> None:
        outcome = "quarantined" if isinstance(error, CodecError) else "dead" if dead else "parked"
        self.count(call, outcome)
        if reason in {"failed", "exhausted"} and not isinstance(error, Retry):
            self._circuit.record(ok=False)
        if dead:
            self._count_dead(call, code)

    def _count_dead(self, call: Call, code: str) -> None:
        if self._instrumentation is not None:
            self._instrumentation.count(
                "dead_lettered_total",
                group=self.group.name,
                event_type=_type_label(call),
                error=code,
            )


def report_outcomes(
    instrumentation: Instrumentation, group: Group, outcomes: Counter[tuple[str, str, str]]
) -> None:
    """Tell how often handler, type and outcome met, and start anew."""
    for (handler, event_type, outcome), amount in outcomes.items():
        instrumentation.count(
            "handled_total",
            amount,
            group=group.name,
            handler=handler,
            event_type=event_type,
            outcome=outcome,
        )
    outcomes.clear()


def is_its_own(error: Exception) -> bool:
    """Whether a message is to blame for an error: never for our database being away."""
    return not isinstance(error, StorageError) or error.code in _ITS_OWN


def raise_if_not_its_own(error: Exception) -> None:
    """Let through what is no verdict on a message."""
    if not is_its_own(error):
        raise error


@contextmanager
def one_of_them() -> Iterator[None]:
    """Raise OneOfThemError for what one message of several is to blame for."""
    try:
        yield
    except Exception as error:  # the border where the user's code may fail in any way
        raise_if_not_its_own(error)
        raise OneOfThemError(error) from error


def _log_failure(call: Call, group: Group, verdict: Verdict, failure: Failure) -> None:
    """WARNING for what is tried again, ERROR for a dead letter; never a payload."""
    message = call.message
    dead = verdict.delay is None
    log.log(
        logging.ERROR if dead else logging.WARNING,
        "group %s: %s %s: %s",
        group.name,
        message.id,
        "is a dead letter" if dead else f"is parked for {verdict.delay}",
        told(failure),
        extra={
            "eventbus": {
                "event_id": message.id,
                "event_type": message.type,
                "topic": message.topic,
                "group": group.name,
                "attempt": call.attempt,
                "correlation_id": message.headers.get("correlationid"),
                "code": failure.code,
            }
        },
    )


def _type_label(call: Call) -> str:
    return call.message.type if call.route.handlers else "unregistered"
