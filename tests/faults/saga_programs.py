"""Random programs as sagas, on a seeded loop with kills, against counters in memory.

A program adds to counters, step after step, some of them at the same keys as other programs; one
step may be refused, one may be the pivot. The model knows without running anything what must come
of it: a program whose refused step does not stand behind its pivot is undone, any other is done.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from pydantic import BaseModel

from eventbus import (
    Command,
    Context,
    Event,
    EventBus,
    Group,
    Reject,
    Rejection,
    Reply,
    RetryPolicy,
    Undone,
    handles,
    undoes,
)
from eventbus.errors import StorageError
from eventbus.saga import Actions, Complete, Do, Process, State, initial, on, starts_on, undo
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import (
    Delay,
    Duplicate,
    FaultPlan,
    FaultyStorage,
    FaultyTransport,
    Kill,
    LoseReply,
)
from eventbus.testing.harness import Published, RecordingBroker
from tests.faults.loop import SeededLoop, process, run_seeded
from tests.faults.simulated.life import end_process
from tests.faults.simulated.world import START, SurvivingTransport
from tests.faults.simulation import repeatable

KEYS = 1_000
MOST_STEPS = 20
AT_MOST = 7_200.0  # virtual seconds
_GROUP = Group(
    "counters", retry=RetryPolicy(in_place=0, parked=(timedelta(seconds=1),) * 8), lanes=3
)
_FAILS = 0.05  # of the attempts


class Line(BaseModel):
    """One step of a program."""

    key: int
    delta: int


class Begun(Event, type="program.begun", key="program"):
    program: str
    lines: list[Line]
    refused: int  # the step that is refused; -1: none
    pivot: int  # -1: none


class Added(Reply, type="counter.added"):
    key: str
    delta: int


class Refused(Rejection, type="counter.refused"):
    pass


class Add(Command[Added], type="counter.add", key="key", rejects=(Refused,)):
    key: str
    program: str
    delta: int
    refuse: bool


class TakeBack(Command[Undone], type="counter.take-back", key="program"):
    program: str


class Progress(BaseModel):
    program: str
    lines: list[Line]
    refused: int
    pivot: int
    at: int = 0


class Programs(Process[Progress], name="programs", step_timeout=timedelta(minutes=30)):
    adding = State()

    @starts_on(Begun)
    def begin(self, event: Begun) -> Progress:
        return Progress(**event.model_dump())

    @on(Begun, when=initial, to=adding)
    def first(self, s: Progress, event: Begun) -> Actions:
        yield self._next(s, Add)

    @on(Added, when=adding)
    def added(self, s: Progress, reply: Added) -> Actions:
        s.at += 1
        yield Complete() if s.at == len(s.lines) else self._next(s, Add)

    def _next(self, s: Progress, add: type[Add]) -> Do[Added]:
        """Methods of a process name the commands that they send."""
        line = s.lines[s.at]
        return Do(
            f"add-{s.at}",
            add(
                key=f"k{line.key}",
                program=s.program,
                delta=line.delta,
                refuse=s.at == s.refused,
            ),
            undo=None if 0 <= s.pivot <= s.at else self.take_back,
            pivot=s.at == s.pivot,
            on_unknown="resolve" if s.at == s.pivot else None,
        )

    @undo
    def take_back(self, s: Progress, reply: Added | None) -> TakeBack:
        return TakeBack(program=s.program)


def participants(seed: int) -> Sequence[object]:
    """The counters; they fail now and then, after they wrote."""
    dice = Random(seed)

    async def write(ctx: Context, key: str, delta: int, program: str) -> None:
        await ctx.sql.execute(
            "INSERT INTO counted (key, delta, program) VALUES ($1, $2, $3)", key, delta, program
        )
        if dice.random() < _FAILS:
            raise ConnectionError("the counters are away")

    @handles(Add, group=_GROUP)
    async def add(command: Add, ctx: Context) -> Added:
        await write(ctx, command.key, command.delta, command.program)
        if command.refuse:
            raise Reject(Refused())
        return Added(key=command.key, delta=command.delta)

    @undoes(add, TakeBack)
    async def take_back(command: TakeBack, done: Added, ctx: Context) -> None:
        await write(ctx, done.key, -done.delta, command.program)

    return add, take_back


@dataclass(slots=True)
class Outcome:
    """What a seed showed."""

    programs: Sequence[Begun]
    statuses: dict[str, str]
    counters: Counter[str]
    left: int  # rows of what should be empty at rest
    kills: int = 0
    faults: int = 0

    @property
    def wrong(self) -> list[str]:
        """Where it differs from the model."""
        expected = {one.program: expected_status(one) for one in self.programs}
        found = [
            f"{name} is {self.statuses.get(name)}, not {status}"
            for name, status in expected.items()
            if self.statuses.get(name) != status
        ]
        model = counted(self.programs)
        found += [
            f"{key} stands at {self.counters[key]}, not {model[key]}"
            for key in sorted(self.counters.keys() | model.keys())
            if self.counters[key] != model[key]
        ]
        return found + ([f"{self.left} rows are left over"] if self.left else [])


def programs_of(seed: int, amount: int) -> list[Begun]:
    """Drawn by the seed; what is refused is the pivot or stands before it."""
    draw = Random(seed)
    found: list[Begun] = []
    for number in range(amount):
        length = draw.randint(1, MOST_STEPS)
        pivot = draw.choice((-1, draw.randrange(length)))
        before = length if pivot < 0 else pivot + 1
        refused = draw.randrange(before) if draw.random() < 0.4 else -1
        keys = KEYS if draw.random() < 0.5 else 5  # some fight for the same
        lines = [Line(key=draw.randrange(keys), delta=draw.randint(-9, 9)) for _ in range(length)]
        program = f"p{seed}-{number}"
        found.append(Begun(program=program, lines=lines, refused=refused, pivot=pivot))
    return found


def expected_status(program: Begun) -> str:
    """The model: nothing is refused behind a pivot."""
    return "completed" if program.refused < 0 else "compensated"


def counted(programs: Sequence[Begun]) -> Counter[str]:
    """The model: counters in memory."""
    counters: Counter[str] = Counter()
    for program in programs:
        if expected_status(program) == "completed":
            for line in program.lines:
                counters[f"k{line.key}"] += line.delta
    return counters


@dataclass(slots=True)
class _World:
    """What outlives a process."""

    seed: int
    loop: SeededLoop
    programs: Sequence[Begun]
    storage: SqliteStorage = field(init=False)
    broker: RecordingBroker = field(init=False)
    kills: int = 0
    faults: int = 0

    def __post_init__(self) -> None:
        self.storage = SqliteStorage(stepwise=True, now=self.now)
        style: Any = ("log", "queue")[self.seed % 2]
        self.broker = RecordingBroker(
            Published(), style=style, seed=self.seed, stepwise=True, now=self.now
        )

    def now(self) -> float:
        return START + self.loop.time()


class _Life:
    """A process from its start to its kill, or to the end of all programs."""

    def __init__(self, world: _World, number: int, *, last: bool) -> None:
        self._world = world
        self._name = f"process:{number}"
        self._plan = FaultPlan(seed=world.seed * 31 + number)
        self._plan.sprinkle(rate=0.01, kinds=(Delay, Duplicate, LoseReply))
        self._killed = asyncio.Event()
        self._plan.on_kill = self._killed.set
        if not last:
            draw = Random(world.seed * 7 + number)
            nth = int(10 ** draw.uniform(1.0, 3.5))
            self._plan.add("*", nth, Kill(after=draw.random() < 0.5))
        self._inner = SurvivingTransport(world.broker)
        self._bus = EventBus(
            FaultyTransport(self._inner, self._plan),
            storage=FaultyStorage(world.storage, self._plan),
            handlers=[Programs, *participants(world.seed + number)],
            service="programs",
        )

    async def run(self) -> None:
        context = copy_context()
        context.run(process.set, self._name)
        work = asyncio.create_task(self._work(), name=self._name, context=context)
        dying = asyncio.create_task(self._killed.wait(), name=f"killer:{self._name}")
        await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
        self._world.faults += len(self._plan.hits)
        if self._plan.frozen:
            self._world.kills += 1
            await end_process(self._name)
            self._inner.abandon()
        else:
            dying.cancel()
            work.result()

    async def _work(self) -> None:
        """Whoever comes after a kill asks for everything again: a key is begun once."""
        async with self._bus as bus:
            for program in self._world.programs:
                await self._publish(bus, program)
            while not await self._have_ended(bus):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.5)

    async def _publish(self, bus: EventBus, program: Begun) -> None:
        while True:
            try:
                await bus.publish(program)
            except StorageError:
                await asyncio.sleep(0.1)
            else:
                return

    async def _have_ended(self, bus: EventBus) -> bool:
        """And nothing is on its way: what comes again is let come."""
        try:
            async with bus.transaction() as tx:
                (row,) = await tx.sql.fetch(
                    "SELECT (SELECT count(*) FROM eventbus_saga WHERE finished_at IS NOT NULL)"
                    " AS ended, (SELECT count(*) FROM eventbus_outbox)"
                    " + (SELECT count(*) FROM eventbus_parked) AS rest"
                )
        except StorageError:
            return False
        return row["ended"] == len(self._world.programs) and not row["rest"]


def run(seed: int, amount: int) -> Outcome:
    """Run the programs of a seed through some lives, and look at what is left.

    Raises:
        TimeoutError: they did not end.
    """

    async def main(loop: SeededLoop) -> Outcome:
        world = _World(seed, loop, programs_of(seed, amount))
        async with world.storage:
            async with world.storage.transaction() as tx:
                await tx.sql.execute("CREATE TABLE counted (key text, delta integer, program text)")
            lives = 2 + seed % 3
            with repeatable(seed):
                for number in range(lives):
                    await _Life(world, number, last=number == lives - 1).run()
            outcome = await _left(world)
        world.storage.close()
        return outcome

    return run_seeded(seed, main, at_most=AT_MOST)


async def _left(world: _World) -> Outcome:
    async with world.storage.transaction() as tx:
        rows = await tx.sql.fetch("SELECT key, sum(delta) AS total FROM counted GROUP BY key")
        sagas = await tx.sql.fetch("SELECT business_key, status FROM eventbus_saga")
        (rest,) = await tx.sql.fetch(
            "SELECT (SELECT count(*) FROM eventbus_saga_stash)"
            " + (SELECT count(*) FROM eventbus_saga_timer)"
            " + (SELECT count(*) FROM eventbus_parked) AS n"
        )
    return Outcome(
        programs=world.programs,
        statuses={row["business_key"]: row["status"] for row in sagas},
        counters=Counter({row["key"]: row["total"] for row in rows}),
        left=rest["n"],
        kills=world.kills,
        faults=world.faults,
    )
