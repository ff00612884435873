"""A bus on real services that tests share: each test sees topics and groups of its own."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

from eventbus.bus import EventBus
from eventbus.errors import Finding
from eventbus.message import Message
from eventbus.testing.harness import failed
from eventbus.transport import (
    Capabilities,
    Delivery,
    Interest,
    OnLost,
    Subscription,
    Transport,
    open_transport,
)

KAFKA_OPTIONS = "provision=true&partitions=3&replication=1&heartbeat_seconds=0.3&session_seconds=6"


class PrefixedTransport(AbstractAsyncContextManager["PrefixedTransport"]):
    """A transport on which every topic and group has a prefix that the bus never sees.

    Args:
        inner: where the prefix is written.
        prefix: of names there.
    """

    def __init__(self, inner: Transport, prefix: str) -> None:
        self.inner = inner
        self._prefix = prefix

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner one."""
        return self.inner.capabilities

    @property
    def trouble(self) -> str | None:
        """That of the inner one."""
        return self.inner.trouble

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.inner.__aexit__(kind, error, trace)

    async def publish(self, messages: Sequence[Message]) -> None:
        """As the inner one does it."""
        await self.inner.publish(
            [replace(message, topic=f"{self._prefix}{message.topic}") for message in messages]
        )

    @asynccontextmanager
    async def subscribe(
        self, interest: Interest, *, on_lost: OnLost
    ) -> AsyncGenerator[Subscription, None]:
        """As the inner one does it; deliveries stay those of the adapter."""
        async with self.inner.subscribe(self._there(interest), on_lost=on_lost) as subscription:
            yield cast("Subscription", _Stripped(subscription, self._prefix))

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """As the inner one does it."""
        return await self.inner.examine([self._there(each) for each in interests])

    def _there(self, interest: Interest) -> Interest:
        topics = tuple(f"{self._prefix}{topic}" for topic in interest.topics)
        return replace(interest, group=f"{self._prefix}{interest.group}", topics=topics)


class _Stripped:
    """A subscription whose messages have their topic without the prefix."""

    def __init__(self, inner: Subscription, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        async for batch in self._inner:
            for delivery in batch:
                message = delivery.message
                topic = message.topic.removeprefix(self._prefix)
                cast("Any", delivery).message = replace(message, topic=topic)
            yield batch


@asynccontextmanager
async def live(
    app: EventBus, *, transport: str, storage: str, prefix: str = "", failures: list[str]
) -> AsyncGenerator[EventBus, None]:
    """A copy of the app on real services, its schema made, entered.

    Args:
        app: what is copied.
        transport: URL of a broker.
        storage: URL of a database, empty or of this code's schema.
        prefix: of topics and groups, where tests share a broker.
        failures: filled at the end, a line for each message that failed and was not put right.
    """
    at_broker = open_transport(transport, "test")
    if prefix:
        at_broker = cast("Transport", PrefixedTransport(at_broker, prefix))
    bus = app.replace(transport=at_broker, storage=storage)
    await bus.upgrade()
    async with bus:
        yield bus
        with contextlib.suppress(TimeoutError):  # leaving says what is still on its way
            await bus.until_idle()
        failures += await failed(bus)


def kafka_for_tests(url: str) -> str:
    """The cluster, with topics that are made when they are missing and members quick to notice."""
    return f"{url}{'&' if '?' in url else '?'}{KAFKA_OPTIONS}"
