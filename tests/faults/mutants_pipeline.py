"""Broken pipelines: each a named patch of one seam, and the suite that must find it out.

`python -m tests.faults.mutants_pipeline NAME` applies it in this process and runs its suite; one
JSON line says what caught it, after how many schedules and seconds.
"""

import asyncio
import contextvars
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

from eventbus.errors import CodecError, CommitUnknownError, StorageError, TransportError
from eventbus.message import Message, new_id
from eventbus.outbox.relay import Relay
from eventbus.pubsub.batch import Batch
from eventbus.pubsub.call import Call
from eventbus.pubsub.deadletter import Unstored
from eventbus.pubsub.dispatcher import Dispatcher
from eventbus.pubsub.effects import Effects
from eventbus.pubsub.gate import Gate
from eventbus.pubsub.lanes import Lane
from eventbus.pubsub.publisher import OutboxPublisher
from eventbus.pubsub.redelivery import Redelivery
from eventbus.pubsub.verdict import Verdicts
from eventbus.sqlite.inbox import SqliteInbox
from eventbus.sqlite.parking import SqliteParking
from eventbus.storage.inbox import Received
from eventbus.testing.faults import Delay, LoseLease, ZombieOwner
from tests.faults.simulated.scenario import Scenario, scenario_of
from tests.faults.simulated.world import World
from tests.faults.simulation import simulate
from tests.faults.simulation_bare import simulate_bare

Suite = Callable[[int], "str | None"]
MOST_SCHEDULES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A number of the design's list (0: our own), the patch, and who must find it."""

    number: int
    patches: Callable[[], Sequence[AbstractContextManager[Any]]]
    suite: Suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Catch:
    """What a run of a mutant showed."""

    mutant: str
    caught_by: str  # empty: it survived
    schedules: int
    seconds: float


# -- suites ------------------------------------------------------------------------------------


def whole(seed: int) -> str | None:
    """The simulation as it is."""
    return _judged(seed, scenario_of(seed))


def outages(seed: int) -> str | None:
    """Row 56: the dependency of a group is away."""
    calm = replace(scenario_of(seed), rate=0.0, fail_rate=0.0, poison=frozenset(), lives=1)
    quiet = replace(calm, drains=False, twins=False, third="", garbage=0, pause=False)
    return _judged(seed, replace(quiet, silent_publish=0, keys=12, per_key=2, outage_seconds=40.0))


def silences(seed: int) -> str | None:
    """A broker that takes a publish and never answers."""
    return _judged(seed, replace(scenario_of(seed), silent_publish=1, outage_seconds=0.0))


def thefts(seed: int) -> str | None:
    """Leases that change hands while their owners are slow."""
    busy = replace(scenario_of(seed), twins=True, drains=True, lives=3, fail_rate=0.4, rate=0.15)
    return _judged(seed, replace(busy, outage_seconds=0.0, kinds=(LoseLease, partial(Delay, 1.5))))


def zombies(seed: int) -> str | None:
    """Row 28: messages in the hands of two consumers at once."""
    shared = replace(scenario_of(seed), twins=True, drains=True, lives=3, keys=3, rate=0.3)
    return _judged(seed, replace(shared, outage_seconds=0.0, kinds=(ZombieOwner, Delay)))


def bare(seed: int) -> str | None:
    """Without a storage."""
    verdicts, _ = simulate_bare(seed)
    return next((verdict.checker for verdict in verdicts if not verdict.ok), None)


def deadly(seed: int) -> str | None:
    """Row 39, with real processes: once is enough."""
    from tests.faults.crash import deadly_handler

    with tempfile.TemporaryDirectory() as directory:
        try:
            deadly_handler(Path(directory))
        except RuntimeError as error:
            return f"row 39: {error}"
    return None


def _judged(seed: int, scenario: Scenario) -> str | None:
    try:
        violations = simulate(seed, scenario).violations
    except Exception as error:
        return f"K9 stuck: {type(error).__name__}"
    return ", ".join(verdict.checker for verdict in violations) or None


# -- patches -----------------------------------------------------------------------------------


async def _ack_before_commit(self: Any, permit: int, run: Any) -> None:
    batch = self.running = self._take(permit)
    self._done(batch)
    try:
        await self._batches.run(batch, run, self._stopping)
    except (StorageError, TransportError):
        await asyncio.sleep(0)
    self.running = ()


async def _nothing_recorded(self: SqliteInbox, messages: Any, *, keys: Any, group: str) -> Received:
    held = (await self.look(messages, keys=keys, group=group)).held
    return Received(new=frozenset(message.identity for message in messages), held=held)


async def _recorded_apart(self: Any, calls: Sequence[Call], run: Any, stop: Any) -> int:
    if not self.group.transactional:
        return int(await self._outside.run(calls))
    async with self._storage.transaction() as tx:
        batch = await self._receive([call for call in calls if call.ours], tx)
    async with self._storage.transaction() as tx:
        batch.effects = Effects(self._verdicts.attempts.participant, tx)
        return int(await _run_and_park(self, calls, batch, tx, run, stop))


async def _recorded_afterwards(self: Any, calls: Sequence[Call], run: Any, stop: Any) -> int:
    if not self.group.transactional:
        return int(await self._outside.run(calls))
    ours = [call for call in calls if call.ours]
    messages, keys = [call.message for call in ours], [call.key for call in ours]
    async with self._storage.transaction() as tx:
        found = await tx.inbox.look(messages, keys=keys, group=self.group.name)
    async with self._storage.transaction() as tx:
        effects = Effects(self._verdicts.attempts.participant, tx)
        batch = Batch(set(found.new), set(found.held), effects)
        started = await self._each(calls, batch, tx, run, stop)
        if batch.parked:
            await tx.parking.park(batch.parked, group=self.group.name)
        if started:
            await tx.inbox.receive(messages[:started], keys=keys[:started], group=self.group.name)
    return int(started)


async def _run_and_park(
    self: Any, calls: Sequence[Call], batch: Batch, tx: Any, run: Any, stop: Any
) -> int:
    started = await self._each(calls, batch, tx, run, stop)
    await self._forget(calls[started:], batch, tx)
    if batch.parked:
        await tx.parking.park(batch.parked, group=self.group.name)
    return int(started)


async def _effect_elsewhere(ctx: Any, event: Any) -> None:
    group, message_id = ctx.group, ctx.message.id

    async def write() -> None:
        async with _worlds[-1].storage.transaction() as tx:
            await tx.sql.execute(
                "INSERT INTO effects (grp, id, key, seq) VALUES ($1, $2, $3, $4)",
                group,
                message_id,
                event.account,
                event.seq,
            )

    loop = asyncio.get_running_loop()
    task = loop.create_task(write(), name="elsewhere", context=contextvars.Context())
    _elsewhere.append(task)


_worlds: list[Any] = []
_elsewhere: list[asyncio.Task[None]] = []


def _noting_worlds() -> AbstractContextManager[Any]:
    before = World.__post_init__

    def note(self: World) -> None:
        before(self)
        _worlds[:] = [self]

    return patch.object(World, "__post_init__", note)


_publish_rows = Relay._publish
_read_rows = Relay._read
_relay_begins = Relay.__init__


async def _settled_before_publish(self: Any, rows: Any) -> int:
    async with self._storage.transaction() as tx:
        await tx.outbox.settle(self._holdings.leases, rows)
    return await _publish_rows(self, rows)


def _trusts_a_volatile_broker(self: Any, *args: Any, **options: Any) -> None:
    _relay_begins(self, *args, **options)
    self._volatile = False


async def _read_by_cursor(self: Any) -> Any:
    rows = [row for row in await _read_rows(self) if row.row > getattr(self, "cursor", 0)]
    self.cursor = max((row.row for row in rows), default=getattr(self, "cursor", 0))
    return rows


async def _settled_without_fence(self: Any, lease: Any, parked: Any, *, group: str) -> None:
    ids = [str(one.message.identity) for one in parked]

    def settle(connection: Any) -> None:
        connection.executemany(
            "DELETE FROM eventbus_parked WHERE group_name = ? AND message = ?",
            [(group, each) for each in ids],
        )

    await self._session.run("parking.settle", settle)


_commit_batch = OutboxPublisher._commit


async def _published_anew(self: Any, batch: Any) -> None:
    try:
        async with self._storage.transaction() as tx:
            for one in batch:
                await tx.outbox.add([one.message], delay=one.delay)
    except CommitUnknownError:
        for one in batch:
            one.message = _renamed(one.message)
        await _commit_batch(self, batch)
        return
    except StorageError as error:
        for one in batch:
            one.done.set_exception(error)
        return
    for one in batch:
        if not one.done.done():
            one.done.set_result(None)


def _renamed(message: Message) -> Message:
    return Message(
        id=new_id(),
        type=message.type,
        source=message.source,
        topic=message.topic,
        payload=message.payload,
        key=message.key,
        headers=message.headers,
    )


async def _reported_as_failed(self: CommitUnknownError) -> str:
    return "rolled_back"


def _any_lane(delivery: Any, lanes: Sequence[Lane], group: Any) -> Lane:
    return lanes[UUID(delivery.message.id).int % len(lanes)]


def _runs_though_held(self: Any, call: Call, batch: Batch) -> bool:
    return bool(call.ours and call.identity in batch.new)


_attempt = Verdicts.attempt


async def _dropped_if_undecodable(self: Any, call: Call, tx: Any, run: Any, *begun: Any) -> Any:
    try:
        await self.decoded(call, tx)
    except CodecError:
        return None
    return await _attempt(self, call, tx, run, *begun)


async def _not_counted(self: Any, call: Call) -> bool:
    return True


async def _nothing_forgotten(self: Any, rest: Any, batch: Any, tx: Any) -> None:
    """An id stays in the inbox without its effect."""


async def _without_savepoint(
    self: Any, call: Any, what: Any, context: Any, tx: Any, run: Any
) -> None:
    await self.attempts.handle(call.route, what, call.message, context, run)


_bury = Unstored._bury


async def _acked_before_burial(self: Any, *args: Any) -> None:
    loop = asyncio.get_running_loop()
    _elsewhere.append(loop.create_task(_bury(self, *args), name="consumer:bury"))


def _always(self: Gate, **_: bool) -> int:
    return 1 << 30


def _endless(module: Any) -> SimpleNamespace:
    @contextmanager
    def nothing() -> Iterator[None]:
        yield

    endless = SimpleNamespace(**vars(module))
    endless.timeout_at = lambda when: module.timeout(None)
    return endless


async def _in_any_order(self: Any, lease: Any, due: Any) -> None:
    await _keys_of(self, lease, sorted(due, key=lambda one: one.message.id, reverse=True))


_keys_of = Redelivery._keys


def _one(target: Any, name: str, new: Any) -> Callable[[], Sequence[AbstractContextManager[Any]]]:
    return lambda: [patch.object(target, name, new)]


MUTANTS: dict[str, Mutant] = {
    "ack before commit": Mutant(
        number=1, patches=_one(Lane, "_batch", _ack_before_commit), suite=whole
    ),
    "no inbox": Mutant(
        number=2, patches=_one(SqliteInbox, "receive", _nothing_recorded), suite=whole
    ),
    "inbox row in its own transaction": Mutant(
        number=3, patches=_one(Dispatcher, "_handle", _recorded_apart), suite=whole
    ),
    "inbox row after the handler": Mutant(
        number=4, patches=_one(Dispatcher, "_handle", _recorded_afterwards), suite=zombies
    ),
    "effect on another connection": Mutant(
        number=5,
        patches=lambda: [
            _noting_worlds(),
            patch("tests.faults.simulated.world.effect_row", _effect_elsewhere),
        ],
        suite=whole,
    ),
    "outbox row deleted before the confirm": Mutant(
        number=9, patches=_one(Relay, "_publish", _settled_before_publish), suite=whole
    ),
    "outbox row deleted at the confirm of a volatile broker": Mutant(
        number=0, patches=_one(Relay, "__init__", _trusts_a_volatile_broker), suite=whole
    ),
    "relay reads by id cursor, not by state": Mutant(
        number=11, patches=_one(Relay, "_read", _read_by_cursor), suite=whole
    ),
    "settle without the lease's epoch": Mutant(
        number=13, patches=_one(SqliteParking, "settle", _settled_without_fence), suite=thefts
    ),
    "ambiguous commit retried under a new id": Mutant(
        number=15, patches=_one(OutboxPublisher, "_commit", _published_anew), suite=whole
    ),
    "ambiguous commit reported as failed": Mutant(
        number=16, patches=_one(CommitUnknownError, "resolve", _reported_as_failed), suite=whole
    ),
    "messages of a key in several lanes at once": Mutant(
        number=17,
        patches=lambda: [patch("eventbus.pubsub.consumer.lane_for", _any_lane)],
        suite=whole,
    ),
    "parked key does not hold later messages": Mutant(
        number=19, patches=_one(Dispatcher, "_may_run", _runs_though_held), suite=whole
    ),
    "undecodable message acked and dropped": Mutant(
        number=20, patches=_one(Verdicts, "attempt", _dropped_if_undecodable), suite=whole
    ),
    "attempt not counted before the handler": Mutant(
        number=27, patches=_one(Dispatcher, "_count", _not_counted), suite=deadly
    ),
    "no deadline on publish": Mutant(
        number=30,
        patches=lambda: [patch("eventbus.outbox.relay.asyncio", _endless(asyncio))],
        suite=silences,
    ),
    "ack before the dead letter is confirmed": Mutant(
        number=31, patches=_one(Unstored, "_bury", _acked_before_burial), suite=bare
    ),
    "circuit open, messages counted as failed": Mutant(
        number=32,
        patches=lambda: [
            patch.object(Gate, "permit", _always),
            patch.object(Gate, "is_shut", property(lambda self: False)),
        ],
        suite=outages,
    ),
    "what was not run stays in the inbox": Mutant(
        number=0, patches=_one(Dispatcher, "_forget", _nothing_forgotten), suite=whole
    ),
    "failed handler's rows stay": Mutant(
        number=0, patches=_one(Verdicts, "_in_savepoint", _without_savepoint), suite=whole
    ),
    "redelivery in any order": Mutant(
        number=0, patches=_one(Redelivery, "_keys", _in_any_order), suite=whole
    ),
}


_OF_THE_PATCH = (AttributeError, NameError, TypeError)


@contextmanager
def _whole_patches() -> Iterator[None]:
    """A service that falls over the patch itself is no catch: the seam has moved.

    Raises:
        RuntimeError: one did.
    """
    broken: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
            broken.extend(repr(one) for one in causes if isinstance(one, _OF_THE_PATCH))

    log, listener = logging.getLogger("eventbus.service"), Listener()
    log.addHandler(listener)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.propagate = True
    if broken:
        raise RuntimeError(f"the patch does not fit any more: {broken[0]}")


def hunt(name: str, *, most: int = MOST_SCHEDULES) -> Catch:
    """Run the mutant's suite, seed after seed, until something catches it; "none" is no mutant."""
    mutant = MUTANTS.get(name, Mutant(number=0, patches=tuple, suite=whole))
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(_whole_patches())
        for each in mutant.patches():
            stack.enter_context(each)
        for seed in range(1 if mutant.suite is deadly else most):
            caught = mutant.suite(seed)
            if caught is not None:
                break
    return Catch(
        mutant=name,
        caught_by=caught or "",
        schedules=seed + 1,
        seconds=time.perf_counter() - began,
    )


if __name__ == "__main__":
    logging.getLogger("eventbus").setLevel(logging.CRITICAL)  # faults are logged by the thousand
    logging.getLogger("eventbus.service").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    for wanted in sys.argv[1:]:
        print(json.dumps(asdict(hunt(wanted))), flush=True)
