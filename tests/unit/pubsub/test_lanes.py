"""Lanes: order per key, limits of a batch, conflicts split up, what is lost does not start."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Group
from eventbus.errors import StorageError
from eventbus.message import Message
from eventbus.pubsub.gate import Gate
from eventbus.pubsub.lanes import CONFLICTS, Lane, lane_for
from eventbus.pubsub.watchdog import Run, Watchdog
from eventbus.resilience import CircuitBreaker
from eventbus.transport import Delivery


@dataclass(eq=False)
class Handed:
    """A delivery."""

    message: Message
    redelivered: bool = False
    lost: bool = False
    malformed: str | None = None
    partition: str = "p/0"
    offset: str = "0"


def handed(key: str | None, number: int = 0, *, redelivered: bool = False) -> Handed:
    return Handed(
        Message(
            id=f"{key}-{number}",
            type="lanes.tested",
            source="/tests",
            topic="lanes",
            payload=b"x" * 10,
            key=key,
        ),
        redelivered=redelivered,
    )


class Batches:
    """Records the batches of a lane; conflicts with what `meets` names."""

    def __init__(
        self,
        meets: Callable[[Sequence[Delivery], Run], bool] = lambda b, r: False,
        code: str = "EB5011",
    ) -> None:
        self.seen: list[list[str]] = []
        self.meets = meets
        self.code = code

    async def run(self, batch: Sequence[Delivery], run: Run, stop: asyncio.Event) -> int:
        self.seen.append([one.message.id for one in batch])
        if self.meets(batch, run):
            raise StorageError(self.code, "deadlock", where="here", why="crossed", next="again")
        return len(batch)


class Worked:
    """A lane that works until it has nothing more to do."""

    def __init__(self, group: Group, batches: Batches) -> None:
        self.done: list[str] = []
        self.wanted = 0
        self.enough = asyncio.Event()
        self.lane = Lane(group, batches, Gate(CircuitBreaker()), self._done, lambda lost: None)

    def _done(self, deliveries: Sequence[Delivery]) -> None:
        self.done += [one.message.id for one in deliveries]
        if len(self.done) >= self.wanted:
            self.enough.set()

    async def off(self, count: int) -> None:
        self.wanted = count
        watchdog = Watchdog("g", Group("g").timeout)
        task = asyncio.create_task(self.lane.keep(watchdog, "test:lane"), name="test:lane")
        async with asyncio.timeout(30):
            await self.enough.wait()
        self.lane.stop()
        await task


async def test_a_batch_takes_what_is_ready_within_messages_and_bytes() -> None:
    batches = Batches()
    worked = Worked(Group("g", batch_messages=3, batch_bytes=25), batches)
    for number in range(6):
        worked.lane.put(handed("A", number))
    await worked.off(6)
    assert [len(batch) for batch in batches.seen] == [2, 2, 2]
    assert worked.done == [f"A-{number}" for number in range(6)]


async def test_redelivered_messages_come_in_batches_of_their_own() -> None:
    batches = Batches()
    worked = Worked(Group("g"), batches)
    for number, redelivered in enumerate([False, True, True, False]):
        worked.lane.put(handed("A", number, redelivered=redelivered))
    await worked.off(4)
    assert batches.seen == [["A-0"], ["A-1", "A-2"], ["A-3"]]


async def test_a_batch_in_conflict_goes_on_message_by_message_and_only_the_offender_is_blamed() -> (
    None
):
    def meets(batch: Sequence[Delivery], run: Run) -> bool:
        offends = any(one.message.id == "A-1" for one in batch)
        return offends and run.blamed is None

    batches = Batches(meets)
    worked = Worked(Group("g"), batches)
    for number in range(3):
        worked.lane.put(handed("A", number))
    await worked.off(3)
    assert worked.done == ["A-0", "A-1", "A-2"]
    assert batches.seen[:CONFLICTS] == [["A-0", "A-1", "A-2"]] * CONFLICTS
    assert ["A-0"] in batches.seen, "the others of the batch go through"
    assert batches.seen.count(["A-1"]) > CONFLICTS, "alone, as often, before it is blamed"


@pytest.mark.parametrize(
    ("transactional", "called", "blamed"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
async def test_who_lost_its_connection_is_blamed_only_if_a_handler_was_at_it(
    monkeypatch: pytest.MonkeyPatch, transactional: bool, called: bool, blamed: bool
) -> None:
    monkeypatch.setattr("eventbus.pubsub.lanes.CONFLICTS", 1)
    away = 4
    blames: list[bool] = []

    def loses(batch: Sequence[Delivery], run: Run) -> bool:
        nonlocal away
        blames.append(run.blamed is not None)
        run.called = called
        away -= 1
        return away > 0 and run.blamed is None

    batches = Batches(loses, code="EB5001")
    worked = Worked(Group("g", transactional=transactional), batches)
    worked.lane.put(handed("A", 0))
    await worked.off(1)
    assert blames[-1] == blamed


async def test_an_outage_is_no_suspicion_against_what_meets_another_one_after_it() -> None:
    codes = ["EB5001"] * 2 * CONFLICTS + ["EB5011"]
    blames: list[bool] = []

    def meets(batch: Sequence[Delivery], run: Run) -> bool:
        blames.append(run.blamed is not None)
        batches.code = codes.pop(0) if codes else "EB5001"
        return len(blames) <= 2 * CONFLICTS + 1

    batches = Batches(meets)
    worked = Worked(Group("g"), batches)
    worked.lane.put(handed("A", 0))
    await worked.off(1)
    assert not any(blames)


async def test_what_a_batch_waits_for_is_told_once_and_that_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    away = 3

    def fails(batch: Sequence[Delivery], run: Run) -> bool:
        nonlocal away
        away -= 1
        return away > 0

    worked = Worked(Group("g"), Batches(fails, code="EB5001"))
    worked.lane.put(handed("A", 0))
    await worked.off(1)
    assert [one.partition("\n")[0] for one in caplog.messages] == [
        "group g: batch runs again: EB5001 deadlock",
        "group g goes on",
    ]


async def test_what_is_lost_while_it_waits_does_not_start() -> None:
    batches = Batches()
    worked = Worked(Group("g"), batches)
    kept, lost = handed("A", 0), handed("A", 1)
    worked.lane.put(kept)
    worked.lane.put(lost)
    lost.lost = True
    worked.lane.drop_lost()
    await worked.off(1)
    assert batches.seen == [["A-0"]]


keys = st.lists(st.sampled_from(["a", "b", "c", "t1/d", "é"]), min_size=1, max_size=40)


@given(keys, st.integers(1, 64))
def test_a_key_has_one_lane_and_redelivered_ones_find_it(given_keys: list[str], width: int) -> None:
    group = Group("g", lanes=width)
    lanes = [
        Lane(group, Batches(), Gate(CircuitBreaker()), lambda done: None, lambda lost: None)
        for _ in range(width)
    ]
    for key in given_keys:
        first = lane_for(handed(key), lanes, group)
        assert lane_for(handed(key, redelivered=True), lanes, group) is first


@pytest.mark.parametrize("order", ["key", "none"])
def test_what_has_no_order_goes_where_least_waits(order: str) -> None:
    group = Group("g", order=order, lanes=2)  # type: ignore[arg-type]  # the two words
    lanes = [
        Lane(group, Batches(), Gate(CircuitBreaker()), lambda done: None, lambda lost: None)
        for _ in range(2)
    ]
    lanes[0].put(handed("x"))
    key = None if order == "key" else "x"
    assert lane_for(handed(key), lanes, group) is lanes[1]
