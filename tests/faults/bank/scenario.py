"""A run of the bank from the empty database to the verdict."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from eventbus import EventBus
from eventbus.errors import StorageError
from eventbus.service import pause
from eventbus.testing.services import PostgresServer, private_postgres
from tests.faults.bank.brokers import Broker, broker_of
from tests.faults.bank.judge import believed, judge
from tests.faults.bank.nemesis import Nemesis
from tests.faults.bank.observer import Observer
from tests.faults.bank.transfers import GROUPS, SCHEMA
from tests.faults.bank.workers import Workers
from tests.faults.checkers.verdict import Verdict
from tests.faults.history import History

BUS = "bank"  # the schema of the bus
REDRIVE_SECONDS = 3.0
STALLED_SECONDS = 120.0  # without a single effect: longer than any fault
LOOK_SECONDS = 0.5  # it counts all there is
_SETTINGS = {"deadlock_timeout": "200ms", "log_lock_waits": "on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to happen.

    Args:
        seed: of the faults; when they hit is up to the machine.
        effects: so many at least.
        transport: `memory`, `kafka` or `rabbit`.
        nodes: of Kafka; three replicate, and work on while one is down.
        hits: so many faults of each kind that hit work, at least.
        hits_at_all: of any kind, at least, where time is too short for each.
        every: seconds between two faults.
        longest: seconds that a broker is frozen, or out of reach, at most.
        most_seconds: of torment, even if that was too little.
        rest_seconds: after the last fault everything is worked off by then, or it is stuck.
        slots: worker processes at once.
        mutant: what is broken in them.
    """

    seed: int
    effects: int
    transport: str = "memory"
    nodes: int = 1
    hits: int = 1
    hits_at_all: int = 0
    every: float = 3.0
    longest: float = 6.0
    most_seconds: float = 600.0
    rest_seconds: float = 120.0
    slots: int = 3
    mutant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened and what it means."""

    verdicts: Sequence[Verdict]
    figures: Mapping[str, float]
    kinds: Sequence[str]  # of faults
    hits: Mapping[str, int]  # faults that hit work, by kind
    surprises: Sequence[str]  # workers that ended by themselves, or not when they were told to

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:g}" for name, value in self.figures.items())
        return "\n".join([figures, *map(str, self.verdicts), *self.surprises])


async def run(plan: Plan, directory: Path) -> Outcome:
    """All of it; histories, logs and the fault log stay in `directory`."""
    async with (
        private_postgres(_SETTINGS) as server,
        broker_of(plan.transport, nodes=plan.nodes, seed=plan.seed) as broker,
    ):
        storage = f"{server.url}?schema={BUS}&pool=16"
        await _prepare(server.url, storage)
        async with _staff(plan, storage, server, broker, directory) as bank:
            return await bank.day(plan)


async def _prepare(url: str, storage: str) -> None:
    await EventBus("memory://", storage=storage).upgrade()
    connection = await asyncpg.connect(url, timeout=10, command_timeout=20)
    try:
        await connection.execute(SCHEMA)
    finally:
        connection.terminate()


@asynccontextmanager
async def _staff(
    plan: Plan, storage: str, server: PostgresServer, broker: Broker, directory: Path
) -> AsyncIterator["Bank"]:
    observer = Observer(server.url, BUS)
    command = [sys.executable, "-m", "tests.faults.bank.worker", broker.url, storage]
    broken = () if plan.mutant is None else (plan.mutant,)
    workers = Workers(command, directory, plan.slots, lambda slot: broken)
    with History("nemesis", path=directory / "nemesis.jsonl") as history:
        nemesis = Nemesis(plan.seed, workers, server, observer, history, broker, plan.longest)
        try:
            yield Bank(observer, workers, nemesis, Operator(storage), directory)
        finally:
            workers.end()
            nemesis.thaw()
            observer.close()


class Operator:
    """Repairs what is dead and redrives it, beside everything else."""

    def __init__(self, storage: str) -> None:
        self.redriven = 0
        self._storage = storage

    async def serve(self, stopping: asyncio.Event) -> None:
        """Look after dead letters until stopping."""
        while not await pause(stopping, REDRIVE_SECONDS):
            try:
                async with EventBus("memory://", storage=self._storage).client() as bus:
                    await self._redrive(bus)
            except StorageError:
                continue

    async def _redrive(self, bus: EventBus) -> None:
        letters = await bus.dead_letters.list(limit=1000)
        if not letters:
            return
        async with bus.transaction() as tx:
            for letter in letters:
                await tx.sql.execute(
                    "INSERT INTO repaired SELECT $1::json ->> 'transfer' ON CONFLICT DO NOTHING",
                    letter["payload"].decode(),
                )
        ids = [letter["id"] for letter in letters]
        self.redriven += await bus.dead_letters.change("redrive", actor="operator", ids=ids)


@dataclass(frozen=True, slots=True)
class Bank:
    """Everybody who works there."""

    observer: Observer
    workers: Workers
    nemesis: Nemesis
    operator: Operator
    directory: Path

    async def day(self, plan: Plan) -> Outcome:
        """Torment, then healing, then the verdict."""
        began = time.monotonic()
        evening = asyncio.Event()
        self.workers.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.observer.watch(evening), name="bank:observer")
            tasks.create_task(self.operator.serve(evening), name="bank:operator")
            await self._torment(plan)
            (self.directory / "enough").touch()
            healed = time.monotonic()
            await self._until(self._is_at_rest, plan.rest_seconds)
            rested = time.monotonic()
            evening.set()
        codes = await self.workers.stop()
        verdicts = await judge(self.observer, believed(self.directory))
        if not all(verdict.ok for verdict in verdicts):
            await self._keep_effects()
        standing = await self.observer.standing() or {}
        kinds = self.nemesis.kinds
        surprises = [*self.workers.surprises, *(f"exit code {code}" for code in codes if code)]
        return Outcome(
            verdicts=verdicts,
            figures={
                "effects": standing.get("effects", 0),
                "redriven": self.operator.redriven,
                "lives": self.workers.lives,
                "started again": self.workers.away,
                **{f"{kind} hits": self.nemesis.hits[kind] for kind in kinds},
                **{f"{kind} misses": self.nemesis.missed[kind] for kind in kinds},
                **{f"{kind} in flight": self.nemesis.in_flight[kind] for kind in kinds},
                **{
                    f"{kind} seconds to recover": round(seconds, 1)
                    for kind, seconds in self.nemesis.recovered.items()
                },
                "seconds of torment": round(healed - began, 1),
                "seconds to rest": round(rested - healed, 1),
            },
            kinds=kinds,
            hits=self.nemesis.hits,
            surprises=surprises,
        )

    async def _keep_effects(self) -> None:
        """The database goes; who wants to know what happened needs its truth."""
        rows = await self.observer.ask("SELECT to_json(e)::text FROM effects e ORDER BY at")
        text = "".join(f"{row[0]}\n" for row in rows or ())
        (self.directory / "effects.jsonl").write_text(text, encoding="utf-8")

    async def _torment(self, plan: Plan) -> None:
        """A slow machine takes longer; whoever makes no progress at all does not."""
        most, since = 0, time.monotonic()

        async def enough() -> bool:
            nonlocal most, since
            standing = await self.observer.standing()
            if standing is not None and standing["effects"] > most:
                most, since = standing["effects"], time.monotonic()
            if time.monotonic() - since > STALLED_SECONDS:
                return True  # the verdict says what is missing
            hits = self.nemesis.hits
            hit = all(hits[kind] >= plan.hits for kind in self.nemesis.kinds)
            hit = hit and hits.total() >= plan.hits_at_all
            asked = 0 if standing is None else standing["requests"] * len(GROUPS)
            return hit and asked >= plan.effects  # what is on its way has its effects after all

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.nemesis.torment(every=plan.every), name="bank:nemesis")
            await self._until(enough, plan.most_seconds)
            self.nemesis.heal()

    async def _is_at_rest(self) -> bool:
        standing = await self.observer.standing()
        if standing is None or standing["confirmed"] < standing["requests"]:
            return False
        return not any(standing[name] for name in ("transit", "outbox", "parked", "parked_keys"))

    async def _until(self, fact: Callable[[], Awaitable[bool]], seconds: float) -> None:
        """Or until the time is up: the verdict says what is missing then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.workers.surprises:
            if await fact():
                return
            await pause(asyncio.Event(), LOOK_SECONDS)
