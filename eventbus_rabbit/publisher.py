"""Publishing: confirms in a window, returns, one socket write per batch, a deadline per call."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from aiormq.abc import AbstractConnection as Wire

from eventbus.errors import (
    NotSent,
    PublishError,
    PublishResult,
    PublishUnknownError,
    Rejected,
    Unknown,
)
from eventbus.message import Message
from eventbus.service import end
from eventbus_rabbit.config import RabbitConfig
from eventbus_rabbit.connection import Backoff, Link, close_channel
from eventbus_rabbit.errors import FORBIDDEN, BrokenError, RefusedError, guarded
from eventbus_rabbit.flight import CONFIRMED, NOT_SENT, TOO_LARGE, UNKNOWN, Call, Item, Lane
from eventbus_rabbit.mapping import DEAD, is_among
from eventbus_rabbit.topology import Exchange, declare_exchange, declare_queue, letters
from eventbus_rabbit.writing import Write, proven, write_batch, write_singly

log: logging.Logger = logging.getLogger("eventbus.rabbit")

WATCH_SECONDS = 0.25
BATCH_BYTES = 4 << 20


class Publisher:
    """One task writes for all calls: what comes while a write drains goes with the next one."""

    def __init__(self, config: RabbitConfig, link: Link, known: set[str]) -> None:
        self.blocked = False  # the broker takes nothing: an alarm
        self.silent = False  # it confirmed nothing in time, and nothing since
        self._config = config
        self._link = link
        self._seconds = config.publish_timeout.total_seconds()
        self._pending = deque[Item]()
        self._wake = asyncio.Event()
        self._calls: dict[Call, None] = {}  # by deadline
        self._watching: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._wire: Wire | None = None
        self._missing: dict[str, tuple[str, str]] = {}  # what is not, by address
        self._known = known  # exchanges and dead letter queues that were declared lately
        self._write: Write = write_singly
        self._lanes: Sequence[Lane] = ()
        self._up = asyncio.Event()

    @property
    def trouble(self) -> str | None:
        """Why nothing can be published though there is a connection."""
        if self.blocked:
            return "the broker blocks publishers: memory or disk alarm"
        return "the broker does not confirm what is published" if self.silent else None

    async def open(self) -> None:
        """Start; the channels are there when this returns.

        Raises:
            BrokenError: the connection was lost meanwhile.
            RefusedError: the broker refused.
        """
        self._write = write_batch if await proven(self._link) else write_singly
        self._sender = asyncio.create_task(self._keep_sending(), name="rabbit:sender")
        await guarded(self._up.wait(), self._seconds)

    async def close(self, seconds: float) -> None:
        """Let accepted calls end, so long; then they end as their deadlines would have it."""
        if self._sender is None:
            return
        if calls := [call.done for call in self._calls]:
            await asyncio.wait(calls, timeout=seconds)
        for call in list(self._calls):
            self._expire(call)
        sender, self._sender = self._sender, None
        await end([sender])
        if self._watching is not None:
            self._watching.cancel()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when each is confirmed, and was routed.

        Raises:
            PublishError: EB2101, EB2102, EB2106; `PublishUnknownError` EB2104.
        """
        loop = asyncio.get_running_loop()
        call = Call(len(messages), loop.time() + self._seconds, loop.create_future())
        unrouted = self._config.allow_unrouted
        for place, message in enumerate(messages):
            if (reason := self._unfit(message)) is not None:
                call.settle(place, Rejected(reason))
                continue
            mandatory = not unrouted or not is_among(message.type, unrouted)
            try:
                self._accept(Item(call, place, message, mandatory))
            except (ValueError, UnicodeError) as error:  # a name longer than AMQP allows
                call.settle(place, Rejected(str(error)))
        if call.left:
            self._wake.set()
            self._watch(call)
            try:
                await call.done
            finally:
                self._calls.pop(call, None)
                if call.left:
                    await self._abandon(call)
        if any(result is not CONFIRMED for result in call.results):
            raise self._error(messages, [each or UNKNOWN for each in call.results])
        self.silent = False

    def _accept(self, item: Item) -> None:
        self._pending.append(item)
        if item.target not in self._known:
            self._missing[item.target] = item.address

    async def _abandon(self, call: Call) -> None:
        """Cancelled: what is not written yet never will be, nobody waits for the rest."""
        call.broken = True
        slow = [(item, item.task) for item in self._written(call) if item.task is not None]
        await end([task for _, task in slow])
        for item, _ in slow:
            item.lose()

    def _written(self, call: Call) -> list[Item]:
        return [item for lane in self._lanes for item in lane.open.values() if item.call is call]

    def _unfit(self, message: Message) -> str | None:
        if len(message.payload) > self._config.max_body:
            return f"body of {len(message.payload)} bytes, allowed are {self._config.max_body}"
        return None

    def _has_room(self) -> None:
        """The window has room again."""
        if self._pending:
            self._wake.set()

    def _watch(self, call: Call) -> None:
        self._calls[call] = None
        if self._watching is None:
            loop = asyncio.get_running_loop()
            self._watching = loop.call_later(WATCH_SECONDS, self._look)

    def _look(self) -> None:
        """One timer for all calls: one for each costs more than the rest of a call."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for call in list(self._calls):
            if call.deadline > now:
                break
            self._expire(call)
        self._watching = loop.call_later(WATCH_SECONDS, self._look) if self._calls else None

    def _expire(self, call: Call) -> None:
        written = [item for lane in self._lanes for item in lane.open.values() if item.call is call]
        call.broken = True
        for item in written:
            call.settle(item.place, UNKNOWN)
        for place, result in enumerate(call.results):
            if result is None:
                call.settle(place, NOT_SENT)
        self._calls.pop(call, None)
        self.silent = self.silent or bool(written)
        if written and self._wire is not None:
            self._link.drop(self._wire)  # it may come later: never beside its repeat

    async def _keep_sending(self) -> None:
        backoff = Backoff()
        while True:
            try:
                wire = await self._link.wire()
                try:
                    await self._send_on(wire, backoff)
                except (BrokenError, RefusedError):
                    self._link.drop(wire)  # with its channels: each of them begins anew
                    raise
            except (BrokenError, RefusedError) as error:
                log.warning("publishing to %s stopped: %s", self._config.place, error)
            await backoff.wait()

    async def _send_on(self, wire: Wire, backoff: Backoff) -> None:
        lanes: list[Lane] = []
        try:
            for _ in range(self._config.publish_channels):
                channel = await self._link.channel(wire, confirms=True)
                lanes.append(Lane(channel, self._has_room))
            self._wire, self._lanes = wire, lanes
            self._known.clear()
            self._missing = {item.target: item.address for item in self._pending}
            self._up.set()
            backoff.reset()
            async with asyncio.timeout(None) as scope:

                def gone(_: object) -> None:
                    if self._wire is wire and not scope.expired():
                        scope.reschedule(0.0)

                for lane in lanes:
                    lane.channel.closing.add_done_callback(gone)
                await self._send(wire, lanes)
        except TimeoutError:
            raise BrokenError("a channel was closed") from None
        finally:
            self._wire, self._lanes, self.blocked = None, (), False
            for lane in lanes:
                lane.lose()

    async def _send(self, wire: Wire, lanes: Sequence[Lane]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._until_unblocked(wire)
                await self._prepare(wire)
                if not (batch := self._take(lanes)):
                    break  # the window is full: a confirm wakes us
                await self._write(wire, batch)

    async def _until_unblocked(self, wire: Wire) -> None:
        self.blocked = True
        await wire.ready()
        self.blocked = False

    async def _prepare(self, wire: Wire) -> None:
        """Targets that this connection has not seen yet."""
        while self._missing:
            target, address = next(iter(self._missing.items()))
            try:
                await self._declare(wire, *address)
            except RefusedError as error:
                self._refuse(target, error)
            else:
                self._known.add(target)
            self._missing.pop(target, None)

    async def _declare(self, wire: Wire, exchange: str, key: str, *, passive: bool = False) -> None:
        channel = await self._link.channel(wire)
        try:
            passive = passive or not self._config.declare
            if exchange:
                await declare_exchange(channel, Exchange(exchange), passive=passive)
            elif key.endswith(DEAD) and not passive:
                await declare_queue(channel, letters(key))
        except RefusedError as error:
            if passive or error.code != FORBIDDEN.code:
                raise
            await self._declare(wire, exchange, key, passive=True)  # it may be there all the same
        finally:
            await close_channel(channel)

    def _refuse(self, target: str, error: RefusedError) -> None:
        kept = [item for item in self._pending if item.target != target]
        for item in self._pending:
            if item.target == target:
                item.call.settle(item.place, Rejected(f"{error.what}: {error.why}"))
        self._pending = deque(kept)

    def _take(self, lanes: Sequence[Lane]) -> list[Item]:
        """In order; ends at a full window, or at an id that is in flight on its channel (T4)."""
        batch: list[Item] = []
        size, window, pending = 0, self._config.window, self._pending
        count = len(lanes)
        while pending and size < BATCH_BYTES:
            item = pending[0]
            if item.call.broken:
                pending.popleft()
                item.call.settle(item.place, NOT_SENT)
                continue
            if item.target in self._missing:
                break  # it came while another one was prepared
            lane = lanes[item.lane % count]
            if len(lane.open) >= window or item.id in lane.open:
                break
            pending.popleft()
            lane.take(item)
            batch.append(item)
            size += len(item.body)
        return batch

    def _error(self, messages: Sequence[Message], results: Sequence[PublishResult]) -> PublishError:
        where = f"transport {self._config.place}, topic {messages[0].topic}"
        unknown = [m.id for m, result in zip(messages, results, strict=True) if result == UNKNOWN]
        if unknown:
            again = [
                message
                for message, result in zip(messages, results, strict=True)
                if isinstance(result, Unknown | NotSent)
            ]
            return PublishUnknownError(
                "EB2104",
                f"publish of {len(unknown)} messages is unknown: not confirmed",
                results=results,
                where=f"{where}, ids {', '.join(unknown[:3])}",
                why="the broker may hold them; the connection was dropped and is being rebuilt",
                next="await error.resolve() sends the same ids again (inboxes drop repeats); with "
                "a storage the outbox does this for you",
                again=lambda: self.publish(again),
            )
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, Rejected):
                large = len(message.payload) > self._config.max_body
                return PublishError(
                    "EB2102" if large else "EB2101",
                    f"message {message.id} is larger than max_body"
                    if large
                    else f"RabbitMQ refused message {message.id}",
                    results=results,
                    where=f"{where}, type {message.type}",
                    why=result.reason,
                    next="send a reference instead of the data, or raise max_body"
                    if large
                    else "raise max_message_size of the broker, or lower max_body"
                    if result.reason.startswith(TOO_LARGE)
                    else "start a group for the type, or name it in allow_unrouted",
                )
        return PublishError(
            "EB2106",
            f"{len(results)} messages were not sent",
            results=results,
            where=where,
            why=self._link.trouble or "the broker took nothing in time: an alarm, or a full window",
            next="publish again once the transport is out of trouble | eventbus doctor",
        )
