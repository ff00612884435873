"""FaultyTransport and FaultyStorage: any adapter, with the faults of a plan at its calls."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from eventbus.errors import (
    CommitUnknownError,
    ConcurrencyError,
    Finding,
    NotSent,
    PublishError,
    PublishResult,
    PublishUnknownError,
    Rejected,
    StorageError,
    StreamClosedError,
    Unknown,
)
from eventbus.inspection import Inspected, Inspection
from eventbus.message import Message
from eventbus.storage import Storage, StorageCapabilities, Transaction, Work
from eventbus.storage.checkpoints import Checkpoints
from eventbus.storage.events import Append, Appended, EventStore, ReadBound
from eventbus.storage.inbox import Inbox
from eventbus.storage.leases import Lease, Leases
from eventbus.storage.outbox import Outbox
from eventbus.storage.parking import Parking
from eventbus.storage.projections import Projections
from eventbus.storage.sagas import Sagas
from eventbus.storage.sql import Sql
from eventbus.storage.subject_keys import SubjectKeys
from eventbus.testing.fault_plan import (
    POINTS,
    BreakKeyOrder,
    Conflict,
    Delay,
    DropConfirmed,
    Duplicate,
    Fail,
    Fault,
    FaultPlan,
    Hang,
    Hit,
    Kill,
    LoseLease,
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
)
from eventbus.transport import (
    Capabilities,
    Delivery,
    Interest,
    OnLost,
    Subscription,
    Transport,
    Volatile,
)

__all__ = [
    "POINTS",
    "BreakKeyOrder",
    "Conflict",
    "Delay",
    "DropConfirmed",
    "Duplicate",
    "Fail",
    "Fault",
    "FaultPlan",
    "FaultyStorage",
    "FaultyTransport",
    "Hang",
    "Hit",
    "Kill",
    "LoseLease",
    "LoseReply",
    "Reorder",
    "Unroutable",
    "ZombieOwner",
    "Zombies",
]

T = TypeVar("T")
_VERDICTS = (ConcurrencyError, StreamClosedError)  # nothing was written, the transaction goes on
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
        await self._plan.through("enter", _plainly(self.inner.__aenter__), _timed_out)
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
        return _FaultySubscription(inner, interest.group, self._plan, self._zombies)

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """What the inner one says."""
        act = _plainly(partial(self.inner.examine, interests))
        return await self._plan.through("examine", act, _timed_out)


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


class _FaultySubscription(AbstractAsyncContextManager["_FaultySubscription"]):
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
        enter = _plainly(self._entry.__aenter__)
        self._inner = await self._plan.through("subscribe", enter, _timed_out)
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
                work = self._plan.through("next", self._next, _timed_out)
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
        await self._plan.through("flush", _plainly(self._inner.flush), _timed_out)

    async def backlog(self) -> int | None:
        """Forward."""
        return await self._plan.through("backlog", _plainly(self._inner.backlog), _timed_out)


class FaultyStorage(AbstractAsyncContextManager["FaultyStorage"]):
    """A storage whose calls, those of its sub-stores too, meet the faults of a plan."""

    def __init__(self, inner: Storage, plan: FaultPlan) -> None:
        self.inner = inner
        self._plan = plan

    @property
    def capabilities(self) -> StorageCapabilities:
        """Those of the inner one."""
        return self.inner.capabilities

    @property
    def trouble(self) -> str | None:
        """That of the inner one."""
        return self.inner.trouble

    @property
    def inspection(self) -> Inspection:
        """That of the inner one: operators meet no faults."""
        return cast("Inspected", self.inner).inspection

    async def __aenter__(self) -> Self:
        await self._plan.through("enter", _plainly(self.inner.__aenter__), _timed_out)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._plan.frozen:
            await self.inner.__aexit__(kind, error, trace)

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, through the plan."""
        return _FaultyEntry(self.inner.transaction(), self._plan)

    def enlist(self, connection: object) -> AbstractAsyncContextManager[Transaction]:
        """Join the caller's transaction, through the plan."""
        return _FaultyEntry(self.inner.enlist(connection), self._plan)

    async def append(self, append: Append) -> Appended:
        """Through the plan; `Fault(done=True)`: it stands there, and nobody was told."""
        ids = [message.id for message in append.messages]
        act = _plainly(partial(self.inner.append, append))
        return await self._plan.through("append", act, partial(_commit_unknown, ids))

    async def load_events(self, appends: Sequence[Append], *, skip: bool = False) -> int:
        """Through the plan."""
        act = _plainly(partial(self.inner.load_events, appends, skip=skip))
        return await self._plan.through("load_events", act, _timed_out)

    async def read_bound(self) -> ReadBound:
        """Through the plan."""
        return await self._plan.through("read_bound", _plainly(self.inner.read_bound), _timed_out)

    async def wait(self, work: Work, *, at_most: timedelta) -> None:
        """Forward."""
        act = _plainly(partial(self.inner.wait, work, at_most=at_most))
        await self._plan.through("wait", act, _timed_out)

    async def upgrade(self) -> None:
        """Forward."""
        await self._plan.through("upgrade", _plainly(self.inner.upgrade), _timed_out)

    async def prune(self, *, inbox: timedelta, limit: int) -> int:
        """Forward."""
        act = _plainly(partial(self.inner.prune, inbox=inbox, limit=limit))
        return await self._plan.through("prune", act, _timed_out)

    async def examine(self) -> Sequence[Finding]:
        """What the inner one says."""
        return await self._plan.through("examine", _plainly(self.inner.examine), _timed_out)


class _FaultyEntry(AbstractAsyncContextManager[Transaction]):
    """Around a transaction: a fault before the commit rolls the inner one back."""

    def __init__(self, entry: AbstractAsyncContextManager[Transaction], plan: FaultPlan) -> None:
        self._entry = entry
        self._plan = plan

    async def __aenter__(self) -> Transaction:
        self._tx = _FaultyTransaction(await self._entry.__aenter__(), self._plan)
        return cast("Transaction", self._tx)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if error is not None:
            return await self._entry.__aexit__(kind, error, trace)
        self._left = False
        calls = [f"commit+{call}" for call in self._tx.calls]
        try:
            self._tx.refuse_if_doomed()
            unknown = partial(_commit_unknown, self._tx.message_ids)
            await self._plan.through("commit", self._commit, unknown, *calls)
        except BaseException as failure:
            if not self._left:
                await self._entry.__aexit__(type(failure), failure, failure.__traceback__)
            raise
        return None

    async def _commit(self, _: Fault | None) -> None:
        self._left = True
        await self._entry.__aexit__(None, None, None)


class _FaultyTransaction:
    """As with a real database, a failed call dooms what follows, to the end of its savepoint."""

    def __init__(self, inner: Transaction, plan: FaultPlan) -> None:
        self._inner = inner
        self._plan = plan
        self.calls: dict[str, None] = {}  # what was called, in this order
        self.message_ids: list[str] = []  # of what it publishes
        self.doom: BaseException | None = None
        self._verdict: StorageError | None = None  # of the storage itself: it dooms nothing

    @property
    def sql(self) -> Sql:
        return cast("Sql", _SubStore("sql", self._inner.sql, self))

    @property
    def events(self) -> EventStore:
        return cast("EventStore", _SubStore("events", self._inner.events, self))

    @property
    def outbox(self) -> Outbox:
        return cast("Outbox", _SubStore("outbox", self._inner.outbox, self))

    @property
    def inbox(self) -> Inbox:
        return cast("Inbox", _SubStore("inbox", self._inner.inbox, self))

    @property
    def parking(self) -> Parking:
        return cast("Parking", _SubStore("parking", self._inner.parking, self))

    @property
    def checkpoints(self) -> Checkpoints:
        return cast("Checkpoints", _SubStore("checkpoints", self._inner.checkpoints, self))

    @property
    def projections(self) -> Projections:
        return cast("Projections", _SubStore("projections", self._inner.projections, self))

    @property
    def leases(self) -> Leases:
        return cast("Leases", _SubStore("leases", self._inner.leases, self))

    @property
    def sagas(self) -> Sagas:
        return cast("Sagas", _SubStore("sagas", self._inner.sagas, self))

    @property
    def subject_keys(self) -> SubjectKeys:
        return cast("SubjectKeys", _SubStore("subject_keys", self._inner.subject_keys, self))

    def resource(self, kind: type[T]) -> T:
        return self._inner.resource(kind)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        return _FaultySavepoint(self, self._inner.savepoint(), self._plan)

    async def call(
        self, name: str, method: Callable[..., Awaitable[T]], args: Any, keywords: Any
    ) -> T:
        """One call of a sub-store."""

        async def act(fault: Fault | None) -> T:
            if isinstance(fault, LoseLease):
                await self._steal([*args, *keywords.values()])
            try:
                return await method(*args, **keywords)
            except _VERDICTS as error:
                self._verdict = error
                raise

        self.refuse_if_doomed()
        self.calls[name] = None
        if name == "outbox.add":
            self.message_ids += [message.id for message in args[0]]
        elif name == "events.append":
            self.message_ids += [message.id for message in args[0].messages]
        try:
            return await self._plan.through(name, act, _timed_out)
        except StorageError as error:
            if error is not self._verdict:
                self.doom = error
            raise

    def refuse_if_doomed(self) -> None:
        if self.doom is not None:
            raise _doomed(self.doom)

    async def _steal(self, args: Sequence[Any]) -> None:
        """A rival draws a higher epoch of every lease among the arguments, and lets go."""
        leases = [
            each for arg in args for each in (arg if isinstance(arg, list | tuple) else [arg])
        ]
        mine = [lease for lease in leases if isinstance(lease, Lease)]
        await self._inner.leases.release(mine)
        rivals = await self._inner.leases.acquire(
            [lease.name for lease in mine], owner="rival", ttl=timedelta(seconds=1), limit=len(mine)
        )
        await self._inner.leases.release(rivals)


class _SubStore:
    """Every method of a sub-store is a coroutine function: one wrapper serves them all."""

    def __init__(self, name: str, inner: object, tx: _FaultyTransaction) -> None:
        self._name = name
        self._inner = inner
        self._tx = tx

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        inner = getattr(self._inner, method)
        name = f"{self._name}.{method}"

        async def call(*args: Any, **keywords: Any) -> Any:
            return await self._tx.call(name, inner, args, keywords)

        return call


class _FaultySavepoint(AbstractAsyncContextManager[None]):
    def __init__(
        self, tx: _FaultyTransaction, block: AbstractAsyncContextManager[None], plan: FaultPlan
    ) -> None:
        self._tx = tx
        self._block = block
        self._plan = plan

    async def __aenter__(self) -> None:
        self._tx.refuse_if_doomed()
        await self._block.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        doom, self._tx.doom = self._tx.doom, None
        if error is None and doom is not None:
            kind, error = StorageError, _doomed(doom)
            await self._block.__aexit__(kind, error, None)
            raise error
        if error is not None:
            return await self._block.__aexit__(kind, error, trace)
        leave = _plainly(partial(self._block.__aexit__, None, None, None))
        return await self._plan.through("savepoint", leave, _timed_out)


def _plainly(act: Callable[[], Awaitable[T]]) -> Callable[[Fault | None], Awaitable[T]]:
    """For calls whose faults are all the plan's own."""

    def call(_: Fault | None) -> Awaitable[T]:
        return act()

    return call


def _timed_out(_: bool) -> Exception:
    return StorageError(
        "EB5007",
        "the database does not answer",
        where="a call of the storage",
        why="a fault of the test's plan: no answer within the deadline",
        next="run the transaction again later",
    )


def _commit_unknown(message_ids: Sequence[str], done: bool) -> Exception:
    async def ask() -> Literal["committed", "rolled_back"]:
        return "committed" if done else "rolled_back"

    return CommitUnknownError(
        "EB5101",
        "the commit is unknown",
        ids=tuple(message_ids),
        where="commit",
        why="a fault of the test's plan: the reply was lost",
        next="await error.resolve() before anything is repeated",
        ask=ask,
    )


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


def _doomed(first: BaseException) -> StorageError:
    error = StorageError(
        "EB5004",
        "the transaction is doomed: an earlier statement in it failed",
        where="a statement after the failed one",
        why=f"first was: {first!s:.200}",
        next="let the first error leave the block, or wrap what may fail in tx.savepoint()",
    )
    error.__cause__ = first
    return error
