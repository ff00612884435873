"""A process on a bus: the same core under the other front end; what the linter refuses."""

import pytest

from eventbus import EventBus
from eventbus.errors import WiringError
from eventbus.saga import (
    Actions,
    Complete,
    Correlate,
    Process,
    Saga,
    State,
    Timer,
    initial,
    on,
    starts_on,
    step,
)
from tests.integration.sagas.rig import Rig
from tests.integration.sagas.shop import Told
from tests.unit.saga.shop import (
    MINUTE,
    OrderCancelled,
    OrderPlaced,
    OrderProcess,
    OrderState,
    PaymentSeen,
    ReserveStock,
)

SAGA = "order-process"


class Reminders(Process[OrderState], name="reminders"):
    """A timer of the author's, and an event that is found by what the process said."""

    waiting, reminded = State(), State()

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @on(OrderPlaced, when=initial, to=waiting)
    def placed(self, s: OrderState, event: OrderPlaced) -> Actions:
        yield Correlate("payment_id", f"P-{s.order_id}")
        yield Timer("remind", MINUTE)

    @on("remind", when=waiting, to=reminded)
    def remind(self, s: OrderState) -> Actions:
        s.seen.append("reminded")
        yield from ()

    @on(PaymentSeen, when=(waiting, reminded), by="payment_id")
    def paid(self, s: OrderState, event: PaymentSeen) -> Actions:
        yield Complete()


@pytest.fixture
def sagas() -> list[type]:
    return [OrderProcess, Reminders]


async def test_a_process_whose_steps_succeed_is_completed(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"))
    assert await rig.status("A-1", SAGA) == "completed"
    assert await rig.effects("applied", "A-1") == ["reserve", "charge", "ship"]


async def test_a_rejection_of_a_process_undoes_what_was_done(rig: Rig, participants: Told) -> None:
    participants.declined.add("A-2")
    await rig.publish(OrderPlaced(order_id="A-2"))
    assert await rig.status("A-2", SAGA) == "compensated"
    assert await rig.effects("undone", "A-2") == ["reserve"]


async def test_a_process_asks_about_its_pivot_and_goes_on(rig: Rig, participants: Told) -> None:
    participants.not_shipped.add("A-3")
    await rig.publish(OrderPlaced(order_id="A-3"))
    await rig.pass_time(601)
    assert await rig.status("A-3", SAGA) == "resolving"
    await rig.publish(OrderCancelled(order_id="A-3"))
    participants.not_shipped.clear()
    await rig.bus.dead_letters.change("redrive", actor="tests", group="shipping")
    await rig.bus.until_idle()
    applied = await rig.effects("applied", "A-3")
    undone = await rig.effects("undone", "A-3")
    assert (await rig.status("A-3", SAGA), applied, undone) in [
        ("completed", ["reserve", "charge", "ship"], []),
        ("compensated", ["reserve", "charge"], ["charge", "reserve"]),
    ]


async def test_a_timer_and_a_key_that_the_process_named_find_it(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-4"))
    await rig.pass_time(61)
    shown = (await rig.show("A-4", "reminders")).saga
    assert shown.state_name == "reminded"
    assert b'"seen":["reminded"]' in shown.data
    await rig.publish(PaymentSeen(payment_id="P-A-4"))
    assert await rig.status("A-4", "reminders") == "completed"


async def test_an_event_before_the_key_was_named_is_not_lost(rig: Rig) -> None:
    await rig.publish(PaymentSeen(payment_id="P-A-5"))
    await rig.publish(OrderPlaced(order_id="A-5"))
    assert await rig.status("A-5", "reminders") == "completed"


class Careless(Saga[OrderState], name="careless"):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)


def test_a_bus_refuses_a_saga_with_errors() -> None:
    with pytest.raises(WiringError, match="EB1232 saga 'careless' has 2 errors") as caught:
        EventBus("memory://", storage="sqlite://", handlers=[Careless])
    assert "SAGA001" in caught.value.why
    assert "SAGA005" in caught.value.why
