"""Handlers that do not end when cancelled: they hold nothing, and their messages go on."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from eventbus import Context, Event, EventBus, Group, RetryPolicy, Untyped, subscribe
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.postgres import PostgresStorage
from eventbus.pubsub import watchdog
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage
from eventbus.testing.conformance.samples import make_table
from tests.integration.figures import Figures

SOON = timedelta(milliseconds=20)
SOME_TIME = timedelta(seconds=30)
GROUP = Group(
    "billing",
    lanes=1,
    timeout=timedelta(milliseconds=40),
    batch_time=timedelta(minutes=1),
    retry=RetryPolicy(in_place=0, parked=(SOON, SOON)),
)


class Asked(Event, type="billing.batch-asked", key="name"):
    name: str


HANGING: set["asyncio.Task[object]"] = set()


@pytest.fixture(autouse=True)
def overdue_is_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is: nobody else is ended for being late."""
    end = watchdog.Watchdog._end

    def ended(self: watchdog.Watchdog, run: watchdog.Run, now: float) -> None:
        if run.task in HANGING:
            end(self, run, now)

    monkeypatch.setattr(watchdog.Watchdog, "_end", ended)
    monkeypatch.setattr(watchdog, "ZOMBIE_SECONDS", 0.0)
    HANGING.clear()


async def hang(release: asyncio.Event) -> None:
    """Not to be cancelled, for a minute: a test that fails must end."""
    task = asyncio.current_task()
    assert task is not None
    HANGING.add(task)
    until = asyncio.get_running_loop().time() + 60
    while not release.is_set() and asyncio.get_running_loop().time() < until:
        with suppress(asyncio.CancelledError, TimeoutError):
            async with asyncio.timeout_at(until):
                await release.wait()
    HANGING.discard(task)


@pytest.fixture(params=["postgres", "sqlite"])
def store(request: pytest.FixtureRequest) -> Storage:
    """Not entered: the bus does that."""
    if request.param == "postgres":
        return PostgresStorage(request.getfixturevalue("storage").config)
    return SqliteStorage()


class Bills:
    """Writes a row for each message; hangs at those of `hangs`, as often as told."""

    def __init__(self, storage: Storage, **hangs: int) -> None:
        self.storage = storage
        self.hangs = hangs
        self.release = asyncio.Event()
        self.calls: list[str] = []
        self.letters: Sequence[Mapping[str, Any]] = ()
        self.group: Group = GROUP

    async def bill(self, event: Untyped, ctx: Context) -> None:
        name = str(event.data["name"])
        self.calls.append(name)
        if self.group.transactional:
            await ctx.sql.execute(f"INSERT INTO {self.table} (name) VALUES ($1)", name)
        if self.hangs.get(name):
            self.hangs[name] -= 1
            await hang(self.release)
            if self.group.transactional:
                await ctx.sql.execute(f"INSERT INTO {self.table} (name) VALUES ('late')")

    async def rows(self) -> list[str]:
        async with self.storage.transaction() as tx:
            return [row["name"] for row in await tx.sql.fetch(f"SELECT name FROM {self.table}")]

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await holds():
                await self.storage.wait("timers", at_most=timedelta(milliseconds=10))

    def bus(self, group: Group = GROUP, storage: Storage | None = None) -> EventBus:
        self.group = group

        @subscribe("billing.asked", group=group)
        async def bill(event: Untyped, ctx: Context) -> None:
            await self.bill(event, ctx)

        return EventBus(MemoryTransport(), storage=storage, handlers=[bill])

    async def through(self, bus: EventBus, names: list[str], *, rows: int) -> list[str]:
        """Publish them at once, of one key what is equal before a dash; the rows in the end.

        The handlers that hang are released once so many rows are there and nothing else waits.
        """
        async with bus:
            self.table = await make_table(self.storage, "name text")
            async with bus.transaction() as tx:
                for name in names:
                    key = name.partition("-")[0]
                    await tx.publish("billing.asked", {"name": name}, key=key)

            async def done() -> bool:
                waits = await bus.parked.list()
                return len(self.calls) >= len(names) and all(
                    one["state"] == "dead" for one in waits
                )

            await self.until(done)
            await bus.until_idle(at_most=SOME_TIME)
            assert "do not end when cancelled" in " ".join((await bus.health()).causes)
            before, self.letters = await self.rows(), await bus.dead_letters.list()
            self.release.set()

            async def well() -> bool:
                return (await bus.health()).ready

            await self.until(well)
            assert await self.rows() == before, "what a zombie still does counts for nothing"
        assert len(before) == rows
        return before


async def test_the_rest_of_its_batch_goes_on_and_its_message_is_tried_again(store: Storage) -> None:
    bills = Bills(store, b=1)
    rows = await bills.through(bills.bus(storage=store), ["a", "b", "c", "d"], rows=4)
    assert sorted(rows) == ["a", "b", "c", "d"]
    assert bills.calls.count("b") == 2


async def test_its_key_keeps_its_order(store: Storage) -> None:
    bills = Bills(store, **{"b-2": 1})
    names = ["b-1", "a", "b-2", "b-3", "c"]
    rows = await bills.through(bills.bus(storage=store), names, rows=5)
    assert [row for row in rows if row.startswith("b")] == ["b-1", "b-2", "b-3"]
    assert sorted(rows) == sorted(names)


async def test_one_that_hangs_at_every_attempt_becomes_a_dead_letter(store: Storage) -> None:
    bills, figures = Bills(store, b=99), Figures()
    bus = bills.bus(storage=store).replace(instrumentation=figures)
    rows = await bills.through(bus, ["a", "b", "c"], rows=2)
    assert sorted(rows) == ["a", "c"]
    assert bills.calls.count("b") == 3, "its attempts are counted, in redelivery too"
    [letter] = bills.letters
    assert (letter["key"], letter["attempts"], letter["reason"]) == ("b", 3, "exhausted")
    again = {dict(labels)["outcome"]: n for labels, n in figures.of("redriven_total").items()}
    assert again == {"parked": 1, "dead": 1}


async def test_outside_a_transaction_too(store: Storage) -> None:
    bills = Bills(store, **{"b-2": 1})
    group = Group("billing", lanes=1, timeout=GROUP.timeout, retry=GROUP.retry, transactional=False)
    await bills.through(bills.bus(group, store), ["a", "b-1", "b-2", "b-3"], rows=0)
    assert [name for name in bills.calls if name[0] == "b"] == ["b-1", "b-2", "b-2", "b-3"]


async def test_of_a_batch_handler_each_message_runs_alone_then(store: Storage) -> None:
    batches: list[int] = []
    release = asyncio.Event()

    @subscribe(Asked, group=GROUP, batch=True)
    async def bill(events: Sequence[Asked], ctx: Context) -> None:
        batches.append(len(events))
        if len(batches) == 1:
            await hang(release)

    bus = EventBus(MemoryTransport(), storage=store, handlers=[bill])
    async with bus:
        async with bus.transaction() as tx:
            for number in range(4):
                await tx.publish(Asked(name=str(number)))
        await bus.until_idle(at_most=SOME_TIME)
        release.set()
    assert batches == [4, 1, 1, 1, 1]


async def test_without_a_storage_it_is_a_dead_letter_and_the_others_go_on() -> None:
    broker, seen, release = MemoryBroker(), list[str](), asyncio.Event()
    group = Group("billing", lanes=1, timeout=GROUP.timeout, retry=GROUP.retry)

    @subscribe("billing.asked", group=group)
    async def bill(event: Untyped) -> None:
        seen.append(str(event.data["name"]))
        if event.data["name"] == "b":
            await hang(release)

    async with EventBus(MemoryTransport(broker), handlers=[bill]) as bus:
        for name in ("a", "b", "c"):
            await bus.publish("billing.asked", {"name": name}, key=name)
        await bus.until_idle(at_most=SOME_TIME)
        [letter] = broker.published("billing.billing.dlq")
        release.set()
    assert sorted(seen) == ["a", "b", "c"], "it is not started again"
    assert letter.key == "b"
    assert letter.headers["native:eventbus-dead-error-code"] == "EB4103"


async def test_its_connection_is_cut_and_its_locks_are_free(
    storage: PostgresStorage, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Else the server would keep them until its transaction had idled for 45 s."""
    table = await make_table(storage, "name text")
    release, pids = asyncio.Event(), list[int]()

    @subscribe("billing.asked", group=GROUP)
    async def bill(event: Untyped, ctx: Context) -> None:
        await ctx.sql.execute(f"INSERT INTO {table} (name) VALUES ('a')")
        [row] = await ctx.sql.fetch("SELECT pg_backend_pid() AS pid")
        pids.append(row["pid"])
        if len(pids) == 1:
            await hang(release)

    bus = EventBus(MemoryTransport(), storage=storage, handlers=[bill])
    async with bus:
        await bus.publish("billing.asked", {}, key="a")
        async with asyncio.timeout(30):
            while len(pids) < 2:
                await storage.wait("timers", at_most=timedelta(milliseconds=10))
        await bus.until_idle(at_most=SOME_TIME)
        alive = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pids[0]
        )
        assert (len(pids), alive) == (2, 0)
        async with storage.transaction() as held:
            assert len(await held.sql.fetch(f"SELECT name FROM {table}")) == 1
        release.set()


async def test_what_another_member_has_by_now_is_given_up_at_the_deadline(
    storage: PostgresStorage,
) -> None:
    """Its handlers are within their time, and hold the inbox rows that the new owner waits for."""
    broker = MemoryBroker(style="log", partitions=8, revoke_seconds=0.05)
    group = Group("billing", batch_messages=1)
    table = await make_table(storage, "name text, by text")
    release, here, there = asyncio.Event(), list[str](), list[str]()

    def bus(by: str, seen: list[str]) -> EventBus:
        @subscribe("billing.asked", group=group)
        async def bill(event: Untyped, ctx: Context) -> None:
            name = str(event.data["name"])
            await ctx.sql.execute(f"INSERT INTO {table} (name, by) VALUES ($1, $2)", name, by)
            seen.append(name)
            if by == "here":
                await release.wait()

        return EventBus(
            MemoryTransport(broker), storage=PostgresStorage(storage.config), handlers=[bill]
        )

    names = [f"n{number}" for number in range(16)]
    async with bus("here", here) as one:
        async with one.transaction() as tx:
            for name in names:
                await tx.publish("billing.asked", {"name": name}, key=name)
        async with asyncio.timeout(60):
            while len(here) < 4:
                await storage.wait("timers", at_most=timedelta(milliseconds=10))
            async with bus("there", there) as other:
                while not set(there) & set(here):  # the first one is still in its handler
                    await storage.wait("timers", at_most=timedelta(milliseconds=10))
                release.set()
                await other.until_idle(at_most=SOME_TIME)
                await one.until_idle(at_most=SOME_TIME)
    async with storage.transaction() as held:
        rows = await held.sql.fetch(f"SELECT name, by FROM {table}")
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert {row["by"] for row in rows} == {"here", "there"}
