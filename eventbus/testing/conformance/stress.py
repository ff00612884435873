"""All of it at once: overlapping consumers, short leases, zombies; bounded by counts."""
# ruff: noqa: D102, S101, S311, S608 - a suite: it asserts; seeded dice; the table is its own

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from eventbus.errors import LeaseLostError
from eventbus.message import Message
from eventbus.storage import Storage, Transaction
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import Outgoing
from eventbus.storage.parking import Parked
from eventbus.testing.conformance.samples import (
    Clock,
    at_once,
    failed,
    make_table,
    numbers,
    queued,
    some_message,
    take_partitions,
    unique,
)

WAIT = timedelta(milliseconds=20)
KEYS = 8
PER_KEY = 60
TTL, PAST = timedelta(seconds=0.2), 0.3  # leases that run out while their owners work


class FailedError(Exception):
    """What the handler raises."""


class StressSuite:
    """Subclass it with the fixtures `storage`, an entered storage, and `clock`, its time."""

    async def test_every_message_has_one_effect_and_every_key_its_order(
        self, storage: Storage, clock: Clock
    ) -> None:
        world = World(
            storage, clock, await make_table(storage, "k text, n bigint, pos bigint"), _log()
        )
        await at_once(
            *(_consumer(world, f"consumer{number}") for number in range(2)),
            *(_redeliverer(world, f"redeliverer{number}") for number in range(3)),
        )
        async with storage.transaction() as tx:
            effects = await tx.sql.fetch(f"SELECT k, n FROM {world.effects} ORDER BY k, pos, n")
            held = await tx.parking.keys(group=world.group, limit=100)
        assert {
            key: [row["n"] for row in effects if row["k"] == key]
            for key in {message.key for message in world.log}
        } == {message.key: list(range(PER_KEY)) for message in world.log}
        assert held == frozenset()
        assert world.failures > 0, "nothing failed: the stress hit nothing"
        assert world.refused > 0, "no zombie was refused: the stress hit nothing"

    async def test_writers_and_relays_whose_leases_run_out_lose_nothing_and_keep_the_order(
        self, storage: Storage, clock: Clock
    ) -> None:
        keys = [unique("key") for _ in range(5)]
        broker = Broker()

        async def write(key: str) -> None:
            for number in range(0, 24, 2):
                pair = [some_message(number, key=key), some_message(number + 1, key=key)]
                async with storage.transaction() as tx:
                    await tx.outbox.add(pair)

        await at_once(
            *(write(key) for key in keys),
            *(_relay(storage, clock, broker, f"relay{n}", len(keys) * 24) for n in range(3)),
        )
        assert broker.first == {key: list(range(24)) for key in keys}


def _log() -> list[Message]:
    """A partition of a broker: keys mixed, each numbered from 0."""
    keys = [unique("key") for _ in range(KEYS)]
    return [some_message(number, key=key) for number in range(PER_KEY) for key in keys]


@dataclass(slots=True)
class World:
    """What the tasks share."""

    storage: Storage
    clock: Clock
    effects: str
    log: Sequence[Message]
    group: str = field(default_factory=lambda: unique("group"))
    dice: random.Random = field(default_factory=lambda: random.Random(11))
    consumers: int = 2
    failures: int = 0
    refused: int = 0

    @property
    def lease(self) -> str:
        return f"parked/{self.group}"

    async def handle(self, tx: Transaction, message: Message) -> None:
        """One row, behind those of its key; one call in five fails after it wrote."""
        await tx.sql.execute(
            f"INSERT INTO {self.effects} (k, n, pos) SELECT CAST($1 AS text), CAST($2 AS bigint),"
            f" coalesce(max(pos), 0) + 1 FROM {self.effects} WHERE k = $1",
            message.key,
            numbers([message])[0],
        )
        if self.dice.random() < 0.2:
            self.failures += 1
            raise FailedError


async def _consumer(world: World, name: str) -> None:
    """Read the log from its start, in batches; a lost ack brings a batch again, a crash too."""
    dice, place = random.Random(name), 0
    while place < len(world.log):
        batch = world.log[place : place + dice.randint(1, 9)]
        with suppress(FailedError):
            async with world.storage.transaction() as tx:
                await _lane(world, tx, batch)
                if dice.random() < 0.1:
                    raise FailedError  # a crash before the commit
            if dice.random() > 0.15:
                place += len(batch)
        await world.clock.advance(0.005)
    world.consumers -= 1


async def _lane(world: World, tx: Transaction, batch: Sequence[Message]) -> None:
    keys = [str(message.key) for message in batch]
    received = await tx.inbox.receive(batch, keys=keys, group=world.group)
    held, new, parked = set(received.held), set(received.new), list[Parked]()
    for message, key in zip(batch, keys, strict=True):
        if message.identity not in new:
            continue
        if key in held:
            parked.append(queued(message))
            continue
        try:
            async with tx.savepoint():
                await world.handle(tx, message)
        except FailedError:
            parked.append(failed(message, delay=WAIT))
            held.add(key)
    if parked:
        await tx.parking.park(parked, group=world.group)


async def _redeliverer(world: World, name: str) -> None:
    """Work through what is due; sometimes it sleeps past its lease and goes on as a zombie."""
    dice = random.Random(name)
    while world.consumers or await _anything_held(world):
        await world.clock.advance(0.01)
        lease = await _acquire(world, name)
        if lease is None:
            continue
        rows = await _due(world, lease)
        if dice.random() < 0.3:
            await world.clock.advance(PAST)
            rival = await _acquire(world, f"{name}/rival")
            if rival is not None:
                await _work(world, rival, await _due(world, rival), dice)
        await _work(world, lease, rows, dice)
        if dice.random() < 0.5:
            async with world.storage.transaction() as tx:
                await tx.leases.release([lease])


async def _acquire(world: World, owner: str) -> Lease | None:
    async with world.storage.transaction() as tx:
        taken = await tx.leases.acquire([world.lease], owner=owner, ttl=TTL, limit=1)
    return taken[0] if taken else None


async def _due(world: World, lease: Lease) -> Sequence[Parked]:
    async with world.storage.transaction() as tx:
        return await tx.parking.due(lease, group=world.group, limit=20)


async def _work(world: World, lease: Lease, rows: Sequence[Parked], dice: random.Random) -> None:
    for key in dict.fromkeys(row.key for row in rows):
        waiting = [row for row in rows if row.key == key]
        try:
            await _redeliver(world, lease, key, waiting, closing=dice.random() < 0.5)
        except LeaseLostError:
            world.refused += 1


async def _redeliver(
    world: World, lease: Lease, key: str, rows: Sequence[Parked], *, closing: bool
) -> None:
    """In one transaction, one after the other until one fails; closing: all that waits."""
    async with world.storage.transaction() as tx:
        if closing:
            found = await tx.parking.behind(lease, key, group=world.group, limit=20, closing=True)
            if found is None:
                return
            rows = found
        done = list[Parked]()
        for row in rows:
            try:
                async with tx.savepoint():
                    await world.handle(tx, row.message)
            except FailedError:
                again = failed(row.message, delay=WAIT, attempts=row.attempts + 1)
                await tx.parking.park([again], group=world.group, lease=lease)
                break
            done.append(row)
        await tx.parking.settle(lease, done, group=world.group)


async def _anything_held(world: World) -> bool:
    async with world.storage.transaction() as tx:
        return bool(await tx.parking.keys(group=world.group, limit=1))


@dataclass(slots=True)
class Broker:
    """What relays published: the first of each, by key."""

    seen: set[UUID] = field(default_factory=set)
    first: dict[str, list[int]] = field(default_factory=dict)
    settled: int = 0

    def publish(self, row: Outgoing) -> None:
        if row.message.identity not in self.seen:
            self.seen.add(row.message.identity)
            self.first.setdefault(str(row.message.key), []).extend(numbers([row]))


async def _relay(storage: Storage, clock: Clock, broker: Broker, owner: str, total: int) -> None:
    """Publish until all is settled; every third round it sleeps past its leases and comes late."""
    dice = random.Random(owner)
    while broker.settled < total:
        leases = await take_partitions(storage, owner=owner, ttl=TTL)
        async with storage.transaction() as tx:
            rows = await tx.outbox.read(leases, limit=20)
        refused: set[str] = set()
        confirmed = []
        for row in rows:  # a broker that stores nothing of a key behind a refusal
            if str(row.message.key) not in refused and dice.random() > 0.1:
                broker.publish(row)
                confirmed.append(row)
            elif str(row.message.key) not in refused:
                refused.add(str(row.message.key))
                await _refuse(storage, leases, row)
        others: Sequence[Lease] = ()
        if dice.random() < 0.3:
            await clock.advance(PAST)
            others = await take_partitions(storage, owner=f"{owner}/other", ttl=TTL)
        async with storage.transaction() as tx:
            settled = await tx.outbox.settle(leases, confirmed)
        broker.settled += settled
        async with storage.transaction() as tx:
            await tx.leases.release([*leases, *others])
        await clock.advance(0.03)


async def _refuse(storage: Storage, leases: Sequence[Lease], row: Outgoing) -> None:
    async with storage.transaction() as tx:
        await tx.outbox.defer(leases, [row], delay=WAIT, error="queue full")
