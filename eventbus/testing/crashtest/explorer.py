"""crashtest: a dry run that counts the points, then a run for each, and those in its recovery."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from eventbus.bus import EventBus
from eventbus.testing.crashtest.ledger import (
    Check,
    Ledger,
    Standing,
    Violation,
    judged_by_user,
)
from eventbus.testing.crashtest.life import Drive, World
from eventbus.testing.crashtest.points import CrashPlan, Point, chosen, depth_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run: where its processes died, and what did not hold once the last one was at rest."""

    kills: tuple[Point, ...]
    hit: bool  # False: the last kill was not reached; nothing was judged
    calls: Sequence[Sequence[str]]  # of each process that died, up to its kill
    violations: Sequence[Violation] = ()

    @property
    def outcome(self) -> Literal["held", "broken", "not reached"]:
        """In a word."""
        if not self.hit:
            return "not reached"
        return "broken" if self.violations else "held"

    def __str__(self) -> str:
        return ">".join(map(str, self.kills)) or "without a crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every run; the first one is without a crash."""

    trials: Sequence[Trial]
    failing: Sequence[str] = ()  # messages that fail without a crash too, a line each

    @property
    def hit(self) -> int:
        """How many runs died where they were to."""
        return sum(trial.hit for trial in self.trials if trial.kills)

    @property
    def failure(self) -> Trial | None:
        """The shortest one: the fewest kills, then the first on the way without a crash."""
        broken = [trial for trial in self.trials if trial.violations]
        return min(broken, key=lambda trial: len(trial.kills), default=None)

    def assert_holds(self) -> None:
        """For a test.

        Raises:
            AssertionError: an invariant was broken, or no point was hit.
        """
        if self.failure is not None:
            said = [f"{each.invariant}: {each.what}" for each in self.failure.violations]
            raise AssertionError(f"{self.failure}: {'; '.join(said)}")
        if not self.hit:
            raise AssertionError("no crash point was hit: nothing was tested")


@dataclass(slots=True, kw_only=True)
class _Explorer:
    app: EventBus
    scenario: Drive
    prepare: Drive | None
    checks: Sequence[Check]
    ledger: Ledger
    seed: int
    dry: Standing | None = None
    recovery: list[Point] = field(default_factory=list)  # of the last process of the last trial

    async def trial(self, kills: tuple[Point, ...]) -> Trial:
        """A process for each kill, and one that finishes."""
        random.seed(self.seed)
        world = World(self.app, self.ledger, seed=self.seed)
        calls: list[Sequence[str]] = []
        cut = False

        async def judge(bus: EventBus, world: World) -> Sequence[Violation]:
            async with world.storage.transaction() as tx:
                found = await self.ledger.judge(tx, dry=self.dry, cut=cut)
                if self.dry is None:
                    self.dry = await self.ledger.standing(tx)
            return [*found, *await judged_by_user(bus, self.checks)]

        try:
            await world.prepare(self.prepare)
            drive: Drive | None = self.scenario
            for kill in kills:
                plan = CrashPlan(kill)
                await world.live(plan, drive, judge)
                if not plan.frozen:
                    return Trial(kills=kills, hit=False, calls=calls)
                cut = cut or (drive is not None and plan.phase != "draining")
                calls.append(plan.calls_made)
                drive = None
            plan = CrashPlan(None)
            violations = await world.live(plan, drive, judge)
        finally:
            world.storage.close()
        self.recovery = plan.points
        return Trial(kills=kills, hit=True, calls=calls, violations=violations)


async def crashtest(
    app: EventBus,
    scenario: Drive,
    *,
    prepare: Drive | None = None,
    invariants: Sequence[Check] = (),
    points: Sequence[str] = ("*",),
    depth: int = 1,
    seed: int = 0,
) -> Report:
    """Run a scenario once for every crash point it passes, and kill it there; then judge.

    The processes are copies of the bus on a broker and a database in memory, which outlive them. A
    kill refuses every later call of the old copy, then cancels its tasks. Another copy goes on:
    what was under way is done, the scenario is not run again.

    Args:
        app: the bus; it is not entered.
        scenario: publishes and sends; what it leaves out of its own accord nobody misses.
        prepare: before each run, on an entered bus: makes tables, empties what is in memory.
        invariants: hold when everything came to rest, however far the scenario came.
        points: patterns of crash points, as in `eventbus crashtest --points`.
        depth: so many crashes in a row, the later ones during recovery.
        seed: of the choices of the broker.

    Raises what scenario and prepare raise without a crash.
    """
    ledger = Ledger(await app.replace(transport="memory://", storage="sqlite://").describe())
    explorer = _Explorer(
        app=app,
        scenario=scenario,
        prepare=prepare,
        checks=invariants,
        ledger=ledger,
        seed=seed,
    )
    chance = random.getstate()  # each trial begins with the seed; the caller's goes on after it
    try:
        first = await explorer.trial(())
        trials = [first]
        if not first.violations:
            await _deeper(explorer, (), points, max(depth, depth_of(points)), trials)
    finally:
        random.setstate(chance)
    failing = [] if explorer.dry is None else explorer.dry.failing
    return Report(trials=trials, failing=failing)


async def _deeper(
    explorer: _Explorer,
    kills: tuple[Point, ...],
    patterns: Sequence[str],
    left: int,
    trials: list[Trial],
) -> None:
    """Each point that the last trial's last process passed, as a further kill."""
    for point in explorer.recovery:
        row = (*kills, point)
        if not chosen(row, patterns):
            continue
        trial = await explorer.trial(row)
        trials.append(trial)
        if left > 1 and trial.hit:
            await _deeper(explorer, row, patterns, left - 1, trials)
