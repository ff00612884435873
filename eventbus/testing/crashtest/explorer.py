"""A dry run that counts the points, then a run for each of them, and for those in its recovery."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from eventbus.bus import EventBus
from eventbus.testing.crashtest.in_memory import InMemory
from eventbus.testing.crashtest.ledger import Check, Ledger, Standing, Violation
from eventbus.testing.crashtest.life import Drive, Life, Orders, Subject
from eventbus.testing.crashtest.points import Point, chosen, depth_of


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


class World(Protocol):
    """What outlives the processes of one trial."""

    async def prepare(self) -> None:
        """Make what they need; nobody dies here."""
        ...

    async def live(self, orders: Orders) -> Life:
        """One process, to its kill or its end."""
        ...

    async def close(self) -> None:
        """Take away what was made."""
        ...


@dataclass(slots=True, kw_only=True)
class _Explorer:
    begin: Callable[[], World]
    told: Callable[[Trial], None]
    dry: Standing | None = None
    recovery: Sequence[Point] = ()  # of the last process of the last trial
    trials: list[Trial] = field(default_factory=list)

    async def trial(self, kills: tuple[Point, ...]) -> Trial:
        """A process for each kill, and one that finishes."""
        world = self.begin()
        try:
            await world.prepare()
            found = await self._lives(world, kills)
        finally:
            await world.close()
        self.trials.append(found)
        self.told(found)
        return found

    async def _lives(self, world: World, kills: tuple[Point, ...]) -> Trial:
        calls: list[Sequence[str]] = []
        cut, drives = False, True
        for kill in kills:
            orders = Orders(kill=kill, drives=drives, cut=cut, dry=self.dry)
            life = await world.live(orders)
            if not life.killed:
                return Trial(kills=kills, hit=False, calls=calls)
            cut = cut or (drives and life.phase != "draining")
            calls.append(life.calls)
            drives = False
        last = await world.live(Orders(drives=drives, cut=cut, dry=self.dry))
        if self.dry is None:
            self.dry = last.standing
        self.recovery = last.points
        return Trial(kills=kills, hit=True, calls=calls, violations=last.violations)


async def explored(
    begin: Callable[[], World],
    *,
    points: Sequence[str] = ("*",),
    depth: int = 1,
    told: Callable[[Trial], None] = lambda _: None,
) -> Report:
    """A run without a crash, and one for every point of it, in worlds of their own.

    Args:
        begin: makes a world.
        points: patterns of crash points.
        depth: so many crashes in a row.
        told: of every run.
    """
    explorer = _Explorer(begin=begin, told=told)
    first = await explorer.trial(())
    if not first.violations:
        await _deeper(explorer, (), points, max(depth, depth_of(points)))
    failing = [] if explorer.dry is None else explorer.dry.failing
    return Report(trials=explorer.trials, failing=failing)


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
    subject = Subject(
        app=app,
        scenario=scenario,
        prepare=prepare,
        checks=invariants,
        ledger=await Ledger.of(app),
    )
    chance = random.getstate()  # each world begins with the seed; the caller's goes on after it
    try:
        return await explored(lambda: InMemory(subject, seed=seed), points=points, depth=depth)
    finally:
        random.setstate(chance)


async def _deeper(
    explorer: _Explorer, kills: tuple[Point, ...], patterns: Sequence[str], left: int
) -> None:
    """Each point that the last trial's last process passed, as a further kill."""
    for point in explorer.recovery:
        row = (*kills, point)
        if not chosen(row, patterns):
            continue
        trial = await explorer.trial(row)
        if left > 1 and trial.hit:
            await _deeper(explorer, row, patterns, left - 1)
