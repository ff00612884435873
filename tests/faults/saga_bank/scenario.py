"""A run of the bank from the empty database to the verdict."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from eventbus import EventBus
from eventbus.service import pause
from eventbus.testing.services import PostgresServer, private_postgres
from tests.faults.bank.brokers import Broker, broker_of
from tests.faults.bank.nemesis import Nemesis
from tests.faults.bank.observer import Observer
from tests.faults.bank.worker import entered
from tests.faults.bank.workers import Worker, Workers
from tests.faults.checkers.verdict import Verdict
from tests.faults.history import History
from tests.faults.saga_bank.judge import judge
from tests.faults.saga_bank.transfer import SCHEMA

BUS = "bank"  # the schema of the bus
_SETTINGS = {"deadlock_timeout": "200ms", "log_lock_waits": "on"}
_MONEY = """
SELECT coalesce(sum(cents) FILTER (WHERE account <> 'transit'), 0)::bigint AS accounts,
       coalesce(sum(cents) FILTER (WHERE account = 'transit'), 0)::bigint AS transit,
       least(coalesce(sum(cents) FILTER (WHERE account = 'transit'), 0), 0)::bigint AS lowest
  FROM entries"""
_STANDING = """
SELECT (SELECT count(*) FROM requests) AS requests,
       (SELECT count(*) FROM {schema}.saga WHERE finished_at IS NOT NULL) AS confirmed,
       (SELECT count(*) FROM {schema}.outbox) AS outbox,
       (SELECT count(*) FROM {schema}.parked) AS parked,
       (SELECT count(*) FROM {schema}.saga_stash) AS stashed"""

# Whoever takes part, as the owner of a lease, takes part in every saga that is open.
_HELD = """
SELECT count(*) FROM {schema}.saga
 WHERE finished_at IS NULL AND EXISTS (
   SELECT 1 FROM {schema}.leases
    WHERE owner LIKE '%:' || $1::int || ':%' AND until >= statement_timestamp())"""
_HANDED_OVER = "SELECT 1 FROM {schema}.saga_journal WHERE input_kind = 'handed-over' LIMIT 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to happen.

    Args:
        seed: of the faults; when they hit is up to the machine.
        sagas: so many at least.
        transport: `kafka` or `rabbit`.
        faults: whether there are any.
        hits: so many faults of each kind that hit work, at least.
        hits_at_all: of any kind, at least, where time is too short for each.
        every: seconds between two faults.
        longest: seconds that a broker is frozen, or out of reach, at most.
        most_seconds: of torment, even if that was too little.
        rest_seconds: after the last fault everything has ended by then, or it is stuck.
        versions: of the saga, that each slot has at first.
        then: slots that get another version, one after another, once half of the sagas began;
            one that gets the version that it has is only restarted.
        clocks: how many seconds the wall clock of each slot is wrong.
        mutant: what is broken in them.
    """

    seed: int
    sagas: int
    transport: str
    faults: bool = True
    hits: int = 0
    hits_at_all: int = 0
    every: float = 4.0
    longest: float = 6.0
    most_seconds: float = 600.0
    rest_seconds: float = 60.0
    versions: Sequence[str] = ("1", "1", "1")
    then: Sequence[tuple[int, str]] = ()
    clocks: Sequence[float] = (0, 0, 0)
    mutant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened and what it means."""

    verdicts: Sequence[Verdict]
    figures: Mapping[str, float]
    kinds: Sequence[str]  # of faults
    hits: Mapping[str, int]  # faults that hit work, by kind
    surprises: Sequence[str]  # workers that ended by themselves, or not when they were told to

    def of(self, checker: str) -> Mapping[str, int]:
        """The figures of a checker."""
        return next(each.figures for each in self.verdicts if each.checker == checker)

    @property
    def wrong(self) -> Sequence[str]:
        """What does not hold."""
        return [str(verdict) for verdict in self.verdicts if not verdict.ok]

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:g}" for name, value in self.figures.items())
        return "\n".join([figures, *map(str, self.verdicts), *self.surprises])


async def run(plan: Plan, directory: Path) -> Outcome:
    """All of it; histories, logs and the fault log stay in `directory`."""
    async with (
        private_postgres(_SETTINGS) as server,
        broker_of(plan.transport, nodes=1, seed=plan.seed) as broker,
    ):
        storage = f"{server.url}?schema={BUS}&pool=12"
        await EventBus("memory://", storage=storage).upgrade()
        connection = await asyncpg.connect(server.url, timeout=10, command_timeout=20)
        try:
            await connection.execute(SCHEMA)
        finally:
            connection.terminate()
        (directory / "outside").touch()
        async with _staff(plan, storage, server, broker, directory) as bank:
            return await bank.day()


@asynccontextmanager
async def _staff(
    plan: Plan, storage: str, server: PostgresServer, broker: Broker, directory: Path
) -> AsyncIterator["Bank"]:
    looks = {"money": _MONEY, "standing": _STANDING, "held": _HELD}
    observer = Observer(server.url, BUS, **looks, every=0.3)
    versions = list(plan.versions)
    broken = () if plan.mutant is None else (plan.mutant,)

    def more(slot: int) -> Sequence[str]:
        return (versions[slot], str(plan.clocks[slot % len(plan.clocks)]), *broken)

    module = "tests.faults.saga_bank.worker"
    workers = Workers(
        [sys.executable, "-m", module, broker.url, storage],
        directory,
        len(versions),
        more,
        {"EVENTBUS_BANK_OUTSIDE": str(directory / "outside")},
    )
    with History("nemesis", path=directory / "nemesis.jsonl") as history:
        nemesis = Nemesis(plan.seed, workers, server, observer, history, broker, plan.longest)
        try:
            yield Bank(plan, observer, workers, nemesis, versions, directory)
        finally:
            workers.end()
            nemesis.thaw()
            observer.close()


@dataclass(frozen=True, slots=True)
class Bank:
    """Everybody who works there."""

    plan: Plan
    observer: Observer
    workers: Workers
    nemesis: Nemesis
    versions: list[str]  # of the next life of each slot
    directory: Path

    async def day(self) -> Outcome:
        """Torment, then healing, then the verdict."""
        began = time.monotonic()
        evening = asyncio.Event()
        self.workers.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.observer.watch(evening), name="bank:observer")
            await self._torment()
            (self.directory / "enough").touch()
            healed = time.monotonic()
            await self._until(self._is_at_rest, self.plan.rest_seconds)
            rested = time.monotonic()
            evening.set()
        codes = await self.workers.stop()
        verdicts = await judge(self.observer, self.directory / "outside")
        surprises = [*self.workers.surprises, *(f"exit code {code}" for code in codes if code)]
        return Outcome(
            verdicts=verdicts,
            figures={
                "lives": self.workers.lives,
                "away on entering": self.workers.away,
                **{f"{kind} hits": self.nemesis.hits[kind] for kind in self.nemesis.kinds},
                **{f"{kind} misses": count for kind, count in self.nemesis.missed.items()},
                "seconds of torment": round(healed - began, 1),
                "seconds to rest": round(rested - healed, 1),
                **{f"at version {n}": count for n, count in (await self._at_version()).items()},
            },
            kinds=self.nemesis.kinds,
            hits=self.nemesis.hits,
            surprises=surprises,
        )

    async def _at_version(self) -> Mapping[str, int]:
        rows: Any = await self.observer.ask(
            "SELECT def_version, count(*) FROM {schema}.saga GROUP BY def_version"
        )
        return Counter({str(row[0]): row[1] for row in rows or ()})

    async def _torment(self) -> None:
        plan = self.plan
        async with asyncio.TaskGroup() as tasks:
            if plan.faults:
                tasks.create_task(self.nemesis.torment(every=plan.every), name="bank:nemesis")
            if plan.then:
                await self._until(self._begun(plan.sagas // 2), plan.most_seconds / 2)
                await self._upgrade(plan.then)
            await self._until(self._enough, plan.most_seconds)
            self.nemesis.heal()

    async def _upgrade(self, steps: Sequence[tuple[int, str]]) -> None:
        """One after another; in the middle, until something was handed over."""
        for number, (slot, version) in enumerate(steps, 1):
            self.versions[slot] = version
            old = self.workers.alive.get(slot)
            if old is not None:
                self.workers.replace(old)
            asked = await self._asked()
            await self._until(self._renewed(slot, old), 60)
            await self._until(self._begun(asked + self.plan.sagas // 10), 30)
            if number == len(steps) // 2:
                await self._until(self._handed_over, self.plan.most_seconds / 4)

    def _renewed(self, slot: int, old: Worker | None) -> Callable[[], Awaitable[bool]]:
        """It has joined: what the next one leaves comes to it, if it is its turn."""

        async def renewed() -> bool:
            new = self.workers.alive.get(slot)
            if new is None or new is old:
                return False
            return entered(self.directory, new.name).exists()

        return renewed

    async def _handed_over(self) -> bool:
        return bool(await self.observer.ask(_HANDED_OVER))

    def _begun(self, amount: int) -> Callable[[], Awaitable[bool]]:
        async def begun() -> bool:
            return await self._asked() >= amount

        return begun

    async def _asked(self) -> int:
        standing = await self.observer.standing()
        return 0 if standing is None else standing["requests"]

    async def _enough(self) -> bool:
        hits = self.nemesis.hits
        hit = all(hits[kind] >= self.plan.hits for kind in self.nemesis.kinds)
        there = hit and hits.total() >= self.plan.hits_at_all
        return there and await self._asked() >= self.plan.sagas

    async def _is_at_rest(self) -> bool:
        standing = await self.observer.standing()
        if standing is None or standing["confirmed"] < standing["requests"]:
            return False
        return not any(standing[name] for name in ("outbox", "parked", "stashed"))

    async def _until(self, fact: Callable[[], Awaitable[bool]], seconds: float) -> None:
        """Or until the time is up: the verdict says what is missing then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.workers.surprises:
            if await fact():
                return
            await pause(asyncio.Event(), 0.2)
