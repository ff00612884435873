"""Which open sagas a build can go on with."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus.saga import (
    Actions,
    Complete,
    Do,
    Process,
    Saga,
    State,
    initial,
    migrates,
    on,
    starts_on,
    step,
)
from eventbus.saga import undo as undoing
from eventbus.saga.definition import definition_of
from eventbus.saga.family import families
from eventbus.saga.stranding import Standing, left_alone, stranded
from eventbus.storage.sagas import InFlight
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    ChargeCard,
    CreateShipment,
    OrderPlaced,
    OrderProcess,
    PlaceOrder,
    ReleaseStock,
    ReserveStock,
    ShipmentCreated,
    StockReserved,
)


def standing(saga: type[Any], **at: Any) -> Standing:
    """Sagas of the version that the class is."""
    definition = definition_of(saga)
    one = Standing(
        saga=definition.saga,
        version=definition.version,
        digest=definition.digest,
        graph=definition.graph,
        state=None,
        step=None,
    )
    return replace(one, **at)


def why(one: Standing, *classes: type[Any]) -> str | None:
    return stranded(one, families(classes).get(one.saga))


class Narrow(BaseModel):
    order: str


class Renamed(Saga[Narrow], name="place-order", version=2, step_timeout=MINUTE):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> Narrow:
        return Narrow(order=event.order_id)

    @step(renamed_from="reserve")
    def keep(self, s: Narrow) -> ReserveStock:
        return ReserveStock(order_id=s.order)

    @keep.undo
    def release(self, s: Narrow, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order)

    @step(pivot=True, on_unknown="resolve")
    def ship(self, s: Narrow) -> CreateShipment:
        return CreateShipment(order_id=s.order)

    @staticmethod
    @migrates(from_version=1)
    def one_to_two(state: dict[str, object]) -> dict[str, object]:
        return {"order": state["order_id"]}


@pytest.mark.parametrize("at", ["reserve", "charge", "ship", None])
def test_the_same_build_goes_on_wherever_they_stand(at: str | None) -> None:
    assert why(standing(PlaceOrder, step=at), PlaceOrder) is None


def test_what_is_gone_or_changed_is_told() -> None:
    one = standing(PlaceOrder, step="reserve")
    assert why(one) == "the app has no such saga"
    assert why(replace(one, digest=b"x"), PlaceOrder) == (
        "the class was changed without a new version"
    )
    assert why(replace(one, version=7), PlaceOrder) == (
        "no class has this version, and no @migrates leads from it"
    )


def test_a_step_that_was_begun_must_still_have_a_name() -> None:
    assert why(standing(PlaceOrder, step="reserve"), Renamed) is None
    gone = "step 'charge' is gone without renamed_from= or @migrates(steps=…)"
    assert why(standing(PlaceOrder, step="charge"), Renamed) == gone
    assert why(standing(PlaceOrder, step="ship"), Renamed) == gone  # its undo may be needed
    assert why(standing(PlaceOrder), Renamed) == gone
    assert why(standing(PlaceOrder, step="ship", graph=None), Renamed) is None  # nobody can tell


class Shorter(Process[Narrow], name="order-process", version=2, step_timeout=MINUTE):
    """State reserving has another name, shipping is gone, and so is an undo."""

    holding, charging = State(), State()

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> Narrow:
        return Narrow(order=event.order_id)

    @on(OrderPlaced, when=initial, to=holding)
    def placed(self, s: Narrow, event: OrderPlaced) -> Actions:
        yield Do("reserve", ReserveStock(order_id=s.order), undo=self.release)

    @on(StockReserved, when=holding, to=charging)
    def reserved(self, s: Narrow, reply: StockReserved) -> Actions:
        yield Do("charge", ChargeCard(order_id=s.order), no_undo="it is not taken back any more")

    @on(CardCharged, when=charging)
    def charged(self, s: Narrow, reply: CardCharged) -> Actions:
        yield Do("ship", CreateShipment(order_id=s.order), no_undo="too late")

    @on(ShipmentCreated, when=charging)
    def shipped(self, s: Narrow, reply: ShipmentCreated) -> Actions:
        yield Complete()

    @undoing
    def release(self, s: Narrow, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order)

    @staticmethod
    @migrates(from_version=1, steps={"reserving": "holding"})
    def one_to_two(state: dict[str, object]) -> dict[str, object]:
        return {"order": state["order_id"]}


def test_a_process_needs_its_states_what_they_take_and_its_undos() -> None:
    here = standing(OrderProcess, state="reserving", step="reserve")
    assert why(here, OrderProcess) is None
    cancel = "state 'holding' does not take shop.order-cancelled any more"
    assert why(here, Shorter) == f"{cancel}; undo 'refund' is gone"
    assert why(replace(here, state="shipping"), Shorter) == (
        "state 'shipping' is gone without @migrates(steps=…)"
    )
    assert why(replace(here, graph=None), Shorter) is None
    assert why(replace(here, state="initial", graph=None), Shorter) is None


def in_flight(cls: type[Any], step: str | None, count: int, **other: Any) -> InFlight:
    row = definition_of(cls).row
    one = InFlight(
        saga=row.saga,
        definition=row.version,
        digest=row.digest,
        graph=row.graph,
        state=None,
        step=step,
        status="running",
        count=count,
    )
    return replace(one, **other)


def test_a_worker_is_told_once_of_each_reason_and_of_its_own_sagas_only() -> None:
    known = families([PlaceOrder])
    open_ones = [
        in_flight(PlaceOrder, "reserve", 7),
        in_flight(PlaceOrder, "reserve", 2_000, definition=9),
        in_flight(PlaceOrder, "ship", 3, definition=9),
        in_flight(PlaceOrder, "ship", 1, saga="somebody-elses"),
    ]
    assert list(left_alone(open_ones, known)) == [
        "2,003 open of place-order v9 wait for a worker that knows them:"
        " no class has this version, and no @migrates leads from it"
    ]
