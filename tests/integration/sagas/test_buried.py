"""A dead letter is told to its saga: buried by an operator or unreadable, it makes it stuck."""

from datetime import timedelta

import pytest

from eventbus import Event
from eventbus.message import Message, new_id
from eventbus.saga import Saga, starts_on, wait_step
from eventbus.storage.parking import Failure, Parked
from tests.integration.sagas.rig import Rig
from tests.integration.sagas.test_versions import Cancelled, Make, NewTrip, OldTrip, begun
from tests.integration.sagas.test_versions import make as make  # noqa: PLC0414 - a fixture
from tests.unit.saga.shop import OrderPlaced, OrderState

ME = "tests@here"
EXPIRED = Failure(reason="failed", code="EB7063", type="T", text="too early", fingerprint="f")
broken: set[str] = set()


class Poked(Event, type="shop.poked-again", key="order_id"):
    order_id: str


class Paid(Event, type="shop.paid-by-number", key="number"):
    number: int
    order_id: str


class Patient(Saga[OrderState], name="patient", step_timeout=timedelta(minutes=1)):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @wait_step(Poked, timeout=timedelta(days=9))
    def poked(self, s: OrderState, event: Poked) -> None:
        if s.order_id in broken:
            raise ZeroDivisionError

    @wait_step(Paid, by="order_id", timeout=timedelta(days=9))
    def paid(self, s: OrderState, event: Paid) -> None:
        if s.order_id in broken:
            raise ZeroDivisionError


@pytest.fixture
def sagas() -> list[type]:
    return [Patient]


@pytest.fixture(autouse=True)
def mended() -> None:
    broken.clear()


async def stuck(rig: Rig, key: str = "A-1", saga: str = "patient") -> str | None:
    """What the saga says of the message that it lacks."""
    found = (await rig.show(key, saga)).stuck
    if found is None:
        return None
    assert found.reason == "input-failed"
    return found.what


async def test_what_an_operator_buries_is_told_to_its_saga_and_retry_redrives_it(rig: Rig) -> None:
    broken.add("A-1")
    await rig.publish(OrderPlaced(order_id="A-1"), Poked(order_id="A-1"))
    assert await stuck(rig) is None
    (parked,) = await rig.bus.parked.list(group="patient")
    assert await rig.bus.parked.change("bury", actor=ME, ids=[parked["id"]]) == 1
    await rig.bus.until_idle()
    assert parked["id"] in str(await stuck(rig))
    (letter,) = await rig.bus.dead_letters.list(group="patient")
    assert (letter["id"], letter["reason"], letter["state"]) == (parked["id"], "buried", "dead")
    assert "ZeroDivisionError" in letter["error"]  # why it was parked
    broken.clear()
    await rig.bus.sagas.retry(await rig.id_of("A-1", "patient"), actor=ME)
    await rig.bus.until_idle()
    assert await stuck(rig) is None
    assert await rig.bus.dead_letters.list(group="patient") == []
    await rig.publish(Paid(number=7, order_id="A-1"))
    assert await rig.status("A-1", "patient") == "completed"


async def test_a_saga_that_is_found_by_a_field_of_the_message_is_told_too(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"), Poked(order_id="A-1"))
    broken.add("A-1")
    await rig.publish(Paid(number=7, order_id="A-1"))
    await rig.bus.parked.change("bury", actor=ME, group="patient")
    await rig.bus.until_idle()
    assert await stuck(rig) is not None


async def test_what_was_not_tried_is_buried_too(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"))
    await rig.bus.parked.change("pause", actor=ME, group="patient")
    await wait_in_line(rig, Poked(order_id="A-1"))
    assert await rig.bus.parked.change("bury", actor=ME, group="patient") == 1
    await rig.bus.parked.change("resume", actor=ME, group="patient")
    await rig.bus.until_idle()
    (letter,) = await rig.bus.dead_letters.list(group="patient")
    assert (letter["reason"], letter["code"]) == ("buried", "EB7070")
    assert await stuck(rig) is not None


def a_message(cls: type[Event], payload: bytes, key: str = "A-1") -> Message:
    wire = cls.__wire__
    assert wire is not None
    return Message(
        id=new_id(), type=wire.type, source="/t", topic=wire.topic, key=key, payload=payload
    )


async def wait_in_line(
    rig: Rig, event: Event, failure: Failure | None = None, key: str = "A-1"
) -> None:
    """As behind a key that was held; with a failure as a dead letter."""
    message = a_message(type(event), event.model_dump_json().encode(), key)
    one = Parked(message=message, key=key, attempts=0, delay=None, origin="test", failure=failure)
    async with rig.bus.transaction() as tx:
        await tx.storage.parking.park([one], group="patient")


async def come_broken(rig: Rig, cls: type[Event]) -> None:
    """A body that no codec reads."""
    async with rig.bus.transaction() as tx:
        await tx.storage.outbox.add([a_message(cls, b"{")])
    await rig.bus.until_idle()


async def test_an_event_that_cannot_be_read_is_told_to_the_saga_of_its_key(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"))
    await come_broken(rig, Poked)
    (letter,) = await rig.bus.dead_letters.list(group="patient")
    assert letter["reason"] == "quarantined"
    assert await stuck(rig) is not None


async def test_what_is_discarded_is_told_to_a_saga_that_began_after_it_was_given_up(
    rig: Rig,
) -> None:
    await wait_in_line(
        rig, Paid(number=7, order_id="A-1"), EXPIRED, key="7"
    )  # as what came too early
    await rig.publish(OrderPlaced(order_id="A-1"))
    assert await stuck(rig) is None
    assert await rig.bus.dead_letters.change("discard", actor=ME, group="patient") == 1
    await rig.bus.until_idle()
    assert await stuck(rig) is not None
    assert await rig.bus.parked.list() == []
    assert await rig.bus.dead_letters.list() == []
    assert await rig.bus.dead_letters.change("restore", actor=ME, group="patient") == 1


async def test_a_saga_that_knows_of_a_dead_letter_goes_on_when_it_is_discarded(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"))
    await come_broken(rig, Poked)
    assert await stuck(rig) is not None
    await rig.bus.sagas.retry(await rig.id_of("A-1", "patient"), actor=ME)
    await come_broken(rig, Poked)  # its like waits behind it
    for _ in range(2):
        await rig.bus.dead_letters.change("discard", actor=ME, group="patient")
        await rig.bus.sagas.retry(await rig.id_of("A-1", "patient"), actor=ME)
        await rig.bus.until_idle()
    assert await stuck(rig) is None
    await rig.publish(Poked(order_id="A-1"))
    await rig.publish(Paid(number=7, order_id="A-1"))
    assert await rig.status("A-1", "patient") == "completed"


async def test_a_worker_without_the_version_has_it_told_by_one_that_has_it(make: Make) -> None:
    old, new = make(OldTrip), make(NewTrip)
    await begun(old)
    async with new.bus:
        await come_broken(new, Cancelled)
        assert [one.name.partition(":")[0] for one in await new.bus.sagas.timers(due=True)] == [
            "buried",
            "handed-over",
        ]
        assert await new.status("A-1", "trip") == "running"
    async with old.bus:
        await old.bus.until_idle()
        assert await stuck(old, saga="trip") is not None
