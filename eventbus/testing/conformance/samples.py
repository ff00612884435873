"""What the suites of storages are made of: messages, parked rows, leases, a clock to move."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from eventbus.message import Message, new_id, own_key
from eventbus.storage import Storage
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import PARTITIONS, Outgoing
from eventbus.storage.parking import Failure, Parked

SOON = timedelta(seconds=5)
AFTER_SOON = 6.0  # seconds to advance: SOON is over then
LONG = timedelta(minutes=10)  # a lease that does not run out in a test
DEADLINE = 60.0  # seconds; nothing here waits that long unless something is stuck

T = TypeVar("T")
_run = uuid4().hex[:8]
_numbers = count(1)


class Clock(Protocol):
    """The time of the storage under test."""

    @property
    def jumps(self) -> bool:
        """True: days cost nothing. False: `advance` really waits."""
        ...

    async def advance(self, seconds: float) -> None:
        """Return as soon as the database's time is so much later."""
        ...


class HandClock:
    """A clock for storages that take one: a function that answers unix seconds."""

    jumps = True

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """Unix seconds."""
        return self._now

    async def advance(self, seconds: float) -> None:
        """Move it; it never moves by itself."""
        self._now += seconds


def unique(word: str) -> str:
    """A name that no other test has, fit for a table too: lower case, digits, underscores."""
    return f"{word}_{_run}_{next(_numbers)}"


def some_message(
    number: int = 0, *, key: str | None = None, id: str = "", source: str = "conformance"
) -> Message:
    """A message whose payload is its number."""
    return Message(
        id=id or new_id(),
        type="shop.order-placed",
        source=source,
        topic="shop",
        payload=str(number).encode(),
        key=key,
    )


def some_messages(amount: int, *, key: str | None = None) -> list[Message]:
    """Messages of one key, numbered from 0."""
    return [some_message(number, key=key) for number in range(amount)]


def numbers(rows: Iterable[Message | Outgoing | Parked]) -> list[int]:
    """What `some_message` numbered, in the order of the rows."""
    messages = (row if isinstance(row, Message) else row.message for row in rows)
    return [int(message.payload) for message in messages]


def some_failure(text: str = "out of stock") -> Failure:
    """A failure with every field filled."""
    return Failure(
        reason="failed",
        code="EB4101",
        type="OutOfStock",
        text=text,
        fingerprint="OutOfStock@shop.billing:bill",
    )


def failed(
    message: Message, *, delay: timedelta | None = SOON, attempts: int = 1, text: str = "no stock"
) -> Parked:
    """Tried, and to be tried again after the delay; without one a dead letter."""
    return Parked(
        message=message,
        key=message.key or own_key(message),
        attempts=attempts,
        delay=delay,
        origin="memory:shop/0/1",
        failure=some_failure(text),
    )


def queued(message: Message) -> Parked:
    """Not tried: it only stands behind its key."""
    return Parked(
        message=message,
        key=message.key or own_key(message),
        attempts=0,
        delay=None,
        origin="memory:shop/0/2",
    )


async def take(storage: Storage, name: str, *, owner: str = "us", ttl: timedelta = LONG) -> Lease:
    """The lease of a name that is free."""
    async with storage.transaction() as tx:
        (lease,) = await tx.leases.acquire([name], owner=owner, ttl=ttl, limit=1)
    return lease


async def take_over(storage: Storage, lost: Lease, *, owner: str = "another") -> Lease:
    """Free a lease and let another owner have it: what the first one holds is stale then."""
    async with storage.transaction() as tx:
        await tx.leases.release([lost])
    return await take(storage, lost.name, owner=owner)


async def take_partitions(
    storage: Storage, *, owner: str = "relay", ttl: timedelta = LONG
) -> Sequence[Lease]:
    """The leases of all partitions of the outbox that are free."""
    names = [f"outbox/{partition:02d}" for partition in range(PARTITIONS)]
    async with storage.transaction() as tx:
        return await tx.leases.acquire(names, owner=owner, ttl=ttl, limit=PARTITIONS)


async def make_table(storage: Storage, columns: str) -> str:
    """A table of the user, under a name of its own."""
    name = unique("t")
    async with storage.transaction() as tx:
        await tx.sql.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
    return name


async def at_once(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run them as tasks that end together or, after DEADLINE, with TimeoutError."""
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(one, name=f"conformance:{number}") for number, one in enumerate(work)
        ]
    return [task.result() for task in running]


async def turns(amount: int) -> None:
    """Let the loop go round so many times."""
    loop = asyncio.get_running_loop()
    for _ in range(amount):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
