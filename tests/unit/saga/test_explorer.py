"""The explorer: nothing is found in sound sagas, each broken protocol is found."""

import re
from dataclasses import replace
from typing import Any

import pytest

from eventbus.errors import WiringError
from eventbus.saga import Saga, cancels_on, starts_on, step
from eventbus.saga.definition import definition_of
from eventbus.testing.explorer import Report, World, explore, invariant, replay
from eventbus.testing.saga_examples import _value
from tests.unit.saga import shop
from tests.unit.saga.mutants import MUTANTS, Mutant
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    ChargeCard,
    CreateShipment,
    Independent,
    Mixed,
    OrderCancelled,
    OrderPlaced,
    OrderState,
    Parallel,
    PaymentSeen,
    PlaceOrder,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    SendMail,
    ShipmentCreated,
    StockReserved,
)

START = OrderPlaced(order_id="A-1")


class FourInARow(Saga[OrderState], name="four", step_timeout=MINUTE, deadline=30 * MINUTE):
    """Four in a row, the third is the pivot."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)

    @reserve.undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    @step
    def charge(self, s: OrderState) -> ChargeCard:
        return ChargeCard(order_id=s.order_id)

    @charge.undo
    def refund(self, s: OrderState, reply: CardCharged | None) -> RefundCard:
        return RefundCard(order_id=s.order_id)

    @step(pivot=True, on_unknown="resolve")
    def ship(self, s: OrderState) -> CreateShipment:
        return CreateShipment(order_id=s.order_id)

    @step
    def mail(self, s: OrderState) -> SendMail:
        return SendMail(order_id=s.order_id)

    @cancels_on(OrderCancelled)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> str:
        return "customer cancelled"


@pytest.mark.parametrize("saga", [PlaceOrder, Parallel, FourInARow])
def test_nothing_is_found_in_the_shapes_of_the_design(saga: type[Any]) -> None:
    report = explore(saga, start=START, duplicates=1, timeouts=1, rejections=1, cancels=1)
    report.assert_holds()
    assert report.complete
    assert report.states > 5_000
    assert {"completed", "compensated", "resolving"} <= report.statuses


def test_nothing_is_found_where_messages_are_lost() -> None:
    report = explore(PlaceOrder, start=START, duplicates=0, timeouts=2, losses=1, cancels=0)
    report.assert_holds()


def test_nothing_is_found_in_local_steps_calls_and_waits() -> None:
    report = explore(Mixed, start=START, call_crashes=1, verbs=["compensate", "retry"])
    report.assert_holds()
    assert {"completed", "compensated", "compensating"} <= report.statuses


def test_nothing_is_found_where_an_operator_pauses() -> None:
    verbs = ["pause", "resume", "cancel"]
    report = explore(PlaceOrder, start=START, duplicates=0, cancels=0, verbs=verbs)
    report.assert_holds()
    assert {"completed", "compensated"} <= report.statuses


@pytest.mark.parametrize("saga", [PlaceOrder, Independent])
def test_nothing_is_found_where_undos_are_refused_at_first(saga: type[Any]) -> None:
    report = explore(saga, start=START, duplicates=0, undo_rejections=2, verbs=["retry"])
    report.assert_holds()
    assert {"stuck", "compensated"} <= report.statuses


def test_nothing_is_found_in_undos_that_wait_for_nobody() -> None:
    explore(Independent, start=START, verbs=["cancel"]).assert_holds()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_protocol_is_found(mutant: Mutant) -> None:
    definition = definition_of(getattr(shop, mutant.saga))
    if not mutant.deadline:
        definition = replace(definition, deadline=None)
    explore(definition, start=START, **mutant.budgets).assert_holds()
    with mutant.applied():
        report = explore(definition, start=START, fence=mutant.fence, **mutant.budgets)
        assert report.violation is not None, "it was not found"
        assert re.fullmatch(mutant.breaks, report.violation.invariant)
        assert len(report.violation.moves) <= mutant.most_moves, report.violation.moves
        with pytest.raises(AssertionError, match=re.escape(report.violation.invariant)):
            replay(definition, start=START, fence=mutant.fence, moves=report.violation.moves)


class Leaking(Saga[OrderState], name="leaking", step_timeout=MINUTE):
    """Its author forgot the undo of the first step."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)

    @step(no_undo="the last one")
    def charge(self, s: OrderState) -> ChargeCard:
        return ChargeCard(order_id=s.order_id)


def found() -> Report:
    return explore(Leaking, start=START, duplicates=0, timeouts=0, cancels=0)


def test_the_shortest_way_is_told_as_moves_and_as_a_test() -> None:
    report = found()
    assert report.violation is not None
    assert report.violation.moves == (
        "OrderPlaced starts it",
        "does reserve",
        "answer of reserve: succeeded",
        "does charge is rejected",
        "answer of charge: rejected",
    )
    with pytest.raises(AssertionError, match="5 answer of charge: rejected") as caught:
        report.assert_holds()
    assert report.violation.case in str(caught.value)


def test_the_printed_test_fails_as_the_explorer_said() -> None:
    report = found()
    assert report.violation is not None
    names: dict[str, Any] = {"replay": replay, "Leaking": Leaking, "OrderPlaced": OrderPlaced}
    exec(report.violation.case, names)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    with pytest.raises(AssertionError, match="of a compensated saga no effect stands"):
        test()


def test_a_way_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AssertionError, match="there is no move 'fly', but: does reserve"):
        replay(PlaceOrder, start=START, moves=["OrderPlaced starts it", "fly"])
    with pytest.raises(AssertionError, match="no moves"):
        replay(PlaceOrder, start=START, moves=[])


def test_a_world_shows_the_saga_and_its_participants() -> None:
    world = replay(
        PlaceOrder,
        start=START,
        verbs=["compensate"],
        moves=["OrderPlaced starts it", "does reserve", "verb compensate", "undoes reserve"],
    )
    assert (world.status, world.intent, world.state.order_id) == ("compensating", None, "A-1")
    assert (world.applied("reserve"), world.undone("reserve")) == (1, 1)
    assert world.timers == {"undo:0"}
    assert [row.phase for row in world.steps] == ["forward", "undo"]
    assert not world.quiet


@invariant
def the_card_is_never_charged(world: World) -> bool:
    return world.applied("charge") == 0


@invariant(when="quiet")
def nothing_is_reserved_in_peace(world: World) -> bool:
    return world.applied("reserve") == world.undone("reserve")


def test_authors_add_what_must_hold() -> None:
    report = explore(PlaceOrder, start=START, invariants=[the_card_is_never_charged])
    assert report.violation is not None
    assert report.violation.invariant == "the card is never charged"
    assert report.violation.moves[-1] == "does charge"
    quiet = explore(PlaceOrder, start=START, invariants=[nothing_is_reserved_in_peace])
    assert quiet.violation is not None
    assert quiet.violation.moves[-1] == "answer of ship: succeeded"


def test_a_search_that_was_cut_off_does_not_pass() -> None:
    report = explore(PlaceOrder, start=START, max_states=100)
    assert not report.complete
    with pytest.raises(AssertionError, match="cut off after 100 states"):
        report.assert_holds()


def test_events_and_examples_take_the_place_of_made_ones() -> None:
    seen: set[str] = set()

    @invariant
    def look(world: World) -> bool:
        seen.update(world.state.seen)
        return True

    explore(
        Mixed,
        start=START,
        events=[PaymentSeen(payment_id="P-7")],
        examples=[ShipmentCreated(shipment_id="S")],
        invariants=[look],
    ).assert_holds()
    assert seen == {"P-7", "rested"}


class Awkward(Saga[OrderState], name="awkward", step_timeout=MINUTE):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step(no_undo="x")
    def guess(self, s: OrderState) -> shop.Guess:
        return shop.Guess(order_id=s.order_id)


def test_an_example_that_cannot_be_made_is_asked_for() -> None:
    with pytest.raises(WiringError, match=r"EB1231 no example of Guessed") as caught:
        explore(Awkward, start=START)
    assert caught.value.next == "give one: examples=[Guessed(…)]"
    given = shop.Guessed(
        number=43,
        also=1,
        kind="b",
        maybe=1,
        many=[1],
        pair=(1, "x"),
        names={},
        nested=shop.Nested(colour=shop.Colour.RED),
    )
    explore(Awkward, start=START, examples=[given]).assert_holds()


def test_an_example_has_a_value_for_every_type_of_field() -> None:
    fields = shop.Guessed.model_fields.items()
    made = {name: _value(field.annotation) for name, field in fields if name != "number"}
    guessed = shop.Guessed.model_validate({**made, "number": 43})
    assert (guessed.kind, guessed.maybe, guessed.many) == ("a", None, [])
    assert (guessed.pair, guessed.names) == ((1, "x"), {})
    assert guessed.nested.colour is shop.Colour.RED
