"""Each finding of the linter, in a class that has it and in none that has not."""

import random
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import choice
from time import monotonic
from types import FunctionType, new_class
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from eventbus import Command, Event, Undone
from eventbus.errors import WiringError
from eventbus.saga import (
    CallContext,
    Saga,
    call_step,
    cancels_on,
    migrates,
    starts_on,
    step,
    wait_step,
)
from eventbus.saga.definition import definition_of
from eventbus.saga.lint import lint, refuse
from eventbus.saga.purity import accepts_none, impurities
from tests.unit.saga.shop import (
    MINUTE,
    CreateShipment,
    Independent,
    Mixed,
    OrderPlaced,
    OrderState,
    Parallel,
    PaymentSeen,
    PlaceOrder,
    ReserveStock,
    StockReserved,
)


@starts_on(OrderPlaced)
def begin(self: object, event: OrderPlaced) -> OrderState:
    return OrderState(order_id=event.order_id)


def reserve(self: object, s: OrderState) -> ReserveStock:
    return ReserveStock(order_id=s.order_id)


def ship(self: object, s: OrderState) -> CreateShipment:
    return CreateShipment(order_id=s.order_id)


class Ret(Command[Undone], type="stock.ret", key="reservation_id"):
    reservation_id: str


def other_key(self: object, s: OrderState, reply: StockReserved | None) -> Ret:
    return Ret(reservation_id="R")


def not_none(self: object, s: OrderState, reply: StockReserved) -> ReserveStock:
    return ReserveStock(order_id=s.order_id)


def nothing(self: object, s: OrderState, event: Any) -> None: ...


def cancel(self: object, s: OrderState, event: Any) -> str:
    return ""


def at_random(self: object, s: OrderState) -> ReserveStock:
    return ReserveStock(order_id=random.choice("ab"))


class NoKey(Event, type="shop.no-key"):
    order_id: str


def rested(self: object, s: OrderState) -> None: ...


def fresh(mark: Any, function: Any) -> Any:
    """A decorator marks the function itself: each class has its own."""
    copy = FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__annotations__ = function.__annotations__
    return mark(copy)


@starts_on(NoKey)
def begin_without_a_key(self: object, event: NoKey) -> OrderState:
    return OrderState(order_id=event.order_id)


class Storing(BaseModel):
    order_id: str
    last: list[StockReserved | None] = []
    inner: "Storing | None" = None


def undone(declared: Any, undo: Any) -> Any:
    declared.undo(undo)
    return declared


def saga(state: Any = OrderState, *, version: int = 1, **body: Any) -> Any:
    options = {"name": "linted", "version": version}
    body = {"begin": begin, **body}
    return definition_of(
        new_class("Linted", (Saga[state],), options, lambda place: place.update(body))
    )


GOOD: dict[str, Any] = {"no_undo": "x", "timeout": MINUTE}
PIVOT: dict[str, Any] = {"pivot": True, "timeout": MINUTE, "on_unknown": "resolve"}


async def call(self: object, s: OrderState, call: CallContext) -> StockReserved:
    return StockReserved(reservation_id="R")


async def not_none_call(
    self: object, s: OrderState, reply: StockReserved, call: CallContext
) -> None: ...


def wide(count: int) -> dict[str, Any]:
    return {f"s{n}": step(parallel="p", **GOOD)(reserve) for n in range(count)}


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        ({"one": step(timeout=MINUTE)(reserve)}, ["SAGA001"]),
        ({"one": call_step(timeout=MINUTE)(call)}, ["SAGA001"]),
        ({"one": step(**PIVOT)(ship), "two": step(**PIVOT)(ship)}, ["SAGA002"]),
        ({"one": undone(step(**PIVOT)(ship), other_key)}, ["SAGA003", "SAGA013"]),
        (
            {"one": step(**PIVOT)(ship), "two": undone(step(timeout=MINUTE)(ship), other_key)},
            ["SAGA003", "SAGA013"],
        ),
        ({"one": undone(step(timeout=MINUTE)(reserve), not_none)}, ["SAGA004"]),
        ({"one": undone(call_step(timeout=MINUTE)(call), not_none_call)}, ["SAGA004"]),
        ({"one": step(no_undo="x")(reserve)}, ["SAGA005"]),
        ({"begin": begin_without_a_key}, ["SAGA007"]),
        ({"one": fresh(cancels_on(NoKey), cancel)}, ["SAGA007"]),
        ({"one": fresh(cancels_on(NoKey, by="order_id"), cancel)}, []),
        ({"one": fresh(cancels_on(NoKey, by="what"), cancel)}, ["SAGA007", "SAGA007"]),
        ({"one": fresh(cancels_on(PaymentSeen, by="payment_id"), cancel)}, []),
        ({"one": step(**GOOD)(at_random)}, ["SAGA009"]),
        ({"one": fresh(wait_step(PaymentSeen), nothing)}, ["SAGA011"]),
        ({"one": fresh(wait_step(PaymentSeen, timeout=MINUTE), nothing)}, []),
        ({"one": fresh(wait_step(delay=MINUTE), rested)}, []),
        ({"one": undone(step(timeout=MINUTE)(reserve), other_key)}, ["SAGA013"]),
        ({"one": step(pivot=True, timeout=MINUTE)(ship)}, ["SAGA016"]),
        ({"one": step(pivot=True, timeout=MINUTE, on_unknown="compensate")(ship)}, ["SAGA016"]),
        (wide(32), []),
        (wide(33), ["SAGA019"]),
        ({"one": step(parallel="p", **PIVOT)(ship), "two": step(**GOOD)(ship)}, ["SAGA019"]),
    ],
)
def test_a_finding_is_found_where_it_is(body: dict[str, Any], codes: list[str]) -> None:
    assert [each.code for each in lint(saga(**body))] == codes


def test_a_message_in_the_state_is_found() -> None:
    def begin(self: object, event: OrderPlaced) -> Storing:
        return Storing(order_id=event.order_id)

    (finding,) = lint(saga(Storing, begin=starts_on(OrderPlaced)(begin)))
    assert finding.code == "SAGA008"
    assert finding.what == "Storing.last stores the message class StockReserved"


@pytest.mark.parametrize("cls", [PlaceOrder, Parallel, Mixed, Independent])
def test_sound_sagas_have_no_findings(cls: type[Any]) -> None:
    assert lint(definition_of(cls)) == []
    refuse(definition_of(cls))


def test_errors_refuse_and_warnings_pass() -> None:
    refuse(saga(one=fresh(wait_step(PaymentSeen), nothing)))
    with pytest.raises(WiringError, match="EB1232 saga 'linted' has 2 errors") as caught:
        refuse(saga(one=step(reserve)))
    assert caught.value.why.startswith("SAGA001 one has neither an undo nor a reason")
    assert "SAGA005 one has no time limit" in caught.value.why
    assert "say timeout= on the step" in caught.value.next


def test_a_changed_definition_needs_a_new_version() -> None:
    before = saga(one=step(**GOOD)(reserve))
    assert lint(before, known=[before.row, definition_of(PlaceOrder).row]) == []
    changed = saga(two=step(**GOOD)(reserve))
    assert [each.code for each in lint(changed, known=[before.row])] == ["SAGA017"]


def test_a_step_that_is_gone_is_found_unless_it_was_renamed() -> None:
    def migrated(steps: dict[str, str]) -> Any:
        def function(state: dict[str, Any]) -> dict[str, Any]:
            return state

        return staticmethod(migrates(from_version=1, steps=steps)(function))

    before = saga(one=step(**GOOD)(reserve))
    two = step(**GOOD)(reserve)
    gone = saga(version=2, two=two, m=migrated({}))
    assert [each.code for each in lint(gone, known=[before.row])] == ["SAGA010"]
    moved = saga(version=2, two=two, m=migrated({"one": "two"}))
    assert lint(moved, known=[before.row]) == []
    renamed = saga(version=2, two=step(renamed_from="one", **GOOD)(reserve), m=migrated({}))
    assert lint(renamed, known=[before.row]) == []
    unread = saga(version=2, two=two)
    assert lint(unread, known=[before.row]) == []  # its sagas stay with the old class
    later = saga(version=3, two=two, m=migrated({"old": "two"}))
    second = replace(before, version=2)
    assert lint(later, known=[second.row]) == []


def test_a_command_that_nobody_handles_is_a_warning() -> None:
    definition = definition_of(PlaceOrder)
    handled = {"stock.reserve-stock", "stock.release-stock", "payments.charge-card"}
    findings = lint(definition, handled=handled)
    assert {each.code for each in findings} == {"SAGA020"}
    assert {each.level for each in findings} == {"warn"}
    assert [each.what for each in findings] == [
        "no group known here handles payments.refund-card",
        "no group known here handles shipping.create-shipment",
    ]


def clock(self: object, s: OrderState) -> object:
    return [datetime.now(UTC) for _ in "x"]


def from_modules(self: object, s: OrderState) -> object:
    return monotonic(), time.time(), choice("ab"), uuid4(), uuid.uuid1()


def files(self: object, s: OrderState) -> object:
    return open(s.order_id)


def imports(self: object, s: OrderState) -> object:
    import datetime as of

    return of.timedelta(1)


def harmless(self: object, s: Any) -> object:
    return s.open, s.now, datetime.min, UUID(int=1), uuid.NAMESPACE_DNS, timedelta(1), lint


async def waiting(self: object, s: OrderState) -> None: ...


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (clock, ["datetime.now"]),
        (from_modules, ["time.monotonic", "time", "random.choice", "uuid.uuid4", "uuid.uuid1"]),
        (files, ["open"]),
        (imports, []),
        (harmless, []),
        (waiting, ["await"]),
        (len, []),
    ],
)
def test_what_is_not_pure_is_named(function: Any, found: list[str]) -> None:
    assert impurities(function) == found


def annotated(self: object, s: OrderState, reply: "Nowhere | None") -> None: ...  # type: ignore[name-defined]  # noqa: F821


def bare(self: object, s, reply): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, RUF100


def short(self: object, s: OrderState) -> None: ...


@pytest.mark.parametrize(
    ("function", "accepts"),
    [(other_key, True), (not_none, False), (annotated, True), (bare, True), (short, False)],
)
def test_an_undo_is_read_for_what_it_takes(function: Any, accepts: bool) -> None:
    assert accepts_none(function, 1) is accepts


def test_a_message_deeper_in_the_state_is_found_once() -> None:
    class Inner(BaseModel):
        last: StockReserved | None = None
        again: "list[Storing]" = []

    class Outer(BaseModel):
        order_id: str
        inner: Inner = Inner()
        other: Inner = Inner()

    def begin(self: object, event: OrderPlaced) -> Outer:
        return Outer(order_id=event.order_id)

    findings = lint(saga(Outer, begin=starts_on(OrderPlaced)(begin)))
    assert [each.what for each in findings] == [
        "Outer.inner.last stores the message class StockReserved",
        "Outer.inner.again.last stores the message class StockReserved",
    ]
