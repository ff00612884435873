"""Rows 44 and 45, and starts against early events: engines that meet at the same sagas.

`EVENTBUS_FAULTS=full` for thousands of rounds; otherwise each race is run a few dozen times.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from uuid import UUID

import orjson
import pytest

from eventbus.message import Message
from eventbus.saga import calls
from eventbus.saga.calls import CallWorker
from eventbus.saga.timers import Timers
from eventbus.service import Service, pause
from tests.conformance.postgres import database
from tests.faults.saga_races import sagas
from tests.faults.saga_races.sagas import (
    Awaiting,
    Begun,
    Calling,
    Seen,
    Ticked,
    Ticking,
    Timed,
    answer,
)
from tests.faults.saga_races.worker import Counted, Worker, made, workers

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
ROUNDS = 2_000 if FULL else 60
MOST = 10  # times so many, until each side has won its share
TICKS = 10_000 if FULL else 200
CALLS = 2_000 if FULL else 40
AT_ONCE = 20  # answers and time-outs in one heat
AROUND_SECONDS = 0.005  # each comes so much before or after its time, at most

pytestmark = pytest.mark.timeout(600 if FULL else 120)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@asynccontextmanager
async def working(*services: Service) -> AsyncIterator[None]:
    """Until the block is left."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number, service in enumerate(services):
            tasks.create_task(service.run(stopping), name=f"race:{number}")
        try:
            yield
        finally:
            stopping.set()


async def begun(worker: Worker, amount: int, first: int = 0) -> list[UUID]:
    """So many sagas; their ids, in order."""
    numbers = range(first, first + amount)
    starts = [made(Begun(race=f"r{number}")) for number in numbers]
    for place in range(0, amount, 100):
        await worker.take(starts[place : place + 100])
    rows = await worker.rows("SELECT saga_id, business_key FROM {schema}.saga")
    found = {row["business_key"]: row["saga_id"] for row in rows}
    return [found[f"r{number}"] for number in numbers]


async def stories(worker: Worker) -> dict[UUID, list[tuple[str, str | None]]]:
    """Of each saga, what was fed to it, and why it was ignored; no version is missing or twice."""
    found: dict[UUID, list[tuple[str, str | None]]] = {}
    versions: dict[UUID, list[int]] = {}
    query = "SELECT saga_id, version, input_kind, detail FROM {schema}.saga_journal ORDER BY 1, 2"
    for row in await worker.rows(query):
        ignored = orjson.loads(row["detail"]).get("ignored")
        found.setdefault(row["saga_id"], []).append((row["input_kind"], ignored))
        versions.setdefault(row["saga_id"], []).append(row["version"])
    assert [each for each in versions.values() if each != list(range(1, len(each) + 1))] == []
    return found


async def statuses(worker: Worker) -> Counter[str]:
    return Counter(row["status"] for row in await worker.rows("SELECT status FROM {schema}.saga"))


async def sagas_that_sent(worker: Worker, type: str) -> int:
    """How many sagas sent it; an undo that is not answered soon is sent again."""
    query = "SELECT count(DISTINCT key) AS n FROM {schema}.outbox WHERE type = $1"
    (row,) = await worker.rows(query, type)
    return int(row["n"])


async def test_an_answer_and_its_time_out_at_once_have_one_winner(server: str) -> None:
    """Row 45: within 5 ms of each other, answers at two workers at once, timers of two."""
    counted = Counted()
    async with workers(server, Timed, 4, counted) as (one, other, third, fourth):
        race, raced = Race((one, other)), 0
        undone: list[UUID] = []
        while raced < ROUNDS * MOST and not raced / 20 < len(undone) < raced * 19 / 20:
            ids = await begun(one, ROUNDS, first=raced)
            async with firing(third, fourth):
                for place in range(0, ROUNDS, AT_ONCE):
                    await race.heat(ids[place : place + AT_ONCE])
            raced += ROUNDS
            undone = [row["saga_id"] for row in await one.rows(_OPEN)]
        for place in range(0, len(undone), 100):
            await one.take([answer(each, "undo") for each in undone[place : place + 100]])
        told, found = await statuses(one), await stories(one)
        assert await sagas_that_sent(one, "race.act") == raced
        assert await sagas_that_sent(one, "race.take-back") == len(undone)
    assert told == Counter(completed=raced - len(undone), compensated=len(undone))
    assert raced / 20 < len(undone) < raced * 19 / 20, "no race: nobody was met"
    late = {each for each, story in found.items() if ("replied", "late") in story}
    assert late == set(undone)
    assert "saga_tripwire_total" not in counted.counts


_OPEN = "SELECT saga_id FROM {schema}.saga WHERE status = 'compensating'"


@asynccontextmanager
async def firing(*all_of_them: Worker) -> AsyncIterator[None]:
    """Timers that look all the time."""
    over = False

    async def look(worker: Worker) -> None:
        timers = Timers(worker.engine, worker.storage)
        while not over:
            await timers._turn()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for worker in all_of_them:
            tasks.create_task(look(worker), name=f"timers:{worker.seed}")
        try:
            yield
        finally:
            over = True


class Race:
    """Heats; whoever lost one begins the next a little earlier, on a machine of any speed."""

    def __init__(self, all_of_them: Sequence[Worker]) -> None:
        self._workers = all_of_them
        self._dice = Random(7)
        self._lead_seconds = 0.0  # of the answers

    async def heat(self, ids: Sequence[UUID]) -> None:
        """Until time-outs and answers of all of them are done with."""
        (one, *_) = self._workers
        at = time.time() + 0.03
        await one.rows(_DUE, ids, [at + self._around() for _ in ids])
        answers = [(at - self._lead_seconds + self._around(), answer(each)) for each in ids]
        answers.sort(key=lambda pair: pair[0])
        async with asyncio.TaskGroup() as tasks:
            for worker in self._workers:
                tasks.create_task(in_time(worker, answers), name=f"answers:{worker.seed}")
        rows = await one.rows(
            "SELECT count(*) AS won FROM {schema}.saga"
            " WHERE status = 'completed' AND saga_id = ANY($1::uuid[])",
            ids,
        )
        self._lead_seconds += 0.001 if rows[0]["won"] < len(ids) / 2 else -0.001

    def _around(self) -> float:
        return self._dice.uniform(-1, 1) * AROUND_SECONDS


_DUE = (
    "UPDATE {schema}.saga_timer t SET due_at = to_timestamp(u.due)"
    " FROM unnest($1::uuid[], $2::float8[]) u(id, due) WHERE t.saga_id = u.id"
)


async def in_time(worker: Worker, answers: Sequence[tuple[float, Message]]) -> None:
    """Take each when it comes; those that came meanwhile together."""
    place = 0
    while place < len(answers):
        await pause(asyncio.Event(), max(0.0, answers[place][0] - time.time()))
        here = place + 1
        while here < len(answers) and answers[here][0] <= time.time() and here - place < 8:
            here += 1
        await worker.take([message for _, message in answers[place:here]])
        place = here


async def test_an_event_that_comes_at_once_with_its_start_is_taken_once(server: str) -> None:
    counted = Counted()
    async with workers(server, Awaiting, 2, counted) as (one, other):
        starts = [made(Begun(race=f"r{number}")) for number in range(ROUNDS)]
        events = [made(Seen(race=f"r{number}")) for number in range(ROUNDS)]
        ahead: dict[Worker, int] = {one: 0, other: 0}

        async def side_by_side(worker: Worker, messages: Sequence[Message]) -> None:
            """In batches; who is ahead waits, or one of them would win every race."""
            (rival,) = ahead.keys() - {worker}
            while ahead[worker] < len(messages):
                size = worker.dice.randint(1, 5)
                await worker.take(messages[ahead[worker] : ahead[worker] + size])
                ahead[worker] += size
                while ahead[rival] < min(ahead[worker] - 5, len(messages)):  # noqa: ASYNC110 - no event is as close
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(side_by_side(one, starts), name="starts:1")
            tasks.create_task(side_by_side(other, events), name="events:1")
        told, found = await statuses(one), await stories(one)
        assert await one.rows("SELECT 1 FROM {schema}.saga_stash") == []
        (row,) = await one.rows("SELECT last_value AS early FROM {schema}.saga_stash_id_seq")
    assert told == Counter(completed=ROUNDS)
    assert {tuple(story) for story in found.values()} == {(("started", None), ("received", None))}
    assert 1 < row["early"] < ROUNDS, "no race: all of them were early, or none"


async def test_of_eight_workers_at_one_saga_one_at_a_time_moves_it(server: str) -> None:
    """Row 44: each input is offered to two of them, and counts once."""
    counted = Counted()
    async with workers(server, Ticking, 8, counted) as all_of_them:
        (saga_id,) = await begun(all_of_them[0], 1)
        ticks = [made(Ticked(race="r0")) for _ in range(TICKS)]
        dice = Random(3)
        piles: list[list[Message]] = [[] for _ in all_of_them]
        for tick in ticks:
            for pile in dice.sample(piles, 2):
                pile.append(tick)

        async def work(worker: Worker, pile: list[Message]) -> None:
            while pile:
                size = worker.dice.randint(1, 4)
                await worker.take([pile.pop() for _ in range(min(size, len(pile)))])

        async with asyncio.TaskGroup() as tasks:
            for worker, pile in zip(all_of_them, piles, strict=True):
                tasks.create_task(work(worker, pile), name=f"worker:{worker.seed}")
        await all_of_them[0].take([made(Ticked(race="r0", last=True))])
        found = (await stories(all_of_them[0]))[saga_id]
        (row,) = await all_of_them[0].rows("SELECT status, version, data FROM {schema}.saga")
    assert orjson.loads(row["data"])["ticks"] == TICKS + 1
    assert row["status"] == "completed"
    assert Counter(found) == {("started", None): 1, ("received", None): TICKS + 1}
    assert "saga_tripwire_total" not in counted.counts


async def test_a_call_that_outlives_its_lease_is_finished_by_one_owner(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 44: leases of 200 ms that nobody extends, eight workers, calls of up to 300 ms."""
    monkeypatch.setattr(calls, "LEASE", timedelta(milliseconds=200))
    monkeypatch.setattr(CallWorker, "_beat", lambda *_: asyncio.Event().wait())
    sagas.asked.clear()
    counted = Counted()
    async with workers(server, Calling, 8, counted) as all_of_them:
        await begun(all_of_them[0], CALLS)
        callers = [CallWorker(each.engine, each.storage) for each in all_of_them]
        async with working(*callers):
            while (await statuses(all_of_them[0]))["completed"] < CALLS:
                await pause(asyncio.Event(), 0.1)
        found = await stories(all_of_them[0])
    assert sum(each.finished for each in callers) == CALLS
    assert len(sagas.asked) == len(set(sagas.asked)), "two owners under one fence"
    assert len({effect_id for effect_id, _ in sagas.asked}) == CALLS
    assert {tuple(story) for story in found.values()} == {(("started", None), ("call", None))}
    assert counted.counts["fenced_writes_total"] > 0, "no race: no lease ran out"
