"""A transport whose calls meet the faults of a plan."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Self, cast

from eventbus.errors import (
    Finding,
    NotSent,
    PublishError,
    PublishResult,
    PublishUnknownError,
    Rejected,
    Unknown,
)
from eventbus.message import Message
from eventbus.testing.faults.calls import plainly, timed_out
from eventbus.testing.faults.plan import (
    BreakKeyOrder,
    DropConfirmed,
    Duplicate,
    Fault,
    FaultPlan,
    Reorder,
    Unroutable,
)
from eventbus.testing.faults.subscription import FaultySubscription, Zombies
from eventbus.transport import Capabilities, Interest, OnLost, Subscription, Transport, Volatile

_Publish = Callable[[Sequence[Message]], Awaitable[None]]


class FaultyTransport(AbstractAsyncContextManager["FaultyTransport"]):
    """A transport whose calls meet the faults of a plan; without any it is the inner one.

    Args:
        inner: whose calls.
        plan: whose faults.
        zombies: shared with the transports of other buses: then `ZombieOwner` hands to their
            members what a member of this one still holds.
    """

    def __new__(
        cls, inner: Transport, plan: FaultPlan, *, zombies: "Zombies | None" = None
    ) -> "FaultyTransport":
        """Volatile if the inner one is."""
        return super().__new__(_FaultyVolatile if isinstance(inner, Volatile) else cls)

    def __init__(
        self, inner: Transport, plan: FaultPlan, *, zombies: "Zombies | None" = None
    ) -> None:
        self.inner = inner
        self._plan = plan
        self._zombies = Zombies() if zombies is None else zombies

    @property
    def capabilities(self) -> Capabilities:
        """Those of the inner one."""
        return self.inner.capabilities

    @property
    def trouble(self) -> str | None:
        """That of the inner one."""
        return self.inner.trouble

    async def __aenter__(self) -> Self:
        await self._plan.through("enter", plainly(self.inner.__aenter__), timed_out)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._plan.frozen:  # the dead say no goodbye: their broker finds out
            await self.inner.__aexit__(kind, error, trace)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish, as far as the plan lets it."""
        await self._through(self.inner.publish, messages)

    async def _through(self, publish: _Publish, messages: Sequence[Message]) -> None:
        def unknown(_: bool) -> Exception:
            return _publish_unknown(messages, partial(publish, messages))

        act = partial(self._publish, publish, messages)
        await self._plan.through("publish", act, unknown)

    async def _publish(
        self, publish: _Publish, messages: Sequence[Message], fault: Fault | None
    ) -> None:
        match fault:
            case Unroutable():
                raise _unroutable(messages)
            case DropConfirmed():
                return
            case BreakKeyOrder():
                await publish(list(reversed(messages)))
            case Reorder(window):
                await _reordered(publish, messages, self._plan.reordered(messages, window))
            case Duplicate(times):
                for _ in range(1 + times):
                    await publish(messages)
            case _:
                await publish(messages)

    def subscribe(
        self, interest: Interest, *, on_lost: OnLost
    ) -> AbstractAsyncContextManager[Subscription]:
        """Join the group, through the plan."""
        inner = self.inner.subscribe(interest, on_lost=on_lost)
        return FaultySubscription(inner, interest.group, self._plan, self._zombies)

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """What the inner one says."""
        act = plainly(partial(self.inner.examine, interests))
        return await self._plan.through("examine", act, timed_out)


class _FaultyVolatile(FaultyTransport):
    async def publish_again(self, messages: Sequence[Message]) -> None:
        """Publish, as far as the plan lets it, what may have been handed out before."""
        await self._through(cast("Volatile", self.inner).publish_again, messages)

    def on_handled(self, tell: Callable[[Sequence[Message]], None]) -> None:
        """Forwarded."""
        cast("Volatile", self.inner).on_handled(tell)


async def _reordered(publish: _Publish, messages: Sequence[Message], order: Sequence[int]) -> None:
    try:
        await publish([messages[place] for place in order])
    except PublishError as error:
        results: list[PublishResult] = [Unknown()] * len(messages)
        for place, result in zip(order, error.results, strict=True):
            results[place] = result
        error.results = results
        raise


def _publish_unknown(
    messages: Sequence[Message], again: Callable[[], Awaitable[None]]
) -> PublishUnknownError:
    return PublishUnknownError(
        "EB2104",
        "what became of the publish is unknown",
        results=[Unknown()] * len(messages),
        where="publish",
        why="a fault of the test's plan: the confirm was lost",
        next="publish again under the same ids: await error.resolve()",
        again=again,
    )


def _unroutable(messages: Sequence[Message]) -> PublishError:
    refused: list[PublishResult] = [Rejected("unroutable")]
    return PublishError(
        "EB2101",
        "the broker refused the message",
        results=refused + [NotSent()] * (len(messages) - 1),
        where="publish",
        why="a fault of the test's plan: no queue takes it",
        next="declare the queue or the binding",
    )
