"""What the pipeline promises when things happen at once: breaker, pauses, killers, take-over."""

import asyncio
from datetime import timedelta

import pytest

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.errors import StorageError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.sqlite import SqliteStorage


class Placed(Event, type="pipeline.placed", key="order"):
    order: str
    number: int = 0


async def until_it_says(bus: EventBus, word: str) -> None:
    """Until the health of group g has the word."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while word not in (await bus.health()).services["consumer:g"]:
            turn = loop.create_future()
            loop.call_later(0.01, turn.set_result, None)
            await turn


async def test_a_dependency_that_is_down_pauses_the_group_instead_of_burying_its_messages() -> None:
    down = True
    seen: list[int] = []

    @subscribe(Placed, group=Group("g", retry=RetryPolicy(in_place=0, parked=())))
    async def handler(event: Placed) -> None:
        if down:
            raise ConnectionError("dependency away")
        seen.append(event.number)

    bus = EventBus("memory://", storage="sqlite://", handlers=[handler])
    async with bus:
        async with bus.transaction() as tx:
            for number in range(200):
                await tx.publish(Placed(order=f"A-{number}", number=number))
        await until_it_says(bus, "circuit")
        letters = await bus.dead_letters.list(limit=1000)
    assert len(letters) == 20, "the failures that opened it, and no more"


@pytest.mark.parametrize("counted", [2, 4], ids=["its starts", "and that it could not be buried"])
async def test_a_message_whose_process_died_too_often_is_a_dead_letter_and_is_not_started(
    counted: int,
) -> None:
    started: list[str] = []

    @subscribe(Placed, group=Group("g", retry=RetryPolicy(parked=(timedelta(seconds=1),))))
    async def handler(event: Placed, ctx: Context) -> None:
        started.append(f"{event.order} {ctx.attempt}")

    storage = SqliteStorage()
    killer = Message(
        id="01a2151c-dfd9-750f-a4c6-9eed38e3e736",
        type="pipeline.placed",
        source="/local",
        topic="pipeline",
        payload=b'{"order": "killer"}',
        key="killer",
    )
    async with storage:
        for _ in range(counted):  # by processes that died in it, or before it was buried
            async with storage.transaction() as tx:
                await tx.inbox.count([killer], group="g")
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    bus = EventBus(transport, storage=storage, handlers=[handler])
    async with bus:
        await transport.publish_again([killer, killer])  # the second one is no further attempt
        await bus.publish(Placed(order="neighbour"))
        await bus.until_idle()
        letters = await bus.dead_letters.list()
    assert started == ["neighbour 1"]
    assert [(row["key"], row["attempts"], row["reason"]) for row in letters] == [
        ("killer", 3, "exhausted")
    ]
    assert "ProcessKilledError" in letters[0]["error_type"]


async def test_what_a_dead_process_may_have_started_is_counted_before_it_starts() -> None:
    attempts: list[int] = []

    @subscribe(Placed, group="g")
    async def handler(event: Placed, ctx: Context) -> None:
        attempts.append(ctx.attempt)

    storage = SqliteStorage()
    bus = EventBus("memory://", storage=storage, handlers=[handler])
    async with bus.client():
        await bus.publish(Placed(order="A"))
    async with bus.replace(transport="memory://") as again:
        await again.until_idle()
        async with again.transaction() as tx:
            counted = await tx.sql.fetch("SELECT attempts FROM eventbus_attempts")
    assert attempts == [1]
    assert [row["attempts"] for row in counted] == [1]


async def test_a_paused_group_takes_nothing_and_goes_on_when_resumed() -> None:
    seen: list[str] = []
    handled = asyncio.Event()

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        seen.append(event.order)
        handled.set()

    storage = SqliteStorage()
    bus = EventBus("memory://", storage=storage, handlers=[handler])
    async with bus.client():
        await bus.parked.change("pause", actor="tests", group="g")
    async with bus:
        await until_it_says(bus, "paused")
        await bus.publish(Placed(order="A"))
        assert seen == []
        await bus.parked.change("resume", actor="tests", group="g")
        async with asyncio.timeout(30):
            await handled.wait()
    assert seen == ["A"]


async def test_two_buses_on_one_broker_share_a_group_and_nothing_is_lost() -> None:
    seen: list[str] = []

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        seen.append(event.order)

    broker = MemoryBroker()
    first = EventBus(MemoryTransport(broker), handlers=[handler])
    second = EventBus(MemoryTransport(broker), handlers=[handler])
    async with first:
        for number in range(50):
            await first.publish(Placed(order=f"A-{number}"))
        async with second:
            for number in range(50, 100):
                await second.publish(Placed(order=f"A-{number}"))
            await second.until_idle()
        await first.until_idle()
    assert sorted(set(seen)) == sorted(f"A-{number}" for number in range(100))


async def test_a_key_under_constant_load_leaves_the_parking_soon_after_its_retry() -> None:
    """The closing round: without it the lanes would queue behind the key for ever."""
    seen: list[int] = []
    failed = False
    policy = RetryPolicy(in_place=0, parked=(timedelta(seconds=0.05),))

    @subscribe(Placed, group=Group("g", retry=policy))
    async def handler(event: Placed) -> None:
        nonlocal failed
        if event.number == 5 and not failed:
            failed = True
            raise ConnectionError("once")
        seen.append(event.number)

    bus = EventBus("memory://", storage="sqlite://", handlers=[handler])
    async with bus:
        number = 0
        async with asyncio.timeout(20):
            while number < 400 or await bus.parked.list(limit=1):
                await bus.publish(Placed(order="busy", number=number))
                number += 1
        await bus.until_idle()
    assert failed
    assert seen == list(range(number))


async def test_a_group_with_too_much_parked_pauses_and_goes_on_when_it_is_worked_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventbus.pubsub.redelivery.MOST_BEHIND_KEY", 20)
    seen: list[int] = []
    down = True

    @subscribe(Placed, group=Group("g", retry=RetryPolicy(in_place=0, parked=())))
    async def handler(event: Placed) -> None:
        if down and event.number == 0:
            raise ConnectionError("away")
        seen.append(event.number)

    async with EventBus("memory://", storage="sqlite://", handlers=[handler]) as bus:
        for number in range(40):
            await bus.publish(Placed(order="A", number=number))
        await until_it_says(bus, "too much is parked")
        down = False
        await bus.dead_letters.change("redrive", actor="tests", group="g")
        await until_it_says(bus, "running")
        await bus.until_idle()
    assert seen == list(range(40))


@pytest.mark.parametrize("code", ["EB5001", "EB5004", "EB5007", "EB5011"])
async def test_a_parked_message_whose_transaction_does_not_get_through_fails_with_what_it_met(
    code: str,
) -> None:
    """By the policy of its group; that its attempts never ended is said of killers only."""
    soon = timedelta(milliseconds=10)

    @subscribe(Placed, group=Group("g", retry=RetryPolicy(in_place=0, parked=(soon, soon))))
    async def handler(event: Placed, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("park it")
        raise StorageError(code, "no end", where="a lock", why="held", next="look who holds it")

    bus = EventBus("memory://", storage="sqlite://", handlers=[handler])
    async with asyncio.timeout(60), bus:
        await bus.publish(Placed(order="A-1"))
        while not (letters := await bus.dead_letters.list()):
            await bus.until_idle()
    assert [(row["attempts"], row["error"].split()[0]) for row in letters] == [(3, code)]


@pytest.mark.parametrize("code", ["EB5004", "EB5007", "EB5011"])
async def test_a_message_whose_transaction_never_gets_through_is_parked_and_its_neighbours_are_done(
    code: str,
) -> None:
    seen: list[str] = []

    @subscribe(Placed, group=Group("g", retry=RetryPolicy(in_place=0, parked=())))
    async def handler(event: Placed) -> None:
        if event.order == "slow":
            raise StorageError(code, "no end", where="a lock", why="held", next="look who holds it")
        seen.append(event.order)

    async with EventBus("memory://", storage="sqlite://", handlers=[handler]) as bus:
        async with bus.transaction() as tx:
            for order in ("before", "slow", "after"):
                await tx.publish(Placed(order=order))
        await bus.until_idle(at_most=timedelta(seconds=20))
        letters = await bus.dead_letters.list()
    assert sorted(set(seen)) == ["after", "before"]
    assert [row["key"] for row in letters] == ["slow"]
