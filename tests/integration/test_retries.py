"""What becomes of a message that fails: retried, parked with its key, dead, redriven."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from eventbus import Context, DeadLetter, Event, EventBus, Group, Retry, RetryPolicy, subscribe
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage

POLICY = RetryPolicy(in_place=0, parked=(timedelta(seconds=10), timedelta(seconds=60)))
ACTOR = "tests"


class Step(Event, type="walk.step-taken", key="walker"):
    walker: str
    number: int


class Clock:
    """Moves the storage's time."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Walk:
    """A handler that fails as it is told, and a record of what it did, in order."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.attempts: list[tuple[str, int, int]] = []
        self.failing: dict[tuple[str, int], Exception] = {}

    @subscribe(Step, group=Group("walk", retry=POLICY))
    async def step(self, event: Step, ctx: Context) -> None:
        here = event.walker, event.number
        self.attempts.append((*here, ctx.attempt))
        await ctx.sql.execute("INSERT INTO steps (walker, number) VALUES ($1, $2)", *here)
        if here in self.failing:
            raise self.failing[here]
        self.done.append(here)

    def of(self, walker: str) -> list[int]:
        return [number for name, number in self.done if name == walker]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def walk() -> Walk:
    return Walk()


@pytest.fixture
async def bus(walk: Walk, clock: Clock) -> AsyncIterator[EventBus]:
    storage = SqliteStorage(now=clock)
    bus = EventBus(MemoryTransport(MemoryBroker()), storage=storage, handlers=[walk])
    async with bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE steps (walker text, number integer)")
        yield bus


async def steps(bus: EventBus, walker: str, numbers: range) -> None:
    for number in numbers:
        await bus.publish(Step(walker=walker, number=number))
    await bus.until_idle()


async def rows(bus: EventBus) -> int:
    async with bus.transaction() as tx:
        found = await tx.sql.fetch("SELECT count(*) AS n FROM steps")
    return int(found[0]["n"])


async def test_a_failing_message_holds_its_key_and_no_other(bus: EventBus, walk: Walk) -> None:
    walk.failing["ann", 2] = OSError("dependency away")
    await steps(bus, "ann", range(1, 5))
    await steps(bus, "bob", range(1, 4))
    assert walk.of("ann") == [1]
    assert walk.of("bob") == [1, 2, 3]
    assert await rows(bus) == 4, "what the failing handler wrote is rolled back"
    parked = await bus.parked.list(group="walk", key="ann")
    assert [row["attempts"] for row in parked] == [1, 0, 0]
    assert parked[0]["error_type"] == "OSError"


async def test_a_parked_key_goes_on_in_order_when_its_head_is_due(
    bus: EventBus, walk: Walk, clock: Clock
) -> None:
    walk.failing["ann", 2] = OSError("dependency away")
    await steps(bus, "ann", range(1, 5))
    walk.failing.clear()
    await bus.until_idle()
    assert walk.of("ann") == [1], "not before it is due"
    clock.seconds += 13
    await bus.until_idle()
    assert walk.of("ann") == [1, 2, 3, 4]
    assert ("ann", 2, 2) in walk.attempts
    await steps(bus, "ann", range(5, 7))
    assert walk.of("ann") == [1, 2, 3, 4, 5, 6]
    assert await bus.parked.list() == []


async def test_out_of_attempts_it_is_a_dead_letter_and_redrive_releases_the_key_in_order(
    bus: EventBus, walk: Walk, clock: Clock
) -> None:
    walk.failing["ann", 1] = OSError("dependency away")
    await steps(bus, "ann", range(1, 4))
    for _ in range(4):
        clock.seconds += 100
        await bus.until_idle()
    assert [attempt for _, number, attempt in walk.attempts if number == 1] == [1, 2, 3]
    letters = await bus.dead_letters.list(group="walk")
    assert [(row["reason"], row["attempts"], row["waiting"]) for row in letters] == [
        ("exhausted", 3, 2)
    ]
    assert walk.of("ann") == []
    walk.failing.clear()
    assert await bus.dead_letters.change("redrive", actor=ACTOR, group="walk") == 1
    await bus.until_idle()
    assert walk.of("ann") == [1, 2, 3]


async def test_retry_and_dead_letter_raised_by_a_handler_overrule_the_policy(
    bus: EventBus, walk: Walk, clock: Clock
) -> None:
    walk.failing["ann", 1] = Retry(after=timedelta(seconds=500))
    walk.failing["bob", 1] = DeadLetter("no such account")
    await steps(bus, "ann", range(1, 2))
    await steps(bus, "bob", range(1, 2))
    assert [row["key"] for row in await bus.dead_letters.list()] == ["bob"]
    walk.failing.clear()
    clock.seconds += 100
    await bus.until_idle()
    assert walk.of("ann") == []
    clock.seconds += 401
    await bus.until_idle()
    assert walk.of("ann") == [1]


async def test_a_discarded_letter_lets_its_key_go_on_and_restore_brings_it_back(
    bus: EventBus, walk: Walk
) -> None:
    walk.failing["ann", 1] = DeadLetter("wrong")
    await steps(bus, "ann", range(1, 4))
    assert await bus.dead_letters.change("discard", actor=ACTOR, key="ann") == 1
    await bus.until_idle()
    assert walk.of("ann") == [2, 3]


async def test_an_edited_letter_runs_with_its_new_body_under_the_same_id(
    bus: EventBus, walk: Walk
) -> None:
    walk.failing["ann", 1] = DeadLetter("wrong")
    await steps(bus, "ann", range(1, 2))
    letter = (await bus.dead_letters.list())[0]
    assert (
        await bus.dead_letters.edit(letter["id"], b'{"walker":"ann","number":9}', actor=ACTOR) == 1
    )
    await bus.dead_letters.change("redrive", actor=ACTOR, ids=(letter["id"],))
    await bus.until_idle()
    assert walk.of("ann") == [9]


async def test_a_message_that_fails_in_mid_batch_costs_its_neighbours_nothing(
    bus: EventBus, walk: Walk
) -> None:
    walk.failing["key-7", 1] = OSError("once")
    async with bus.transaction() as tx:
        for number in range(50):
            await tx.publish(Step(walker=f"key-{number}", number=1))
    await bus.until_idle()
    assert len(walk.done) == 49
    assert await rows(bus) == 49
    assert [attempt for *_, attempt in walk.attempts] == [1] * 50


async def test_order_none_parks_single_messages(clock: Clock) -> None:
    done: list[int] = []

    @subscribe(Step, group=Group("free", order="none", retry=POLICY))
    async def step(event: Step) -> None:
        if event.number == 1 and not done:
            raise OSError
        done.append(event.number)

    bus = EventBus("memory://", storage=SqliteStorage(now=clock), handlers=[step])
    async with bus:
        for number in range(1, 4):
            await bus.publish(Step(walker="ann", number=number))
            await bus.until_idle()
        assert done == [2, 3]
        clock.seconds += 13
        await bus.until_idle()
    assert done == [2, 3, 1]


async def test_a_retry_that_does_not_count_may_be_asked_for_without_end(
    bus: EventBus, walk: Walk, clock: Clock
) -> None:
    walk.failing["ann", 1] = Retry(after=timedelta(seconds=5), counted=False)
    await steps(bus, "ann", range(1, 3))
    for _ in range(8):  # more than the policy has attempts
        clock.seconds += 6
        await bus.until_idle()
    assert walk.attempts == [("ann", 1, 1)] * 9
    del walk.failing["ann", 1]
    clock.seconds += 6
    await bus.until_idle()
    assert walk.of("ann") == [1, 2]


async def test_what_did_not_count_leaves_the_attempts_that_do(
    bus: EventBus, walk: Walk, clock: Clock
) -> None:
    walk.failing["ann", 1] = ValueError("counts")
    await steps(bus, "ann", range(1, 2))
    walk.failing["ann", 1] = Retry(after=timedelta(seconds=5), counted=False)
    for _ in range(3):
        clock.seconds += 20
        await bus.until_idle()
    walk.failing["ann", 1] = ValueError("counts too")
    for _ in range(3):
        clock.seconds += 100
        await bus.until_idle()
    assert [attempt for _, _, attempt in walk.attempts] == [1, 2, 2, 2, 2, 3]
