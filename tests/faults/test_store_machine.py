"""SQLite on a file and in memory against one model: random transactions, undone at random."""

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from eventbus.errors import LeaseLostError
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage, Transaction
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import PARTITIONS, Outgoing
from eventbus.storage.parking import Failure, Parked
from eventbus.testing.conformance import HandClock
from tests.faults import store_model as do
from tests.faults.store_model import POOL, Model, Program, Savepoint, Step, key_of, picked

GROUP = "machine"
FAILURE = Failure(reason="failed", code="EB4101", type="E", text="t", fingerprint="f")
NAMES: dict[do.Place, list[str]] = {
    "outbox": [f"outbox/{partition:02d}" for partition in range(PARTITIONS)],
    "parked": [f"parked/{GROUP}"],
}


class UndoneError(Exception):
    """Leaves a block that is not to be kept."""


@dataclass
class Handles:
    """What a store handed out; forgotten with what is undone."""

    read: list[Outgoing] = field(default_factory=list)
    found: list[Parked] = field(default_factory=list)
    leases: dict[do.Place, tuple[Sequence[Lease], ...]] = field(
        default_factory=lambda: {"outbox": (), "parked": ()}
    )

    def copied(self) -> "Handles":
        other = copy(self)
        other.leases = dict(self.leases)
        return other


class Subject:
    """Runs programs on a storage; its answers are written like the model's."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.handles = Handles()

    async def run(self, program: Program) -> list[object]:
        before, answers = self.handles.copied(), list[object]()
        try:
            async with self.storage.transaction() as tx:
                await self._items(tx, program.items, answers)
                _keep(program.commit)
        except UndoneError:
            self.handles = before
        except LeaseLostError:
            answers.append("lost")
            self.handles = before
        return answers

    async def _items(
        self, tx: Transaction, items: Sequence[Step | Savepoint], answers: list[object]
    ) -> None:
        for item in items:
            if not isinstance(item, Savepoint):
                answers.append(await self._step(tx, item))
                continue
            before = self.handles.copied()
            try:
                async with tx.savepoint():
                    await self._items(tx, item.steps, answers)
                    _keep(item.keep)
            except UndoneError:
                self.handles = before
            except LeaseLostError:
                answers.append("lost")
                self.handles = before

    async def _step(self, tx: Transaction, step: Step) -> object:
        match step:
            case do.Add() | do.Read() | do.Promote() | do.Settle() | do.Defer():
                return await self._outbox(tx, step)
            case do.Receive() | do.Forget() | do.Count():
                return await self._inbox(tx, step)
            case do.Acquire() | do.Renew() | do.Release() | do.Owners():
                return await self._leases(tx, step)
            case do.Keys():
                return sorted(await tx.parking.keys(group=GROUP, limit=100))
            case _:
                return await self._parking(tx, step)

    async def _outbox(
        self, tx: Transaction, step: do.Add | do.Read | do.Promote | do.Settle | do.Defer
    ) -> object:
        outbox, handles = tx.outbox, self.handles
        if isinstance(step, do.Add):
            await outbox.add([POOL[n] for n in step.numbers], delay=_span(step.delay))
            return None
        if isinstance(step, do.Read):
            # a lease of any age reads; without one there is nothing to ask with
            leases = self._lease("outbox", 0) or [Lease(name, "us", 0) for name in NAMES["outbox"]]
            rows = await outbox.read(leases, limit=500)
            handles.read = sorted(rows, key=lambda row: row.row)
            return [
                (row.message.key, int(row.message.payload), row.attempts) for row in handles.read
            ]
        leases = self._lease("outbox", step.lease)
        if isinstance(step, do.Promote):
            return await outbox.promote(leases, limit=100)
        rows = [handles.read[pick] for pick in picked(step.picks, len(handles.read))]
        if isinstance(step, do.Settle):
            return await outbox.settle(leases, rows)
        return await outbox.defer(leases, rows, delay=_span(step.delay), error="refused")

    async def _inbox(self, tx: Transaction, step: do.Receive | do.Forget | do.Count) -> object:
        messages = [POOL[number] for number in step.numbers]
        if isinstance(step, do.Receive):
            ask = tx.inbox.receive if step.record else tx.inbox.look
            found = await ask(messages, keys=[key_of(n) for n in step.numbers], group=GROUP)
            return sorted(map(_number, found.new)), sorted(found.held)
        if isinstance(step, do.Forget):
            await tx.inbox.forget(messages, group=GROUP)
            return None
        counts = await tx.inbox.count(messages, group=GROUP)
        return sorted((_number(identity), count) for identity, count in counts.items())

    async def _parking(
        self, tx: Transaction, step: do.Park | do.Due | do.Behind | do.SettleParked
    ) -> object:
        parking, handles = tx.parking, self.handles
        if isinstance(step, do.Park):
            lease = None if step.lease is None else self._parked_lease(step.lease)
            await parking.park([_parked(*row) for row in step.rows], group=GROUP, lease=lease)
            return None
        if isinstance(step, do.SettleParked):
            rows = [handles.found[pick] for pick in picked(step.picks, len(handles.found))]
            await parking.settle(self._parked_lease(step.lease), rows, group=GROUP)
            return None
        lease = self._parked_lease(0)
        found: Sequence[Parked] | None
        if isinstance(step, do.Due):
            found = await parking.due(lease, group=GROUP, limit=100)
        else:
            key = key_of(step.number)
            closing = step.closing
            found = await parking.behind(lease, key, group=GROUP, limit=100, closing=closing)
        handles.found = sorted(found or (), key=lambda row: row.key)  # stable: in order per key
        return [
            (row.key, int(row.message.payload), row.attempts, row.failure is not None)
            for row in handles.found
        ]

    async def _leases(
        self, tx: Transaction, step: do.Acquire | do.Renew | do.Release | do.Owners
    ) -> object:
        leases, names, known = tx.leases, NAMES[step.place], self.handles.leases
        if isinstance(step, do.Owners):
            return await leases.owners(f"{step.place}/") == len(names)
        if isinstance(step, do.Acquire):
            ttl = timedelta(milliseconds=step.ttl)
            taken = await leases.acquire(names, owner=step.owner, ttl=ttl, limit=PARTITIONS)
            if taken:
                known[step.place] = (*known[step.place], taken)
            return len(taken) == len(names)
        held = self._lease(step.place, step.lease)
        if isinstance(step, do.Release):
            await leases.release(held)
            return None
        return bool(await leases.renew(held, ttl=timedelta(milliseconds=step.ttl)))

    def _lease(self, place: do.Place, age: int) -> Sequence[Lease]:
        known = self.handles.leases[place]
        return known[-1 - age] if age < len(known) else ()

    def _parked_lease(self, age: int) -> Lease:
        known = self._lease("parked", age)
        return known[0] if known else Lease(f"parked/{GROUP}", "nobody", -1)


def _keep(keep: bool) -> None:
    if not keep:
        raise UndoneError


def _span(delay: int | None) -> timedelta | None:
    return None if delay is None else timedelta(milliseconds=delay)


def _number(identity: object) -> int:
    return int(str(identity)[-3:])


def _parked(number: int, tried: bool, delay: int | None) -> Parked:
    return Parked(
        message=POOL[number],
        key=key_of(number),
        attempts=int(tried),
        delay=_span(delay),
        origin="machine",
        failure=FAILURE if tried else None,
    )


number = st.integers(0, len(POOL) - 1)
several = st.lists(number, min_size=1, max_size=4).map(tuple)
picks = st.lists(st.integers(0, 30), max_size=4).map(tuple)
spans = st.sampled_from([250, 1000, 4000])  # of milliseconds, exact in binary seconds
delays = st.none() | spans
ages = st.sampled_from([0, 0, 0, 1, 2])
places = st.sampled_from(["outbox", "parked"])
parked_rows = st.lists(
    st.tuples(number, st.booleans(), delays), min_size=1, max_size=4, unique_by=lambda row: row[0]
).map(tuple)
build: Callable[..., Any] = st.builds
steps = st.one_of(
    build(do.Add, several, delays),
    build(do.Read),
    build(do.Promote, ages),
    build(do.Settle, picks, ages),
    build(do.Defer, picks, delays, ages),
    build(do.Receive, several, st.booleans()),
    build(do.Forget, several),
    build(do.Count, several),
    build(do.Park, parked_rows, st.none() | ages),
    build(do.Due),
    build(do.Behind, number, st.booleans()),
    build(do.SettleParked, picks, ages),
    build(do.Keys),
    build(do.Acquire, places, st.sampled_from("ab"), spans),
    build(do.Renew, places, spans, ages),
    build(do.Release, places, ages),
    build(do.Owners, places),
)
some = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(tuple)
late = st.one_of(  # of who lost its leases
    build(do.Settle, some, st.just(1)),
    build(do.Defer, some, delays, st.just(1)),
    build(do.Promote, st.just(1)),
)
rounds = st.one_of(  # what only has an effect one after the other
    st.tuples(build(do.Add, several, st.none()), build(do.Add, several, spans)),
    st.tuples(build(do.Promote, ages), build(do.Read), build(do.Settle, picks, ages)),
    st.tuples(build(do.Read), build(do.Defer, picks, delays, ages), build(do.Read)),
    st.tuples(
        build(do.Release, st.just("outbox"), st.just(0)),
        build(do.Acquire, st.just("outbox"), st.just("b"), spans),
        build(do.Read),
        late,
        build(do.Read),
    ),
    st.tuples(build(do.Add, several, st.none()), build(do.Read)),
    st.tuples(build(do.Receive, several, st.just(True)), build(do.Forget, several)),
    st.tuples(build(do.Due), build(do.SettleParked, picks, ages)),
    some.map(lambda twice: (do.Due(), do.SettleParked(twice, 0), do.SettleParked(twice, 0))),
    st.tuples(*2 * [build(do.Park, parked_rows, st.none())], build(do.Due)),
    st.tuples(build(do.Renew, places, spans, ages), build(do.Owners, places)),
    st.tuples(build(do.Due), build(do.Park, parked_rows, ages), build(do.Due)),
    st.tuples(build(do.Behind, number, st.just(True)), build(do.SettleParked, picks, ages)),
)
savepoints = build(Savepoint, st.lists(steps, max_size=4).map(tuple), st.booleans())
programs = build(
    Program,
    st.lists(steps | steps | savepoints, max_size=8).map(tuple) | rounds | rounds,
    st.sampled_from([True, True, True, False]),
)
unchanging = Program(
    (
        do.Keys(),
        do.Receive(tuple(range(len(POOL))), record=False),
        do.Owners("outbox"),
        do.Owners("parked"),
    ),
    commit=True,
)
everything: tuple[Step, ...] = (
    do.Promote(0),
    do.Read(),
    do.Keys(),
    do.Due(),
    do.Keys(),
    do.Receive(tuple(range(len(POOL))), record=False),
    do.Count(tuple(range(len(POOL)))),
    do.Owners("outbox"),
)


class Stores(RuleBasedStateMachine):
    """Every rule runs on all three; every answer must be the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.agreed = True
        self.runner = asyncio.Runner()
        self.folder = TemporaryDirectory()
        self.clock = HandClock()
        self.model = Model(int(self.clock() * 1000))
        path = str(Path(self.folder.name) / "bus.db")
        self.stores = [
            Subject(SqliteStorage(path, now=self.clock, synchronous="NORMAL")),
            Subject(SqliteStorage(now=self.clock)),
        ]
        for subject in self.stores:
            self.runner.run(subject.storage.__aenter__())

    @initialize()
    def own(self) -> None:
        places: tuple[do.Place, ...] = ("outbox", "parked")
        self._compare(Program(tuple(do.Acquire(p, "a", 4000) for p in places), commit=True))

    @rule(program=programs)
    def transact(self, program: Program) -> None:
        self._compare(program)
        self._compare(unchanging)

    @rule(milliseconds=spans)
    def advance(self, milliseconds: int) -> None:
        self.runner.run(self.clock.advance(milliseconds / 1000))
        self.model.now += milliseconds

    def _compare(self, program: Program) -> None:
        expected = self.model.run(program)
        self.agreed = False
        for subject in self.stores:
            assert self.runner.run(subject.run(program)) == expected
        self.agreed = True

    def teardown(self) -> None:
        try:
            if self.agreed:  # or this would hide the first difference behind another
                self.advance(8000)
                last = do.Acquire("outbox", "last", 1000)
                self._compare(Program((last, *everything), commit=True))
        finally:
            for subject in self.stores:
                self.runner.run(subject.storage.__aexit__(None, None, None))
            self.runner.close()
            self.folder.cleanup()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
