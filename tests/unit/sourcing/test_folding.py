"""Folding: rows by key, keys gone, keys that failed; and the test kit on top of it."""

import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest

from eventbus import Event
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.folding import Folded, by_key, fold
from eventbus.sourcing.read_model import Key, Rows, key_text
from eventbus.testing import projected
from tests.unit.sourcing.declarations import Placed, Revenue, Revenues, Withdrawn, placed


def _fold(*events: Event, before: dict[Key, Any] | None = None) -> Folded:
    definition = Definition(Revenues)
    assert definition.rows is not None
    steps = [step for place, event in enumerate(events) for step in definition.steps(event, place)]
    return fold(definition.rows, before or {}, by_key(steps))


def row(folded: Folded, country: str) -> Any:
    return next(one for one in folded.rows if one["country"] == country)


def test_events_of_a_key_are_folded_into_one_row() -> None:
    folded = _fold(placed("UK", 100), placed("FR", 7), placed("UK", 20))
    assert list(folded.models) == [("UK",), ("FR",)]
    assert folded.rows == [
        {"country": "UK", "orders": 2, "cents": 120},
        {"country": "FR", "orders": 1, "cents": 7},
    ]
    assert not folded.gone
    assert not folded.stumbles


def test_a_row_that_stands_is_gone_on_with() -> None:
    before = {("UK",): Revenue(country="UK", orders=5, cents=1000)}
    assert row(_fold(placed("UK", 1), before=before), "UK")["orders"] == 6


def test_none_deletes_the_row_and_a_later_event_makes_a_new_one() -> None:
    before = {("UK",): Revenue(country="UK", orders=5, cents=1000)}
    gone = _fold(placed("UK", 1), Withdrawn(order_id="A", country="UK"), before=before)
    assert (gone.models, gone.gone) == ({}, [("UK",)])
    again = _fold(Withdrawn(order_id="A", country="UK"), placed("UK", 1), before=before)
    assert (row(again, "UK")["orders"], again.gone) == (1, [])
    never = _fold(placed("UK", 1), Withdrawn(order_id="A", country="UK"))
    assert (never.models, never.gone) == ({}, [])


def test_a_key_that_fails_keeps_what_came_before_and_leaves_the_others() -> None:
    folded = _fold(placed("UK", 1), placed("UK", -1), placed("FR", 2), placed("UK", 3))
    assert row(folded, "UK") == {"country": "UK", "orders": 1, "cents": 1}
    assert row(folded, "FR")["cents"] == 2
    assert folded.stumbles[("UK",)].step == 1
    assert isinstance(folded.stumbles[("UK",)].error, ValueError)


class Packed(Event, type="shop.packed", key="order_id"):
    order_id: str
    products: tuple[str, ...]


class Product(ReadModel, table="product", key="product"):
    product: str
    orders: int = 0


class Products(FoldingProjection[Product], name="products"):
    @projects(Packed, keys=lambda event: event.products)
    def packed(self, row: Product, event: Packed) -> Product:
        if row.product == "wine" and event.order_id == "minor":
            raise ValueError("no wine for minors")
        return row.model_copy(update={"orders": row.orders + 1})


def test_an_event_concerns_a_row_for_each_of_its_keys_once() -> None:
    projected(Products).given(
        Packed(order_id="A", products=("tea", "wine", "tea")),
        Packed(order_id="B", products=()),
        Packed(order_id="C", products=("tea",)),
    ).then(Product(product="tea", orders=2), Product(product="wine", orders=1))


def test_one_of_the_keys_of_an_event_fails_and_the_others_go_on() -> None:
    definition = Definition(Products)
    assert definition.rows is not None
    event = Packed(order_id="minor", products=("tea", "wine"))
    folded = fold(definition.rows, {}, by_key(list(definition.steps(event, 0))))
    assert set(folded.models) == {("tea",)}
    assert set(folded.stumbles) == {("wine",)}


def test_keys_that_are_one_text_are_refused() -> None:
    class Characters(FoldingProjection[Product], name="characters"):
        @projects(Packed, keys=lambda event: event.order_id)
        def packed(self, row: Product, event: Packed) -> Product:
            return row

    with pytest.raises(TypeError, match="keys= answered a str"):
        list(Definition(Characters).steps(Packed(order_id="A", products=()), 0))


def test_the_first_event_of_a_key_fails_and_nothing_is_written_for_it() -> None:
    folded = _fold(placed("UK", -1), placed("UK", 3))
    assert (folded.models, folded.gone) == ({}, [])
    assert folded.stumbles[("UK",)].step == 0


def test_the_event_after_which_a_row_does_not_fit_is_the_guilty_one() -> None:
    folded = _fold(placed("UK", 2**62), placed("UK", 2**62), placed("UK", 1))
    assert row(folded, "UK")["cents"] == 2**62
    assert folded.stumbles[("UK",)].step == 1
    assert "revenue.cents" in str(folded.stumbles[("UK",)].error)


def test_a_function_that_answers_something_else_or_moves_the_row_fails() -> None:
    class Wrong(FoldingProjection[Revenue], name="wrong"):
        @projects(Placed, key=lambda event: event.country)
        def placed(self, row: Revenue, event: Placed) -> Any:
            return "row" if event.cents else row.model_copy(update={"country": "FR"})

    projected(Wrong).given(placed("UK", 1)).then_raises(TypeError)
    projected(Wrong).given(placed("UK", 0)).then_raises(ValueError)


def test_an_event_may_change_two_rows() -> None:
    class Both(FoldingProjection[Revenue], name="both"):
        @projects(Placed, key=lambda event: event.country)
        @projects(Placed, key=lambda event: "all")
        def placed(self, row: Revenue, event: Placed) -> Revenue:
            return row.model_copy(update={"orders": row.orders + 1})

    given = projected(Both).given(placed("UK", 1), placed("FR", 1))
    assert {row.country: row.orders for row in given.rows} == {"UK": 1, "FR": 1, "all": 2}


class Colour(StrEnum):
    RED = "red"


class Everything(ReadModel, table="everything", key=("word", "day", "number")):
    word: str
    day: date
    number: int
    share: float = 0.0
    yes: bool = False
    price: Decimal = Decimal(0)
    id: UUID | None = None
    at: datetime | None = None
    raw: bytes = b""
    tags: tuple[str, ...] = ()
    colour: Colour = Colour.RED
    nested: tuple[dict[str, Any], ...] = ()


_KEY: dict[str, Any] = {"word": "a", "day": date(2026, 1, 2), "number": 3}


def test_every_type_of_a_column_goes_in_as_it_is_and_json_as_plain_values() -> None:
    row = Everything(
        **_KEY,
        id=UUID(int=5),
        at=datetime(2026, 1, 1, tzinfo=UTC),
        price=Decimal("1.50"),
        tags=("x",),
        nested=({"price": Decimal("2.5")},),
    )
    written = Rows(Everything).write(row)
    assert written["price"] == Decimal("1.50")
    assert written["tags"] == ["x"]
    assert written["colour"] == "red"
    assert written["nested"] == [{"price": "2.5"}]
    assert Rows(Everything).read(written).model_copy(update={"nested": row.nested}) == row


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", float("nan")),
        ("share", "1"),
        ("yes", "yes"),
        ("price", Decimal("NaN")),
        ("price", Decimal("1e2000")),
        ("price", 1.5),
        ("at", datetime(2026, 1, 1)),
        ("day", datetime(2026, 1, 1, tzinfo=UTC)),
        ("word", "a\0b"),
        ("word", "\ud800"),
        ("word", None),
        ("number", 2**63),
        ("nested", ({"text": "a\0b"},)),
    ],
)
def test_a_value_that_does_not_fit_names_its_column_and_never_itself(
    field: str, value: Any
) -> None:
    row = Everything(**_KEY).model_copy(update={field: value})
    with pytest.raises(ValueError, match=f"everything.{field}"):
        Rows(Everything).write(row)


class Plain(ReadModel, table="plain", key="word"):
    """No column of JSON: rows are looked at column by column."""

    word: str
    number: int = 0
    share: float = 0.0
    yes: bool = False
    price: Decimal | None = None
    id: UUID | None = None
    day: date | None = None
    at: datetime | None = None
    raw: bytes = b""


VALUES: list[Any] = [
    *("", "a\0b", "\ud800", "é", Colour.RED, None, True, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1),
    *(1.5, float("inf"), Decimal("1.5"), Decimal("NaN"), Decimal("1e2000"), UUID(int=1), b"a\0"),
    *(date(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), (), ...),
]


@pytest.mark.parametrize("field", Plain.model_fields)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_many_rows_at_once_are_taken_and_refused_as_each_for_itself(field: str, value: Any) -> None:
    rows, model = Rows(Plain), [Plain(word="a"), Plain(word="b", id=UUID(int=2)), Plain(word="c")]
    model[1] = model[1].model_copy(update={field: value})
    try:
        alone = [rows.write(one) for one in model]
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            rows.write_all(model)
        return
    together = rows.write_all(model)
    assert together == alone
    assert [type(one[field]) for one in together] == [type(one[field]) for one in alone]


@pytest.mark.parametrize(
    "key", [None, "a", ("a", 1), ("a", date(2026, 1, 1), "3"), ("a", None, 1), ("a\0", date.min, 1)]
)
def test_an_answer_that_is_no_key_fails(key: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Rows(Everything).key(key)


def test_keys_as_text_are_equal_exactly_when_the_keys_are() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert key_text((noon,)) == key_text((noon.astimezone(timezone(timedelta(hours=2))),))
    assert key_text((Decimal("1.50"),)) == key_text((Decimal("1.5"),))
    assert key_text(("a/b", "c")) != key_text(("a", "b/c"))
    assert key_text(("a%2Fb", "c")) != key_text(("a/b", "c"))
    assert key_text((Colour.RED,)) == key_text(("red",))


def test_given_events_then_rows() -> None:
    given = projected(Revenues).given(placed("UK", 100), placed("UK", 20))
    given.then(Revenue(country="UK", orders=2, cents=120))
    given.given(Withdrawn(order_id="A", country="UK")).then_nothing()


def test_the_kit_says_what_there_is_when_it_is_not_what_was_expected() -> None:
    given = projected(Revenues).given(placed("UK", 100))
    with pytest.raises(AssertionError, match="cents=100"):
        given.then(Revenue(country="UK", orders=1, cents=99))
    with pytest.raises(AssertionError, match="nothing failed"):
        given.then_raises(ValueError)


def test_the_kit_raises_what_a_projection_raised() -> None:
    given = projected(Revenues).given(placed("UK", -1))
    given.then_raises(ValueError)
    with pytest.raises(ValueError, match="less than nothing"):
        given.then_nothing()
    with pytest.raises(AssertionError, match="not KeyError"):
        given.then_raises(KeyError)
