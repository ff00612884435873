"""Counted: what becomes of parked messages, each time one runs; transactions that met others."""

from collections import Counter
from datetime import timedelta

import pytest

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.errors import StorageError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.sqlite import SqliteStorage
from eventbus.storage.parking import Failure, Parked
from tests.integration.figures import Figures

SOON = timedelta(seconds=10)
GONE = Group("gone", retry=RetryPolicy(in_place=0, parked=(SOON, SOON)))
OUTSIDE = Group("gone", retry=GONE.retry, transactional=False)


class Sold(Event, type="redriven.sold", key="sku"):
    sku: str
    number: int


class Shop:
    """A bus on a database whose time is moved, and a handler that fails as it is told."""

    def __init__(self, group: Group) -> None:
        self.failing: dict[int, list[Exception]] = {}
        self.now = 1_000_000.0
        self.figures = Figures()

        @subscribe(Sold, group=group)
        async def bill(event: Sold, ctx: Context) -> None:
            failures = self.failing.get(event.number)
            if failures:
                raise failures.pop(0)

        self.storage = SqliteStorage(now=lambda: self.now)
        self.bus = EventBus(
            MemoryTransport(MemoryBroker()),
            storage=self.storage,
            handlers=[bill],
            instrumentation=self.figures,
        )

    async def sell(self, *numbers: int) -> None:
        for number in numbers:
            await self.bus.publish(Sold(sku="a", number=number))
        await self.bus.until_idle()

    async def pass_time(self) -> None:
        self.now += 100
        await self.bus.until_idle()

    def redriven(self) -> Counter[str]:
        counted = self.figures.of("redriven_total")
        assert {dict(labels)["group"] for labels in counted} <= {"gone"}
        return Counter({dict(labels)["outcome"]: amount for labels, amount in counted.items()})


@pytest.mark.parametrize("group", [GONE, OUTSIDE], ids=["transactional", "outside"])
async def test_each_run_of_a_parked_message_is_counted_by_its_outcome(group: Group) -> None:
    shop = Shop(group)
    shop.failing[1] = [OSError("away")] * 3
    async with shop.bus:
        await shop.sell(1, 2, 3)
        assert shop.redriven() == {}
        await shop.pass_time()
        assert shop.redriven() == {"parked": 1}
        await shop.pass_time()
        assert shop.redriven() == {"parked": 1, "dead": 1}
        await shop.bus.dead_letters.change("redrive", actor="tests", group="gone")
        await shop.bus.until_idle()
        assert shop.redriven() == {"parked": 1, "dead": 1, "done": 3}


async def test_a_letter_that_an_operator_drops_is_none_that_is_done() -> None:
    shop = Shop(GONE)
    wish = Failure(reason="discarded", code="EB4102", type="T", text="no", fingerprint="f")
    dropped = Message(
        id="1", type="redriven.sold", source="/tests", topic="redriven", payload=b"{}", key="a"
    )
    async with shop.bus:
        async with shop.storage.transaction() as tx:
            parked = Parked(
                message=dropped, key="a", attempts=1, delay=SOON, origin="test", failure=wish
            )
            await tx.parking.park([parked], group="gone")
        await shop.sell(2)
        await shop.pass_time()
    assert shop.redriven() == {"discarded": 1, "done": 1}


def met_another() -> StorageError:
    return StorageError("EB5011", "deadlock", where="here", why="crossed", next="again")


async def test_a_transaction_that_runs_again_after_a_conflict_is_counted() -> None:
    shop = Shop(GONE)
    shop.failing[1] = [met_another(), OSError("away"), met_another()]
    away = StorageError("EB5001", "away", where="here", why="cut", next="wait")
    shop.failing[2] = [away]
    async with shop.bus:
        await shop.sell(1)
        assert shop.figures.of("storage_conflicts_total") == {(("operation", "batch"),): 1}
        await shop.pass_time()
        await shop.sell(2)
        assert await shop.bus.parked.list() == []
    assert shop.figures.of("storage_conflicts_total") == {
        (("operation", "batch"),): 1,
        (("operation", "redelivery"),): 1,
    }
