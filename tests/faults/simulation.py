"""Whole buses on a seeded loop: publishers, handlers that fail, faults, kills, drains, then peace.

One seed is one schedule: `simulate(seed)` runs it and judges what is left by K1, K2 and K6.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from unittest.mock import patch
from uuid import UUID
from zlib import crc32

from eventbus.testing.faults import (
    Hit,
)
from tests.faults.checkers.verdict import Verdict
from tests.faults.loop import SeededLoop, run_seeded
from tests.faults.simulated.judgement import judge
from tests.faults.simulated.life import Life
from tests.faults.simulated.scenario import Scenario, scenario_of
from tests.faults.simulated.world import (
    SCHEMA,
    World,
)

AT_MOST = 7200.0  # virtual seconds of a whole schedule


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a schedule showed."""

    scenario: Scenario
    verdicts: Sequence[Verdict]
    hits: Sequence[Hit]
    marks: Counter[str]
    turns: int
    digest: int

    @property
    def violations(self) -> Sequence[Verdict]:
        """The verdicts that do not hold."""
        return [verdict for verdict in self.verdicts if not verdict.ok]


async def _schedule(loop: SeededLoop, scenario: Scenario) -> Outcome:
    world = World(scenario, loop)
    async with world.storage:
        async with world.storage.transaction() as tx:
            for statement in SCHEMA:
                await tx.sql.execute(statement)
        _seed_database(world)
        await _live(world)
        verdicts = await judge(world)
    world.storage.close()
    digest = crc32(repr([world.history.operations, verdicts]).encode())
    return Outcome(
        scenario=scenario,
        verdicts=verdicts,
        hits=world.hits,
        marks=world.marks,
        turns=loop.turns,
        digest=digest,
    )


def _seed_database(world: World) -> None:
    """SQLite's own random() decides which of the free leases a relay gets."""
    draw = partial(Random(world.scenario.seed).getrandbits, 62)
    world.storage._worker.connection.create_function("random", 0, draw)


async def _live(world: World) -> None:
    """One process after the other, or, as twins, each while the one before still runs."""
    lives = range(world.scenario.lives)
    if not world.scenario.twins:
        for number in lives:
            await Life(world, number, last=number == lives[-1]).run()
        world.alone.set()
        return
    async with asyncio.TaskGroup() as others:
        tasks = [
            others.create_task(Life(world, number, last=False).run(), name=f"life:{number}")
            for number in lives[:-1]
        ]
        last = others.create_task(Life(world, lives[-1], last=True).run(), name="life:last")
        if tasks:
            await asyncio.wait(tasks)
        world.alone.set()
        await last


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Everything left to chance outside the schedule comes from the seed."""
    numbers = iter(range(1, 1 << 30))

    def new_id() -> str:
        return str(UUID(int=0x0190_0000_0000_7000_8000_0000_0000_0000 + next(numbers)))

    state = random.getstate()
    random.seed(seed)  # tenacity's jitter
    try:
        with (
            patch("eventbus.codec.encoder.new_id", new_id),
            patch("eventbus.bus.running.Random", partial(Random, seed)),
        ):
            yield
    finally:
        random.setstate(state)


def simulate(seed: int, scenario: Scenario | None = None) -> Outcome:
    """Run the schedule of a seed and judge it.

    Raises:
        Exception: the schedule came to no end: it is stuck, too long, or a promise of an API broke.
    """
    chosen = scenario or scenario_of(seed)

    async def main(loop: SeededLoop) -> Outcome:
        with repeatable(seed):
            return await _schedule(loop, chosen)

    return run_seeded(seed, main, at_most=AT_MOST)
