"""What a projection must be is said when it is declared."""

from decimal import Decimal
from typing import Any

import pytest

from eventbus import Event
from eventbus.errors import WiringError
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.sourcing.definition import Definition, definitions, is_projection, shard_of
from eventbus.sourcing.read_model import table_of
from tests.unit.sourcing.declarations import Placed, Revenue, Revenues


def _country(event: Placed) -> str:
    return event.country


def _declare(model: type[ReadModel] = Revenue, /, **keywords: Any) -> type:
    class Declared(FoldingProjection[model], **{"name": "declared"} | keywords):  # type: ignore[valid-type,call-arg]
        @projects(Placed, key=_country)
        def placed(self, row: ReadModel, event: Placed) -> ReadModel:
            return row

    return Declared


def test_a_read_model_says_its_table_its_key_and_its_columns() -> None:
    table = table_of(Revenue)
    assert (table.name, table.key) == ("revenue", ("country",))
    assert table.columns == {"country": str, "orders": int, "cents": int}


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("Revenue", "country"),
        ("shop.revenue", "country"),
        ('x"y', "country"),
        ("t" * 51, "country"),
        ("revenue__v8", "country"),
        ("revenue", "contry"),
        ("revenue", ()),
        ("revenue", ("country", "country")),
        ("revenue", "tags"),
        ("revenue", "share"),
        ("revenue", "perhaps"),
    ],
)
def test_a_table_or_key_that_cannot_be_is_refused(table: str, key: Any) -> None:
    class Wrong(ReadModel, table=table, key=key):
        country: str = ""
        tags: tuple[str, ...] = ()
        share: float = 0.0
        perhaps: str | None = None

    with pytest.raises(WiringError) as caught:
        _declare(Wrong)
    assert caught.value.code == "EB1260"


def test_a_column_without_a_default_is_refused() -> None:
    class Wrong(ReadModel, table="wrong", key="country"):
        country: str
        cents: int

    with pytest.raises(WiringError, match="EB1260") as caught:
        _declare(Wrong)
    assert "cents has no default" in caught.value.why


def test_columns_that_differ_in_case_only_are_refused() -> None:
    class Wrong(ReadModel, table="wrong", key="country"):
        country: str
        cents: int = 0
        Cents: int = 0

    with pytest.raises(WiringError, match="EB1260"):
        _declare(Wrong)


@pytest.mark.parametrize(
    "keywords",
    [
        {"name": "Big"},
        {"name": ""},
        {"name": "a/b"},
        {"version": 0},
        {"runs": "sometimes"},
        {"shards": 0},
        {"shards": 257},
        {"shards": 2, "runs": "inline"},
    ],
)
def test_a_projection_that_cannot_run_is_refused(keywords: dict[str, Any]) -> None:
    with pytest.raises(WiringError) as caught:
        _declare(**keywords)
    assert caught.value.code == "EB1262"


def test_a_projection_without_a_function_is_refused() -> None:
    with pytest.raises(WiringError, match="EB1262"):

        class Empty(FoldingProjection[Revenue], name="empty"):  # pyright: ignore[reportUnusedClass]
            pass


def test_a_projection_that_names_no_rows_is_refused() -> None:
    with pytest.raises(WiringError, match="EB1262"):

        class Bare(FoldingProjection, name="bare"):  # type: ignore[type-arg]
            @projects(Placed, key=_country)
            def placed(self, row: Revenue, event: Placed) -> Revenue:
                return row


def test_only_an_event_class_with_a_type_is_projected() -> None:
    class Bare(Event):
        pass

    for what in (Bare, str, "shop.order-placed"):
        with pytest.raises(WiringError) as caught:
            projects(what, key=_country)  # type: ignore[type-var,arg-type]
        assert caught.value.code == "EB1261"


def test_a_projection_without_a_key_is_refused() -> None:
    with pytest.raises(WiringError) as caught:
        projects(Placed, key="country")  # type: ignore[call-overload]
    assert caught.value.code == "EB1261"


def test_one_key_function_and_no_two() -> None:
    with pytest.raises(WiringError, match="EB1261") as caught:
        projects(Placed, key=_country, keys=_country)  # type: ignore[call-overload]
    assert caught.value.why == "either key= or keys="


def test_a_coroutine_and_a_function_of_other_arguments_are_refused() -> None:
    async def slow(self: object, row: Revenue, event: Placed) -> Revenue:
        return row

    def short(self: object, row: Revenue) -> Revenue:
        return row

    for function in (slow, short):
        with pytest.raises(WiringError) as caught:
            projects(Placed, key=_country)(function)  # type: ignore[arg-type]
        assert caught.value.code == "EB1261"


def test_two_of_one_name_or_one_table_are_refused() -> None:
    for pair in ((Revenues, Revenues), (Revenues, _declare())):
        with pytest.raises(WiringError) as caught:
            definitions(pair)
        assert caught.value.code == "EB1263"


def test_a_class_that_wants_arguments_is_handed_over_as_an_object() -> None:
    class Taxed(FoldingProjection[Revenue], name="taxed"):
        def __init__(self, rate: Decimal) -> None:
            self.rate = rate

        @projects(Placed, key=_country)
        def placed(self, row: Revenue, event: Placed) -> Revenue:
            return row

    with pytest.raises(WiringError, match="EB1262"):
        Definition(Taxed)
    assert Definition(Taxed(Decimal("0.2"))).name == "taxed"


def test_the_general_form_is_known_by_its_name_and_apply() -> None:
    class Search:
        name = "search"
        handles = (Placed,)

        async def apply(self, events: Any, view: Any) -> None: ...

    assert is_projection(Search())
    assert not is_projection(Search)
    assert not is_projection(object())
    assert Definition(Search()).types == ("shop.order-placed",)


def test_the_general_form_that_handles_no_event_class_is_refused() -> None:
    class Search:
        name = "search"
        handles = (str,)

        async def apply(self, events: Any, view: Any) -> None: ...

    with pytest.raises(WiringError, match="EB1262"):
        Definition(Search())


@pytest.mark.parametrize("tables", ["stock", ("Stock",), ("stock__v2",), ("s" * 51,), (7,)])
def test_the_general_form_that_names_no_tables_is_refused(tables: Any) -> None:
    with pytest.raises(WiringError, match="EB1262"):
        Definition(_stock(tables=tables))


def test_two_that_write_one_table_are_refused_in_any_form() -> None:
    for pair in ((_stock(), _stock(name="other")), (Revenues, _stock(tables=("a", "revenue")))):
        with pytest.raises(WiringError) as caught:
            definitions(pair)
        assert caught.value.code == "EB1263"


def test_all_methods_of_the_general_form_are_its_code() -> None:
    assert Definition(_stock()).code_hash == Definition(_stock(factor=1)).code_hash
    assert Definition(_stock()).code_hash != Definition(_stock(helper=_other)).code_hash
    assert Definition(_stock()).fingerprint == Definition(_stock(helper=_other)).fingerprint


def _helper(self: Any) -> int:
    return 1


def _other(self: Any) -> int:
    return 2


def _stock(*, name: str = "stock", helper: Any = _helper, **attributes: Any) -> Any:
    async def apply(self: Any, events: Any, view: Any) -> None: ...

    members = {"name": name, "tables": ("stock",), "apply": apply, "helper": helper}
    return type("Stock", (), members | attributes)()


def test_another_key_function_is_another_fingerprint_and_a_comment_is_not() -> None:
    first = Definition(Revenues)

    class Again(FoldingProjection[Revenue], name="revenue"):
        # the same, said elsewhere
        @projects(Placed, key=lambda event: event.country)
        def placed(self, row: Revenue, event: Placed) -> Revenue:
            return row

    class Same(FoldingProjection[Revenue], name="revenue"):
        @projects(
            Placed,
            key=lambda event: event.country,  # of the buyer
        )
        def placed(self, row: Revenue, event: Placed) -> Revenue:
            return row

    class Other(FoldingProjection[Revenue], name="revenue"):
        @projects(Placed, key=lambda event: event.order_id)
        def placed(self, row: Revenue, event: Placed) -> Revenue:
            return row

    assert Definition(Again).fingerprint == Definition(Same).fingerprint
    assert Definition(Again).code_hash == Definition(Again()).code_hash
    assert Definition(Other).fingerprint != Definition(Again).fingerprint
    assert first.fingerprint != Definition(Again).fingerprint, "it reads other types"


def test_another_body_is_other_code_on_the_same_fingerprint() -> None:
    class One(FoldingProjection[Revenue], name="revenue"):
        @projects(Placed, key=_country)
        def placed(self, row: Revenue, event: Placed) -> Revenue:
            return row

    class Two(FoldingProjection[Revenue], name="revenue"):
        @projects(Placed, key=_country)
        def placed(self, row: Revenue, event: Placed) -> Revenue:
            return row.model_copy(update={"orders": row.orders + 1})

    assert Definition(One).fingerprint == Definition(Two).fingerprint
    assert Definition(One).code_hash != Definition(Two).code_hash


def test_every_key_has_one_shard() -> None:
    assert Definition(_declare(shards=4)).shards == 4
    assert {shard_of(str(number), 4) for number in range(200)} == {0, 1, 2, 3}
    assert shard_of("UK", 1) == 0
