"""Commands by handlers while database and broker fail by chance: each stream says each one once.

A seeded loop in virtual time, a handler that also fails after its command, faults at every call.
In the end a stream holds what was asked, once and in the order of its key; the broker holds what
the streams hold, under the same ids; and what is folded is what was asked.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from zlib import crc32

import pytest

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.errors import EventBusError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message, new_id
from eventbus.sourcing import CommandHandler, state
from eventbus.sqlite import SqliteStorage, events, session
from eventbus.storage import verdicts
from eventbus.storage.events import Append, Snapshot
from eventbus.testing import FaultPlan, FaultyStorage, FaultyTransport
from eventbus.testing.faults import Conflict, Delay, Duplicate, Hang, LoseReply
from tests.faults.loop import SeededLoop, run_seeded
from tests.unit.sourcing import orders
from tests.unit.sourcing.orders import (
    Add,
    LineAdded,
    Order,
    OrderDecider,
    Place,
    Ship,
    State,
    order_of,
)

START = 1_700_000_000.0
ORDERS, PER_ORDER = 4, 12
KINDS = (Delay(), Hang(), LoseReply(), Conflict(), Duplicate())
WAITS = (timedelta(seconds=1),) * 40
DESK = Group("desk", retry=RetryPolicy(in_place=1, parked=WAITS), lanes=3, batch_messages=4)


class Asked(Event, type="desk.asked", key="order_id"):
    order_id: str
    product: str


class Numbering(OrderDecider):
    """Decides by all that came before: each line says how many there were."""

    def decide(self, command: Place | Add | Ship, state: State) -> Sequence[Event]:
        assert isinstance(command, Add)
        said = len(state.products)
        return [LineAdded(order_id=command.order_id, product=command.product, cents=said)]


@dataclass
class Outcome:
    """What was asked, and what came of it."""

    asked: dict[str, list[str]] = field(default_factory=dict)
    streams: dict[str, list[Message]] = field(default_factory=dict)
    products: dict[str, list[str]] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    folded: dict[str, Mapping[str, int]] = field(default_factory=dict)
    published: Sequence[Message] = ()
    letters: int = 0
    failures: int = 0
    hits: Counter[str] = field(default_factory=Counter)


class Desk:
    """Tells orders what was asked; fails as the seed says, before and after the command."""

    def __init__(self, seed: int, outcome: Outcome, handle: CommandHandler[Any]) -> None:
        self._seed = seed
        self._outcome = outcome
        self._handle = handle
        self._calls = Counter[str]()

    @subscribe(Asked, group=DESK)
    async def take(self, event: Asked, ctx: Context) -> None:
        self._perhaps_fail(f"before:{event.order_id}:{event.product}")
        await self._handle(Add(event.order_id, event.product, 1), ctx)
        self._perhaps_fail(f"after:{event.order_id}:{event.product}")

    def _perhaps_fail(self, what: str) -> None:
        self._calls[what] += 1
        if crc32(f"{self._seed}:{what}:{self._calls[what]}".encode()) % 100 < 12:
            self._outcome.failures += 1
            raise ValueError(what)


async def simulate(loop: SeededLoop, seed: int) -> Outcome:
    outcome = Outcome()
    plan = FaultPlan.seeded(seed, rate=0.1, kinds=KINDS)

    def now() -> float:
        return START + loop.time()

    broker = MemoryBroker(stepwise=True, now=now, seed=seed)
    storage = SqliteStorage(stepwise=True, now=now)
    handle = CommandHandler(Numbering(), stream=order_of, snapshot=3)
    bus = EventBus(
        FaultyTransport(MemoryTransport(broker), plan),
        storage=FaultyStorage(storage, plan),
        handlers=[orders, Desk(seed, outcome, handle)],
        service="desk",
    )
    async with bus:
        for number in range(ORDERS * PER_ORDER):
            await ask(bus, outcome, f"A-{number % ORDERS}", f"{number}")
        await storage.wait("timers", at_most=timedelta(seconds=30))  # virtual: faults all the while
        plan.heal()
        while await bus.parked.list(limit=1) or await bus.outbox.list(limit=1):
            await loop_on(bus, storage)
        await bus.until_idle(at_most=timedelta(minutes=10))
        outcome.letters = len(await bus.dead_letters.list())
        for order in outcome.asked:
            read = await bus.events.read(f"order-{order}")
            outcome.streams[order] = [one.recorded.message for one in read]
            added = [one.event for one in read if isinstance(one.event, LineAdded)]
            outcome.products[order] = [each.product for each in added]
            outcome.numbers[order] = [each.cents for each in added]
            async with bus.transaction() as tx:
                outcome.folded[order] = (await Order.load(order, tx)).products
    outcome.published = list(broker.published("shop"))
    outcome.hits = Counter(type(hit.fault).__name__ for hit in plan.hits)
    return outcome


async def ask(bus: EventBus, outcome: Outcome, order: str, product: str) -> None:
    """Ask; what became of it is found out where that is not known, and not repeated."""
    try:
        await bus.publish(Asked(order_id=order, product=product))
    except EventBusError as error:
        resolve = getattr(error, "resolve", None)
        if resolve is None or await resolve() != "committed":
            return
    outcome.asked.setdefault(order, []).append(product)


async def loop_on(bus: EventBus, storage: SqliteStorage) -> None:
    """Virtual time goes on, as far as the next thing that is due."""
    await storage.wait("timers", at_most=timedelta(seconds=1))
    await bus.until_idle(at_most=timedelta(minutes=10))


@pytest.mark.parametrize("seed", range(12))
def test_each_command_is_in_its_stream_once_and_in_order(seed: int) -> None:
    outcome = run_seeded(seed, lambda loop: simulate(loop, seed), at_most=7200)
    assert outcome.letters == 0
    assert outcome.products == outcome.asked
    for order, products in outcome.asked.items():
        assert outcome.numbers[order] == list(range(len(products)))
        assert outcome.folded[order] == dict(zip(products, outcome.numbers[order], strict=True))
    recorded = {each.id: each.payload for stream in outcome.streams.values() for each in stream}
    assert {each.id: each.payload for each in outcome.published} == recorded
    assert outcome.failures > 3, "the handler hardly failed"
    assert outcome.hits.total() > 10, "hardly any fault was met"


def test_it_sees_events_that_go_out_under_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    real = verdicts.going_out

    def going_out(append: Append, version: int) -> list[Message]:
        again = {"source": "/desk", "topic": "shop", "payload": b"{}"}
        return [
            Message(id=new_id(), type=each.type, key=each.key, headers=each.headers, **again)  # type: ignore[arg-type]
            for each in real(append, version)
        ]

    monkeypatch.setattr(events, "going_out", going_out)
    with pytest.raises(AssertionError):
        test_each_command_is_in_its_stream_once_and_in_order(1)


def test_it_sees_a_snapshot_that_says_a_version_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    def ahead(**told: Any) -> Snapshot:
        return Snapshot(**{**told, "version": told["version"] + 1})

    monkeypatch.setattr(state, "Snapshot", ahead)
    with pytest.raises(AssertionError):
        test_each_command_is_in_its_stream_once_and_in_order(1)


def test_it_sees_a_handler_whose_failure_keeps_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = session.Session.leave

    def kept(self: session.Session, block: Any, *, keep: bool) -> None:
        real(self, block, keep=True)

    monkeypatch.setattr(session.Session, "leave", kept)
    with pytest.raises(AssertionError):
        test_each_command_is_in_its_stream_once_and_in_order(1)
