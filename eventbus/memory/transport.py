"""MemoryTransport: the contract on a broker of this process (`memory://`)."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Self, cast
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakValueDictionary

from eventbus.errors import (
    ConfigurationError,
    Confirmed,
    Finding,
    NotSent,
    PublishError,
    PublishResult,
    Rejected,
    TransportError,
)
from eventbus.memory.broker import MemoryBroker
from eventbus.memory.subscription import MemorySubscription
from eventbus.message import Message
from eventbus.transport import Capabilities, Interest, OnLost

NOT_DURABLE = Finding(
    level="say",
    code="EB1111",
    what="memory:// is not durable",
    why="what it holds dies with the process; an outbox keeps each message until it is handled",
    next="take kafka:// or rabbit:// where more than one process, or a crash, counts",
)


class MemoryTransport:
    """Publishes to a `MemoryBroker` and subscribes there; keeps nothing itself.

    Implements `Transport` and `Volatile`. Entering it again after it was left is allowed.

    Args:
        broker: shared with other transports; default: one of its own.
        max_body: bytes; publishing refuses more.
        max_held: bytes of bodies; a member that holds as much without a verdict gets nothing more.
    """

    def __init__(
        self,
        broker: MemoryBroker | None = None,
        *,
        max_body: int = 1 << 20,
        max_held: int = 64 << 20,
    ) -> None:
        self.broker: MemoryBroker = broker or MemoryBroker()
        log_style = self.broker.style == "log"
        self._capabilities = Capabilities(
            durable=False,
            ordered_by_key=True,
            consumer_groups=True,
            replays_history=log_style,
            filters_types=not log_style,
            stops_at_refusal=True,
            max_body=max_body,
        )
        self._max_body = max_body
        self._max_held = max_held
        self._entered = False
        self._members: list[MemorySubscription] = []
        self._tells: list[Callable[[Sequence[Message]], None]] = []

    @property
    def capabilities(self) -> Capabilities:
        """Style "queue" filters types and replays no history; style "log" the other way round."""
        return self._capabilities

    @property
    def trouble(self) -> str | None:
        """Not entered, or full."""
        return self.broker.trouble if self._entered else "not entered"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise TransportError(
                "EB2105",
                "the transport is entered already",
                where="MemoryTransport",
                why="it belongs to one bus at a time; buses share a MemoryBroker instead",
                next="give each bus MemoryTransport(broker)",
            )
        await self.broker.step()
        self._entered = True
        self.broker.listen(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.broker.step()
        try:
            for member in self._members:
                await member.leave()
        finally:
            self.abandon()  # nothing is left to abandon unless this was cancelled

    def abandon(self) -> None:
        """End as a killed process does: at once, and verdicts on their way are lost."""
        members, self._members = self._members, []
        for member in members:
            member.drop()
        self._close()

    def _close(self) -> None:
        if self._entered:
            self._entered = False
            self.broker.unlisten(self)

    async def publish(self, messages: Sequence[Message], *, again: bool = False) -> None:
        """Return once the broker holds all of them, in the order given.

        Stops at its first refusal: what came before is stored, what follows is `NotSent`. Lets
        others run every 256 messages, and after each one when the broker is nearly full.

        Raises:
            PublishError: EB2102, one is larger than `max_body`; EB2103, the broker is full: that
                one and what follows is `NotSent`.
            TransportError: EB2105, not entered; nothing was stored.
        """
        broker = self._broker_if_entered()
        if broker.stepwise:
            await asyncio.sleep(0)
        pace = broker.pace
        try:
            for place, message in enumerate(messages):
                if len(message.payload) > self._max_body:
                    raise _too_large(messages, place, self._max_body)
                if not broker.store(message, again=again):
                    raise _full(messages, place)
                if broker.owed >= pace:
                    broker.owed = 0
                    await asyncio.sleep(0)
        finally:
            broker.tell_unheard()

    async def publish_again(self, messages: Sequence[Message]) -> None:
        """Publish what an earlier process may have handed out: delivered as redelivered.

        Raises what `publish` raises.
        """
        await self.publish(messages, again=True)

    def subscribe(self, interest: Interest, *, on_lost: OnLost) -> MemorySubscription:
        """Join the group on entering; leaving gives back every delivery without a verdict.

        Raises:
            TransportError: EB2105, not entered.
        """
        broker = self._broker_if_entered()
        member = broker.subscription(interest, on_lost, self._max_held)
        self._members = [known for known in self._members if not known.left]
        self._members.append(member)
        return member

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """EB1111: not durable. If entered, the groups are known from now on (`MemoryBroker`)."""
        await self.broker.step()
        if self._entered:
            for interest in interests:
                self.broker.know(interest)
        return [NOT_DURABLE]

    def on_handled(self, tell: Callable[[Sequence[Message]], None]) -> None:
        """Call `tell` with what every known group has acknowledged, in partition order; once each.

        Messages that no known group wants (`MemoryBroker`) are told before `publish` returns.
        Nothing is told while this transport is not entered. Whatever `tell` raises is logged.
        Several may ask; the same one twice is told once.
        """
        if tell not in self._tells:
            self._tells.append(tell)

    def tell(self, messages: Sequence[Message]) -> None:
        """For the broker."""
        for tell in self._tells:
            tell(messages)

    def _broker_if_entered(self) -> MemoryBroker:
        if not self._entered:
            raise TransportError(
                "EB2105",
                "the transport is not entered",
                where="MemoryTransport",
                why="it publishes and subscribes between entering and leaving only",
                next="async with the transport, or the bus that owns it",
            )
        return self.broker


def _too_large(messages: Sequence[Message], place: int, max_body: int) -> PublishError:
    size = len(messages[place].payload)
    reason = f"body of {size} bytes, allowed are {max_body}"
    return PublishError(
        "EB2102",
        f"message {messages[place].id} is larger than max_body",
        results=_results(messages, place, Rejected(reason)),
        where=f"topic {messages[place].topic}, type {messages[place].type}",
        why=reason,
        next="send a reference instead of the data, or raise max_body",
    )


def _full(messages: Sequence[Message], place: int) -> PublishError:
    return PublishError(
        "EB2103",
        "the memory broker is full",
        results=_results(messages, place, NotSent()),
        where=f"topic {messages[place].topic}, message {messages[place].id}",
        why="groups have not acknowledged what it holds; this message is certainly not stored, and "
        "nothing is wrong with it",
        next="let the consumers catch up and publish it again, or raise max_messages, max_bytes",
    )


def _results(messages: Sequence[Message], place: int, at: PublishResult) -> list[PublishResult]:
    behind = len(messages) - place - 1
    return [*[Confirmed()] * place, at, *[NotSent()] * behind]


_shared: WeakValueDictionary[str, MemoryBroker] = WeakValueDictionary()


def open_transport(url: str, service: str) -> MemoryTransport:
    """`memory://` on a broker of its own, `memory://<name>` on one that the process shares.

    The shared one lives as long as a transport on it.
    Options: `?style=log|queue&partitions=4&retain=10000&seed=0`.

    Raises:
        ConfigurationError: EB1006, an option is not known, or is not that of the shared broker.
    """
    parts = urlsplit(url)
    if parts.path.strip("/"):
        raise _unclear(url, "a name has no slash")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.netloc:
        return MemoryTransport(_broker(url, options))
    broker = _shared.get(parts.netloc)
    if broker is None:
        _shared[parts.netloc] = broker = _broker(url, options)
    elif options and (
        options.get("style", broker.style) != broker.style
        or options.get("partitions", str(broker.partitions)) != str(broker.partitions)
    ):
        raise _unclear(url, f"{parts.netloc!r} is open already, with other options")
    return MemoryTransport(broker)


def _broker(url: str, options: dict[str, str]) -> MemoryBroker:
    style = options.pop("style", "log")
    if style not in {"log", "queue"}:
        raise _unclear(url, f"style={style} is neither log nor queue")
    numbers = {
        name: int(text)
        for name, text in options.items()
        if name in {"partitions", "retain", "seed"} and text.isdecimal()
    }
    if strange := [name for name in options if name not in numbers]:
        raise _unclear(url, f"cannot use {', '.join(strange)}")
    if numbers.get("partitions") == 0:
        raise _unclear(url, "a topic needs a partition")
    return MemoryBroker(
        style=cast("Literal['log', 'queue']", style),
        partitions=numbers.get("partitions", 4),
        retain=numbers.get("retain", 1_000),
        seed=numbers.get("seed", 0),
    )


def _unclear(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        "EB1006",
        "the options of the transport cannot be understood",
        where=url,
        why=why,
        next="memory://[name]?style=log|queue&partitions=4&retain=10000&seed=0",
    )
