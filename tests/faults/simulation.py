"""Whole buses on a seeded loop: publishers, handlers that fail, faults, kills, drains, then peace.

One seed is one schedule: `simulate(seed)` runs it and judges what is left by K1, K2 and K6.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID
from zlib import crc32

from eventbus import (
    Context,
    DeadLetter,
    Event,
    EventBus,
    Group,
    Retry,
    RetryPolicy,
    UnitOfWork,
    subscribe,
)
from eventbus.errors import CommitUnknownError, StorageError
from eventbus.inspection import Selection
from eventbus.memory import MemoryTransport
from eventbus.message import Message
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import (
    POINTS,
    Conflict,
    Delay,
    Duplicate,
    Fault,
    FaultPlan,
    FaultyStorage,
    FaultyTransport,
    Hang,
    Hit,
    Kill,
    LoseLease,
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
    Zombies,
)
from eventbus.testing.harness import Published, RecordingBroker
from eventbus.transport import Capabilities
from tests.faults.checkers.atomicity import Tables, atomicity
from tests.faults.checkers.per_key_order import per_key_order
from tests.faults.checkers.total_queue import total_queue
from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.coverage import WITHOUT_STORAGE
from tests.faults.history import History, merged
from tests.faults.loop import SeededLoop, process, run_seeded

START = 1_800_000_000.0  # unix seconds at virtual time zero
AT_MOST = 7200.0  # virtual seconds of a whole schedule
GRACE = 25.0  # virtual seconds a drain may take, and a little for its last commits
KINDS: tuple[Callable[[], Fault], ...] = (
    Duplicate,
    Delay,
    partial(Hang, seconds=1.0),
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
    Conflict,
    LoseLease,
)
SCHEMA = (
    "CREATE TABLE effects (grp TEXT, id TEXT, key TEXT, seq INTEGER)",
    "CREATE TABLE business (id TEXT, key TEXT, seq INTEGER, kind TEXT)",
)

_POLICY = RetryPolicy(
    in_place=1, parked=(timedelta(seconds=0.3), timedelta(seconds=0.6), timedelta(seconds=0.6))
)
_COMMON: Mapping[str, Any] = {
    "retry": _POLICY,
    "timeout": timedelta(seconds=1.5),
    "lanes": 3,  # no divisor of the partitions: both go by crc32 of the key
    "max_in_flight": 12,
    "batch_messages": 4,
}
LEDGER = Group("ledger", **_COMMON)
PATIENT = Group(
    "ledger", **{**_COMMON, "retry": RetryPolicy(in_place=1, parked=(timedelta(seconds=2),) * 6)}
)
AUDIT = Group("audit", **_COMMON)
OUTSIDE = Group("outside", transactional=False, **_COMMON)
LOOSE = Group("loose", order="none", **_COMMON)


class Step(Event, type="sim.step", key="account"):
    account: str
    seq: int


class Noted(Event, type="noted.noted", key="account"):
    account: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a seed stands for, before its schedule."""

    seed: int
    keys: int
    per_key: int
    style: str
    durable: bool  # the broker outlives its process
    lives: int
    drains: bool  # lives but the last end by a drain, not by a kill
    twins: bool  # lives overlap: several members of each group, several relays
    rate: float
    fail_rate: float
    poison: frozenset[tuple[str, int]]
    third: str  # the further group
    garbage: int
    pause: bool
    outage_seconds: float
    silent_publish: int  # the n-th publish of a relay never answers
    kinds: tuple[Callable[[], Fault], ...] = KINDS


def scenario_of(seed: int) -> Scenario:
    """Drawn by the seed."""
    draw = Random(seed)
    outage = draw.random() < 0.04
    keys = 12 if outage else draw.randint(1, 3)
    per_key = 2 if outage else draw.randint(2, 4)
    faulty = not outage
    durable = draw.random() < 0.5
    chosen = [(f"k{key}", seq) for key in range(keys) for seq in range(1, per_key + 1)]
    return Scenario(
        seed=seed,
        keys=keys,
        per_key=per_key,
        style=draw.choice(("log", "queue")),
        durable=durable,
        lives=1 if outage else draw.choice((1, 2, 2, 3)),
        drains=draw.random() < 0.2,
        twins=faulty and draw.random() < 0.3,
        rate=draw.choice((0.0, 0.01, 0.03, 0.06)) if faulty else 0.0,
        fail_rate=draw.choice((0.0, 0.1, 0.3)) if faulty else 0.0,
        poison=frozenset(draw.sample(chosen, 1)) if faulty and draw.random() < 0.3 else frozenset(),
        third=draw.choice(("", "outside", "loose")) if faulty else "",
        garbage=draw.choice((0, 0, 0, 1)) if faulty and durable else 0,
        pause=faulty and draw.random() < 0.1,
        outage_seconds=40.0 if outage else 0.0,
        silent_publish=draw.randint(1, 4) if faulty and draw.random() < 0.1 else 0,
    )


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


class SurvivingTransport(MemoryTransport):
    """As a broker of its own would: what it confirmed outlives the process that published."""

    @property
    def capabilities(self) -> Capabilities:
        """Durable."""
        return replace(super().capabilities, durable=True)


@dataclass(slots=True)
class World:
    """What outlives a process: database, broker, history, and what chance decided."""

    scenario: Scenario
    loop: SeededLoop
    storage: SqliteStorage = field(init=False)
    broker: RecordingBroker = field(init=False)
    published: Published = field(default_factory=Published)
    history: History = field(init=False)
    random: Random = field(init=False)
    outside: list[Effect] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    hits: list[Hit] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    injected: bool = False
    healed: bool = False
    dead_in_outage: int = 0
    zombies: Zombies = field(default_factory=Zombies)
    alone: asyncio.Event = field(default_factory=asyncio.Event)  # all but the last life are over

    def __post_init__(self) -> None:
        self.random = Random(self.scenario.seed + 1)
        self.storage = SqliteStorage(stepwise=True, now=self.now)
        self.history = History("sim", clock=self.nanoseconds)
        self.new_broker()

    def now(self) -> float:
        """Unix seconds of database and broker."""
        return START + self.loop.time()

    def nanoseconds(self) -> int:
        """The history's clock; turns order what happens at one time."""
        return int(self.loop.time() * 1e9) * 1000 + self.loop.turns

    def new_broker(self) -> None:
        """An empty one: the broker died with its process."""
        self.broker = RecordingBroker(
            self.published,
            style=self.scenario.style,
            seed=self.scenario.seed,
            stepwise=True,
            now=self.now,
        )

    def chance(self, what: str) -> float:
        """Between 0 and 1, by what is asked and how often it was asked before."""
        self.calls[what] += 1
        text = f"{self.scenario.seed}:{what}:{self.calls[what]}"
        return crc32(text.encode()) / 0xFFFF_FFFF

    async def before_effect(self, group: str, event: Step | Noted) -> None:
        """Fail as the seed says, before the handler wrote anything."""
        outage = self.scenario.outage_seconds
        if outage and group == "ledger" and self.loop.time() < outage:
            self.marks["outage"] += 1
            raise ConnectionError("the dependency is away")
        if self.healed:
            return
        if group == "ledger" and (event.account, event.seq) in self.scenario.poison:
            self.marks["poison"] += 1
            raise ValueError("poison")
        chance = self.chance(f"{group}:{event.account}:{event.seq}")
        if chance < 0.1:
            await asyncio.sleep(chance)
        fails = self.scenario.fail_rate
        if chance < fails:
            kinds = ("error", "error", "error", "error", "retry", "dead", "hang")
            await self._fail(kinds[int(chance * 7919) % len(kinds)])

    async def _fail(self, kind: str) -> None:
        self.marks[kind] += 1
        match kind:
            case "retry":
                raise Retry(after=timedelta(seconds=0.5))
            case "dead":
                raise DeadLetter
            case "hang":
                await asyncio.get_running_loop().create_future()
            case _:
                raise ValueError("as the seed says")

    def after_effect(self, group: str, event: Step | Noted) -> None:
        """Fail with everything written: it must all be undone."""
        if self.healed:
            return
        if self.chance(f"late:{group}:{event.account}:{event.seq}") < self.scenario.fail_rate / 3:
            self.marks["late error"] += 1
            raise ValueError("after the effect")


class Chain:
    """Two groups, the second one fed by the first; apart, because wiring reads every member."""

    def __init__(self, world: World) -> None:
        self.world = world

    @subscribe(Step, group=LEDGER)
    async def post(self, event: Step, ctx: Context) -> None:
        """An effect, and a follow-up with its business row."""
        await self.world.before_effect("ledger", event)
        await _effect(ctx, event)
        message_id = await ctx.publish(Noted(account=event.account, seq=event.seq))
        await _business(ctx, message_id, event.account, event.seq, "noted")
        self.world.after_effect("ledger", event)

    @subscribe(Noted, group=AUDIT)
    async def note(self, event: Noted, ctx: Context) -> None:
        """An effect."""
        await self.world.before_effect("audit", event)
        await _effect(ctx, event)
        self.world.after_effect("audit", event)


class PatientChain(Chain):
    """In an outage: so many waits that only a circuit that does not open uses them up."""

    @subscribe(Step, group=PATIENT)
    async def post(self, event: Step, ctx: Context) -> None:
        """As ever."""
        await super().post(event, ctx)


class Outside:
    """A group whose effects are not in the database: at least once, under one key."""

    def __init__(self, world: World) -> None:
        self.world = world

    @subscribe(Step, group=OUTSIDE)
    async def call(self, event: Step, ctx: Context) -> None:
        """As a call of somebody's HTTP interface."""
        await self.world.before_effect("outside", event)
        effect = Effect(group="outside", id=ctx.message.id, key=event.account, seq=event.seq)
        if ctx.idempotency_key != f"outside:{ctx.message.identity}":
            raise AssertionError("another idempotency key")
        self.world.outside.append(effect)


class Loose:
    """A group without order."""

    def __init__(self, world: World) -> None:
        self.world = world

    @subscribe(Step, group=LOOSE)
    async def count(self, event: Step, ctx: Context) -> None:
        """An effect."""
        await self.world.before_effect("loose", event)
        await _effect(ctx, event)
        self.world.after_effect("loose", event)


async def _effect(ctx: Context, event: Step | Noted) -> None:
    await ctx.sql.execute(
        "INSERT INTO effects (grp, id, key, seq) VALUES ($1, $2, $3, $4)",
        ctx.group,
        ctx.message.id,
        event.account,
        event.seq,
    )


async def _business(ctx: Any, message_id: str, key: str, seq: int, kind: str) -> None:
    await ctx.sql.execute(
        "INSERT INTO business (id, key, seq, kind) VALUES ($1, $2, $3, $4)",
        message_id,
        key,
        seq,
        kind,
    )


async def _last_row(tx: UnitOfWork, key: str) -> int:
    rows = await tx.sql.fetch(
        "SELECT coalesce(max(seq), 0) AS n FROM business WHERE key = $1 AND kind = 'step'", key
    )
    return int(rows[0]["n"])


async def end_process(name: str) -> None:
    """Its tasks end; what they still try is refused by its plan."""
    loop = cast("SeededLoop", asyncio.get_running_loop())
    while left := [task for task in loop.of_process(name) if _dies(task)]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.001)
    for owner, task in loop.tasks:
        if owner == name and task.done() and not task.cancelled():
            task.exception()  # seen: the dead may have fallen over anything


def _dies(task: asyncio.Task[Any]) -> bool:
    """A rebalance is the broker's, whoever was the cause of it."""
    return not task.get_name().startswith("rebalance:")


class Life:
    """A process from its start to its kill, its drain, or the end of the schedule."""

    def __init__(self, world: World, number: int, *, last: bool) -> None:
        scenario = world.scenario
        self.world = world
        self.number = number
        self.name = f"process:{number}"
        self.last = last
        self.plan = FaultPlan(seed=scenario.seed * 31 + number)
        self.plan.sprinkle(rate=scenario.rate, kinds=scenario.kinds)
        self.killed = asyncio.Event()
        self.plan.on_kill = self.killed.set
        if not last and not scenario.drains:
            self._plan_kill(world.random)
        if scenario.silent_publish:
            self.plan.add("relay:publish", scenario.silent_publish, Hang(seconds=1e6))
        adapter = SurvivingTransport if scenario.durable else MemoryTransport
        self.inner = adapter(world.broker)
        chain = PatientChain if scenario.outage_seconds else Chain
        handlers: list[object] = [chain(world)]
        handlers += [Outside(world)] if scenario.third == "outside" else []
        handlers += [Loose(world)] if scenario.third == "loose" else []
        self.bus = EventBus(
            FaultyTransport(self.inner, self.plan, zombies=world.zombies),
            storage=FaultyStorage(world.storage, self.plan),
            handlers=handlers,
            service="sim",
        )

    def _plan_kill(self, draw: Random) -> None:
        """At a named point, at a time, or at any call: near the start more often than late."""
        how = draw.random()
        if how < 0.25:
            self.world.loop.call_later(draw.uniform(0.5, 4), self.plan.kill)
        elif how < 0.6:
            self.plan.add(draw.choice(_POINTS), draw.randint(1, 4), Kill())
        else:
            nth = int(10 ** draw.uniform(0.5, 2.9))
            self.plan.add("*", nth, Kill(after=draw.random() < 0.5))

    async def run(self) -> None:
        """Until it ends."""
        context = copy_context()
        context.run(process.set, self.name)
        work = asyncio.create_task(self._process(), name=self.name, context=context)
        dying = asyncio.create_task(self.killed.wait(), name=f"killer:{self.number}")
        await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
        self.world.hits += self.plan.hits
        if self.plan.frozen:
            self.world.marks["kill"] += 1
            await self._die()
        else:
            dying.cancel()
            work.result()

    async def _die(self) -> None:
        await end_process(self.name)
        self.inner.abandon()
        if not (self.world.scenario.durable or self.world.scenario.twins):
            self.world.new_broker()

    async def _process(self) -> None:
        began = 0.0
        try:
            async with self.bus:
                await self._work()
                if not self.last:
                    began = self.world.loop.time()
                    raise _Drain  # noqa: TRY301 - the bus must be left with an exception
                await self._come_to_rest()
        except _Drain:
            self.world.marks["drain"] += 1
            if self.world.loop.time() - began > GRACE + 5.0:
                raise AssertionError("the drain used more than its grace") from None

    async def _work(self) -> None:
        """Publish; a drain may come in the middle of it."""
        scenario, world = self.world.scenario, self.world
        async with asyncio.TaskGroup() as tasks:
            for key in range(scenario.keys):
                tasks.create_task(self._client(f"k{key}"), name=f"client:k{key}")
            tasks.create_task(self._plain_client(f"p{self.number}"), name="client:plain")
            if scenario.pause and not world.marks["pause"]:
                tasks.create_task(self._pause(), name="client:operator")
            if scenario.garbage and not world.injected:
                world.injected = True
                self._inject_garbage()
        if not self.last and not scenario.drains:
            await asyncio.sleep(3)  # time to be killed in the midst of retries
        elif not self.last:
            await asyncio.sleep(world.random.uniform(0, 3))

    async def _client(self, key: str) -> None:
        """Until every message of the key is committed, by this process or by another."""
        while True:
            try:
                if await self._publish_next(key):
                    return
            except StorageError:
                await asyncio.sleep(0.1)

    async def _publish_next(self, key: str) -> bool:
        """Business row and message in one transaction; the rows tell which one is next."""
        history = self.world.history
        op = history.invoke("publish", key=key)
        facts: dict[str, Any] = {"key": key}
        try:
            async with self.bus.transaction() as tx:
                seq = 1 + await _last_row(tx, key)
                if seq > self.world.scenario.per_key:
                    history.note("publish", "fail", op, **facts)
                    return True
                message_id = await tx.publish(Step(account=key, seq=seq))
                facts |= {"seq": seq, "id": message_id}
                history.note("publish", "invoke", op, **facts)
                await _business(tx, message_id, key, seq, "step")
        except CommitUnknownError as error:
            self.world.marks["commit unknown"] += 1
            verdict = await error.resolve()
            if "id" in facts:
                history.note("publish", _TYPES[verdict], op, **facts)
        except StorageError:
            history.note("publish", "fail", op, **facts)
            raise
        else:
            history.note("publish", "ok", op, **facts)
        return False

    async def _plain_client(self, key: str) -> None:
        """`bus.publish`: what became of an unknown one is asked before the next."""
        seq = 1
        while seq <= 2:
            op = self.world.history.invoke("publish", key=key, seq=seq)
            self.world.marks["plain"] += 1
            try:
                message_id = await self.bus.publish(Step(account=key, seq=seq))
                verdict = "committed"
            except CommitUnknownError as error:
                verdict = await error.resolve()
                message_id = next(iter(error.ids), "")
            except StorageError:
                verdict, message_id = "rolled_back", ""
            facts = {"key": key, "seq": seq, "id": message_id}
            self.world.history.note("publish", _TYPES[verdict], op, **facts)
            seq += verdict == "committed"

    async def _pause(self) -> None:
        self.world.marks["pause"] += 1
        inspection = self.world.storage.inspection
        where = Selection(place="parked", group="ledger")
        await inspection.change("pause", where, actor="sim")
        await asyncio.sleep(4)
        if not self.plan.frozen:
            await inspection.change("resume", where, actor="sim")

    def _inject_garbage(self) -> None:
        for number in range(self.world.scenario.garbage):
            message = Message(
                id=str(UUID(int=0xBAD0 + number)),
                type="sim.step",
                source="/elsewhere",
                topic="sim",
                key="garbage",
                payload=b"\xff\x00",
            )
            self.world.garbage.append(message.id)
            self.world.broker.inject("sim", message)

    async def _come_to_rest(self) -> None:
        """Heal, then demand an end: nothing on its way, nothing parked, nothing dead."""
        world = self.world
        inspection = world.storage.inspection
        if world.scenario.twins:
            await world.alone.wait()
        await asyncio.sleep(world.scenario.outage_seconds and world.scenario.outage_seconds + 65)
        self.plan.heal()
        await inspection.change("resume", Selection(place="parked", group="ledger"), actor="sim")
        if world.scenario.outage_seconds:
            dead = await inspection.find(Selection(place="dead-letter"), limit=100)
            world.dead_in_outage = len(dead)
        await asyncio.sleep(2.5)
        world.healed = True
        while True:
            # in virtual time, and cheaper than asking the bus every 2 ms
            while not world.broker.idle() or await inspection.find(_OUTBOX, limit=1):  # noqa: ASYNC110 - facts without an event
                await asyncio.sleep(0.3)
            await self.bus.until_idle(at_most=timedelta(seconds=600))
            if not await self._put_right():
                return
            await asyncio.sleep(1)

    async def _put_right(self) -> bool:
        """What an operator does: discard what cannot be read, redrive the rest; whether any was."""
        inspection = self.world.storage.inspection
        dead = await inspection.find(Selection(place="dead-letter"), limit=100)
        bad = [row for row in dead if row["reason"] == "quarantined"]
        self.world.quarantined += [(str(row["group"]), str(row["id"])) for row in bad]
        self.world.marks["quarantined"] += len(bad)
        for row in bad:
            what = Selection(place="dead-letter", group=row["group"], ids=[row["id"]])
            await inspection.change("discard", what, actor="sim")
        if len(dead) > len(bad):
            self.world.marks["redrive"] += 1
            await inspection.change("redrive", Selection(place="dead-letter"), actor="sim")
        parked = await inspection.find(Selection(place="parked"), limit=100)
        outbox = await inspection.find(_OUTBOX, limit=100)
        return bool(dead or parked or outbox)


_POINTS = sorted(set(POINTS) - WITHOUT_STORAGE)
_OUTBOX = Selection(place="outbox")


class _Drain(Exception):  # noqa: N818 - a way out, no error
    pass


_TYPES: Mapping[str, Any] = {"committed": "ok", "rolled_back": "fail", "unknown": "info"}


async def _schedule(loop: SeededLoop, scenario: Scenario) -> Outcome:
    world = World(scenario, loop)
    async with world.storage:
        async with world.storage.transaction() as tx:
            for statement in SCHEMA:
                await tx.sql.execute(statement)
        _seed_database(world)
        await _live(world)
        verdicts = await _judge(world)
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


async def _judge(world: World) -> list[Verdict]:
    scenario = world.scenario
    async with world.storage.transaction() as tx:
        rows = await tx.sql.fetch("SELECT grp, id, key, seq FROM effects ORDER BY rowid")
        business = await tx.sql.fetch("SELECT id, kind FROM business")
        recorded = await tx.sql.fetch("SELECT group_name, message FROM eventbus_inbox")
        parked = await tx.sql.fetch("SELECT group_name, message_id FROM eventbus_parked")
        outbox = await tx.sql.fetch("SELECT message_id FROM eventbus_outbox")
    effects = [
        Effect(group=row["grp"], id=row["id"], key=row["key"], seq=row["seq"]) for row in rows
    ]
    history = merged([world.history.operations])
    groups = ["ledger", *([scenario.third] if scenario.third == "loose" else [])]
    foreign = {
        message.id  # of a `bus.publish` whose process died in it: nobody heard the id
        for message in world.published.messages
        if message.type == "sim.step" and not (message.key or "").startswith("k")
    }
    full = {f"k{key}": scenario.per_key for key in range(scenario.keys)}
    noted = {row["id"] for row in business if row["kind"] == "noted"}
    audited = Counter(effect.id for effect in effects if effect.group == "audit")
    queues = [total_queue(history, effects, group=group, foreign=foreign) for group in groups]
    world.marks["recovered"] += queues[0].figures["recovered"]
    verdicts = [
        *queues,
        per_key_order([e for e in effects if e.key in full], group="ledger", last=full),
        per_key_order(effects, group="ledger"),
        per_key_order(effects, group="audit"),
        atomicity(
            Tables(
                effects=effects,
                inbox=_without(world, _by_group(recorded, "message")),
                parked=_by_group(parked, "message_id"),
                outbox={row["message_id"] for row in outbox},
                business={row["id"] for row in business},
                relayed={message.id for message in world.published.messages},
            ),
            transactional=[*groups, "audit"],
        ),
        Verdict(
            checker="K1 audit",
            ok=dict(audited) == dict.fromkeys(noted, 1),
            figures={"noted": len(noted), "audited": audited.total()},
        ),
        Verdict(checker="at rest", ok=not parked and not outbox, figures={"parked": len(parked)}),
        Verdict(
            checker="outage",
            ok=world.dead_in_outage == 0,
            figures={"dead letters": world.dead_in_outage},
        ),
        Verdict(
            checker="quarantine",
            ok={("ledger", each) for each in world.garbage} <= set(world.quarantined),
            figures={"garbage": len(world.garbage), "quarantined": len(world.quarantined)},
        ),
    ]
    if scenario.third == "outside":
        verdicts += _outside(world, {line.id for line in history if line.type == "ok"})
    return verdicts


def _outside(world: World, acked: Collection[str]) -> list[Verdict]:
    done = {effect.id for effect in world.outside}
    lost = sorted(set(acked) - done)
    return [
        Verdict(checker="L outside", ok=not lost, counterexample=lost, figures={"lost": len(lost)}),
        per_key_order(world.outside, group="outside"),
    ]


def _by_group(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["group_name"], set()).add(row[column])
    return found


def _without(world: World, inbox: dict[str, set[str]]) -> dict[str, set[str]]:
    """Inbox rows of what was discarded: they have no effect, and none is due."""
    gone = {message_id for _, message_id in world.quarantined}
    return {group: ids - gone for group, ids in inbox.items()}


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
            patch("eventbus.codec.new_id", new_id),
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
