"""What outlives a process: database, broker, history, chance; and the handlers."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any
from zlib import crc32

from eventbus import (
    Context,
    DeadLetter,
    Event,
    Group,
    Retry,
    RetryPolicy,
    UnitOfWork,
    subscribe,
)
from eventbus.memory import MemoryTransport
from eventbus.sqlite import SqliteStorage
from eventbus.storage import StorageCapabilities
from eventbus.testing.faults import (
    Hit,
    Zombies,
)
from eventbus.testing.harness import Published, RecordingBroker
from eventbus.transport import Capabilities
from tests.faults.checkers.verdict import Effect
from tests.faults.history import History
from tests.faults.loop import SeededLoop
from tests.faults.simulated.scenario import Scenario

START = 1_800_000_000.0  # unix seconds at virtual time zero
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


class SurvivingTransport(MemoryTransport):
    """As a broker of its own would: what it confirmed outlives the process that published."""

    @property
    def capabilities(self) -> Capabilities:
        """Durable."""
        return replace(super().capabilities, durable=True)


class DistantStorage(SqliteStorage):
    """Says what PostgreSQL says, so that batches run without savepoints first."""

    @property
    def capabilities(self) -> StorageCapabilities:
        """Distant."""
        return replace(super().capabilities, distant=True)


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
        kind = DistantStorage if self.scenario.distant else SqliteStorage
        self.storage = kind(stepwise=True, now=self.now)
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
        await effect_row(ctx, event)
        message_id = await ctx.publish(Noted(account=event.account, seq=event.seq))
        await business_row(ctx, message_id, event.account, event.seq, "noted")
        self.world.after_effect("ledger", event)

    @subscribe(Noted, group=AUDIT)
    async def note(self, event: Noted, ctx: Context) -> None:
        """An effect."""
        await self.world.before_effect("audit", event)
        await effect_row(ctx, event)
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
        await effect_row(ctx, event)
        self.world.after_effect("loose", event)


async def effect_row(ctx: Context, event: Step | Noted) -> None:
    await ctx.sql.execute(
        "INSERT INTO effects (grp, id, key, seq) VALUES ($1, $2, $3, $4)",
        ctx.group,
        ctx.message.id,
        event.account,
        event.seq,
    )


async def business_row(ctx: Any, message_id: str, key: str, seq: int, kind: str) -> None:
    await ctx.sql.execute(
        "INSERT INTO business (id, key, seq, kind) VALUES ($1, $2, $3, $4)",
        message_id,
        key,
        seq,
        kind,
    )


async def last_row(tx: UnitOfWork, key: str) -> int:
    rows = await tx.sql.fetch(
        "SELECT coalesce(max(seq), 0) AS n FROM business WHERE key = $1 AND kind = 'step'", key
    )
    return int(rows[0]["n"])
