"""Groups without a storage: bounded retries, then a confirmed publish to the dead-letter topic."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from random import Random

from eventbus.errors import CodecError
from eventbus.handler import Group, Reject
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.pubsub.attempt import Attempts, Decoded
from eventbus.pubsub.call import cut, oversized, unreadable
from eventbus.pubsub.gate import Circuit
from eventbus.pubsub.routes import Route, Routes
from eventbus.pubsub.unit_of_work import HandlerContext, Holding, Publishing, held
from eventbus.pubsub.verdict import report_outcomes
from eventbus.pubsub.watchdog import Run
from eventbus.resilience.retry import Verdict, again_in_place, failure_of, verdict_of
from eventbus.service import pause
from eventbus.transport import REDRIVEN_TO, Delivery, Transport, dead_topic

log: logging.Logger = logging.getLogger("eventbus.pubsub")
LONGEST_WAIT_SECONDS = 5.0  # only the lane waits, but it waits
BLOCKED_WAIT_SECONDS = 60.0


class Unstored:
    """The handlers of a group on a bus without a storage: at least once, order kept by waiting."""

    def __init__(
        self,
        routes: Routes,
        attempts: Attempts,
        publishing: Publishing,
        transport: Transport,
        circuit: Circuit,
        *,
        scheme: str,
        random: Random,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.group: Group = routes.group
        self.blocked: int = 0  # messages that are retried for ever, by on_give_up="block"
        self._routes = routes
        self._attempts = attempts
        self._publishing = publishing
        self._transport = transport
        self._circuit = circuit
        self._scheme = scheme
        self._random = random
        self._instrumentation = instrumentation
        self._done = 0
        self._outcomes: Counter[tuple[str, str, str]] = Counter()
        self._max_body = transport.capabilities.max_body
        self._filters_types = transport.capabilities.filters_types

    async def run(self, batch: Sequence[Delivery], run: Run, stop: asyncio.Event) -> int:
        """Handle a lane's batch; how many deliveries, from the first, now have their verdict."""
        holding = Holding()
        token = held.set(holding)
        started = 0
        try:
            for delivery in batch:
                if delivery.lost or (started and stop.is_set()):
                    break
                message = delivery.message
                route = self._routes.of(message.type)
                if REDRIVEN_TO in message.headers and self._is_for_others(message):
                    self._count(delivery, "duplicate")
                elif route.handlers or delivery.malformed or self._filters_types:
                    error = run.blamed or await self._attempt(delivery, route, 1, run)
                    if error is not None and not await self._failed(
                        delivery, route, error, run, stop
                    ):
                        break
                    if error is None:
                        self._done += 1
                        self._count(delivery, "done")
                started += 1
        finally:
            holding.open = False
            held.reset(token)
            self._report(len(batch))
        return started

    def _is_for_others(self, message: Message) -> bool:
        """Redriven for a group that gave it up: this one, which has no inbox, has had it."""
        return message.headers[REDRIVEN_TO] != self.group.name

    async def _failed(
        self,
        delivery: Delivery,
        route: Route,
        first: Exception,
        run: Run,
        stop: asyncio.Event,
    ) -> bool:
        """Try again until it is done or a dead letter; False: the bus stops first."""
        error: Exception | None = first
        attempt, first_at = 1, datetime.now(UTC)
        if run.blamed is not None:  # it left a task behind, and is not started again
            attempt = len(self.group.retry.parked) + 1
        while error is not None:
            verdict = verdict_of(error, self.group.retry, attempt, self._random)
            blocks = self.group.on_give_up == "block" and not isinstance(error, CodecError)
            if verdict.delay is None and not blocks:
                await self._bury(delivery, attempt, error, verdict, first_at)
                return True
            self._circuit.record(ok=False)
            self._count(delivery, "retried")
            if not await self._wait(delivery, attempt, error, verdict, stop):
                return False
            attempt += 1
            error = await self._attempt(delivery, route, attempt, run)
        self._count(delivery, "done")
        return True

    async def _attempt(
        self, delivery: Delivery, route: Route, attempt: int, run: Run
    ) -> Exception | None:
        message = delivery.message
        context = None
        if self._attempts.needs_context(route):
            context = self._context(message, attempt)
        try:
            if delivery.malformed is not None or len(message.payload) > self._max_body:
                self._refuse(delivery)
            what = self._attempts.decode(message, route)
            try:
                await self._attempts.handle(route, what, message, context, run)
            except Exception as first:  # the border where the user's code may fail in any way
                again = partial(self._again, message, route, what, context, run)
                await again_in_place(again, self.group.retry, first, may_retry=lambda error: True)
        except Reject:
            return None
        except Exception as error:  # the same border
            return error
        finally:
            if context is not None:
                context.open = False
        if context is not None and context.messages:
            await self._transport.publish([each for each, _ in context.messages])
        return None

    async def _again(
        self,
        message: Message,
        route: Route,
        what: Decoded,
        context: HandlerContext | None,
        run: Run,
    ) -> None:
        if context is not None:
            context.messages.clear()
        await self._attempts.handle(route, what, message, context, run)

    def _context(self, message: Message, attempt: int) -> HandlerContext:
        return HandlerContext(
            self._publishing, None, message, group=self.group.name, attempt=attempt, delays=False
        )

    def _refuse(self, delivery: Delivery) -> None:
        if delivery.malformed is not None:
            raise unreadable(delivery.message, delivery.malformed)
        raise oversized(delivery.message, self._max_body)

    async def _wait(
        self,
        delivery: Delivery,
        attempt: int,
        error: Exception,
        verdict: Verdict,
        stop: asyncio.Event,
    ) -> bool:
        """The lane waits, so that the order of the key is kept; False: the bus stops."""
        blocked = verdict.delay is None
        seconds = (
            min(BLOCKED_WAIT_SECONDS, 2.0 ** min(attempt, 6))
            if verdict.delay is None
            else min(LONGEST_WAIT_SECONDS, verdict.delay.total_seconds())
        )
        self.blocked += blocked
        log.warning("group %s: again in %.1f s: %r", self.group.name, seconds, error)
        try:
            return not await pause(stop, seconds) and not delivery.lost
        finally:
            self.blocked -= blocked

    async def _bury(
        self,
        delivery: Delivery,
        attempt: int,
        error: Exception,
        verdict: Verdict,
        first_at: datetime,
    ) -> None:
        """Confirmed before the acknowledgement: a crash in between gives a second, never none."""
        message = delivery.message
        failure = failure_of(error, verdict)
        facts = {
            "group": self.group.name,
            "reason": failure.reason,
            "attempts": str(attempt),
            "error-code": failure.code,
            "error-type": failure.type,
            "error-message": failure.text[:1024],
            "fingerprint": failure.fingerprint,
            "origin": f"{self._scheme}:{delivery.partition}/{delivery.offset}",
            "first-failed-at": _text(first_at),
            "at": _text(datetime.now(UTC)),
        }
        too_large = len(message.payload) > self._max_body
        letter = Message(
            id=message.id,
            type=message.type,
            source=message.source,
            topic=dead_topic(message.topic, self.group.name),
            payload=cut(message).payload if too_large else message.payload,
            key=message.key,
            headers={
                **message.headers,
                **{f"native:eventbus-dead-{name}": value for name, value in facts.items()},
            },
        )
        await self._transport.publish([letter])
        log.error("group %s: %s is a dead letter: %r", self.group.name, message.id, error)
        self._count(delivery, "quarantined" if failure.reason == "quarantined" else "dead")

    def _count(self, delivery: Delivery, outcome: str) -> None:
        if self._instrumentation is not None:
            message_type = delivery.message.type
            for handler in self._routes.of(message_type).handlers:
                self._outcomes[handler.name, message_type, outcome] += 1

    def _report(self, messages: int) -> None:
        if self._done:
            self._circuit.record(ok=True, calls=self._done)
            self._done = 0
        if self._instrumentation is not None:
            self._instrumentation.observe("batch_messages", float(messages), group=self.group.name)
            report_outcomes(self._instrumentation, self.group, self._outcomes)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
