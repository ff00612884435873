"""A member whose calls meet the faults of a plan, and what zombies still hold."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal, Self, cast

from eventbus.testing.faults.calls import plainly, timed_out
from eventbus.testing.faults.plan import Fault, FaultPlan, Kill, ZombieOwner
from eventbus.transport import Delivery, Subscription


class _Again:
    """A delivery that somebody else holds as well; its verdict is not the broker's."""

    lost = False  # who gets it owns it, whatever becomes of the first owner

    def __init__(self, first: Delivery) -> None:
        self.message = first.message
        self.malformed = first.malformed
        self.partition = first.partition
        self.offset = first.offset
        self.redelivered = True


class Zombies:
    """By group: what is handed out again though its first owner does not know that it lost it."""

    def __init__(self) -> None:
        self.members: dict[str, int] = {}
        self._batches: dict[str, deque[tuple[object, Sequence[Delivery]]]] = {}
        self._waiters: dict[asyncio.Future[None], None] = {}  # in order: schedules must repeat

    def add(self, group: str, owner: object, held: Iterable[Delivery]) -> None:
        """All that the owner holds, in order: a new owner begins behind the last verdict."""
        copies = [cast("Delivery", _Again(each)) for each in held]
        self._batches.setdefault(group, deque()).append((owner, copies))
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def or_more(self, pending: asyncio.Task[Sequence[Delivery]]) -> None:
        """Until the broker has a batch, or something was handed out again."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            either: list[asyncio.Future[Any]] = [pending, waiter]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiters[waiter]

    def take(self, group: str, member: object) -> Sequence[Delivery]:
        """A batch of another member; of its own if there is no other."""
        waiting = self._batches.get(group)
        if not waiting or (waiting[0][0] is member and self.members[group] > 1):
            return ()
        return waiting.popleft()[1]


class FaultySubscription(AbstractAsyncContextManager["FaultySubscription"]):
    """A member whose calls meet the faults of a plan."""

    def __init__(
        self,
        entry: AbstractAsyncContextManager[Subscription],
        group: str,
        plan: FaultPlan,
        zombies: Zombies,
    ) -> None:
        self._entry = entry
        self._group = group
        self._plan = plan
        self._zombies = zombies
        self._held: dict[Delivery, None] = {}  # without a verdict, in order
        self._pending: asyncio.Task[Sequence[Delivery]] | None = None

    async def __aenter__(self) -> Self:
        enter = plainly(self._entry.__aenter__)
        self._inner = await self._plan.through("subscribe", enter, timed_out)
        self._batches = aiter(self._inner)
        members = self._zombies.members
        members[self._group] = members.get(self._group, 0) + 1
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zombies.members[self._group] -= 1
        if self._pending is not None:
            self._pending.cancel()
        if not self._plan.frozen:
            await self._entry.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        """The next batch, or what another member holds as soon as it is handed out again."""
        while not (again := self._zombies.take(self._group, self)):
            if self._pending is None:
                work = self._plan.through("next", self._next, timed_out)
                name = cast("asyncio.Task[object]", asyncio.current_task()).get_name()
                self._pending = asyncio.create_task(work, name=name)
            await self._zombies.or_more(self._pending)
            if self._pending.done():
                pending, self._pending = self._pending, None
                return pending.result()
        return again

    async def _next(self, fault: Fault | None) -> Sequence[Delivery]:
        batch = await anext(self._batches)
        self._held.update(dict.fromkeys(batch))
        if isinstance(fault, ZombieOwner):
            self._zombies.add(self._group, self, (one for one in self._held if not one.lost))
        return batch

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Forward, unless the process dies here."""
        self._say("ack", deliveries)

    def nack(self, deliveries: Sequence[Delivery]) -> None:
        """Forward, unless the process dies here."""
        self._say("nack", deliveries)

    def _say(self, verdict: Literal["ack", "nack"], deliveries: Sequence[Delivery]) -> None:
        plan = self._plan
        fault = None if plan.frozen else plan.meet(verdict)
        dies = isinstance(fault, Kill)
        if isinstance(fault, Kill) and not fault.after:
            plan.kill()
        if plan.frozen:
            return
        own = [each for each in deliveries if not isinstance(each, _Again)]
        for each in own:
            self._held.pop(each, None)
        (self._inner.ack if verdict == "ack" else self._inner.nack)(own)
        if dies:
            plan.kill()

    async def flush(self) -> None:
        """Forward."""
        await self._plan.through("flush", plainly(self._inner.flush), timed_out)

    async def backlog(self) -> int | None:
        """Forward."""
        return await self._plan.through("backlog", plainly(self._inner.backlog), timed_out)
