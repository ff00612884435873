"""The user's SQL: placeholders, values in and out, counts."""
# ruff: noqa: D102, S101, S608 - a suite: names are sentences, it asserts, its tables are its own

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from eventbus.errors import StorageError
from eventbus.storage import Storage
from eventbus.testing.conformance.samples import make_table

INDIA = timezone(timedelta(hours=5, minutes=30))


def _decimal(value: object) -> Decimal:
    return Decimal(str(value))


def _uuid(value: object) -> UUID:
    return UUID(str(value))


def _date(value: object) -> date:
    return date.fromisoformat(str(value))


def _time(value: object) -> datetime:
    return datetime.fromisoformat(str(value))


KINDS: Sequence[tuple[str, object, Callable[[Any], object]]] = [
    ("bigint", 7, int),
    ("bigint", -(2**63), int),
    ("text", "Grüße, 東京 'quoted' $1 ?1 :a \\ %s", str),
    ("text", "", str),
    ("bytea", b"\x00\xff", bytes),
    ("bytea", b"", bytes),
    ("boolean", True, bool),
    ("boolean", False, bool),
    ("double precision", 0.1, float),
    ("numeric", Decimal("12.50"), _decimal),
    ("uuid", UUID("0190a6c5-6f6b-7cc3-98c4-dc0c0c07398f"), _uuid),
    ("date", date(2028, 2, 29), _date),
    ("timestamptz", datetime(2026, 3, 1, 1, 30, 0, 250, tzinfo=INDIA), _time),
]


class SqlSuite:
    """Subclass it with a fixture `storage`: an entered storage."""

    @pytest.mark.parametrize(("kind", "value", "read"), KINDS)
    async def test_a_value_comes_back_as_it_went_in(
        self, storage: Storage, kind: str, value: object, read: Callable[[Any], object]
    ) -> None:
        table = await make_table(storage, f"x {kind}")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} (x) VALUES ($1)", value)
            await tx.sql.execute_many(f"INSERT INTO {table} (x) VALUES ($1)", [[value], [None]])
            found = [row["x"] for row in await tx.sql.fetch(f"SELECT x FROM {table}")]
            equal = await tx.sql.fetch(f"SELECT x FROM {table} WHERE x = $1", value)
        assert [read(x) for x in found if x is not None] == [value, value]
        assert found.count(None) == 1
        assert len(equal) == 2

    async def test_times_of_different_zones_sort_by_the_instant(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint, x timestamptz")
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        async with storage.transaction() as tx:
            for n, x in [(2, noon), (1, (noon - timedelta(hours=1)).astimezone(INDIA))]:
                await tx.sql.execute(f"INSERT INTO {table} (n, x) VALUES ($1, $2)", n, x)
            found = await tx.sql.fetch(f"SELECT n FROM {table} ORDER BY x")
        assert [row["n"] for row in found] == [1, 2]

    async def test_placeholders_in_any_order_and_repeated(self, storage: Storage) -> None:
        table = await make_table(storage, "a bigint, b text, c text")
        async with storage.transaction() as tx:
            await tx.sql.execute(
                f"INSERT INTO {table} (b, a, c) VALUES ($2, $1, $2)", 7, "repeated"
            )
            found = await tx.sql.fetch(
                f"SELECT a, b, c, '$1' AS d FROM {table} WHERE c = $2 AND (a = $1 OR a > $1)",
                7,
                "repeated",
            )
        assert [dict(row) for row in found] == [
            {"a": 7, "b": "repeated", "c": "repeated", "d": "$1"}
        ]

    async def test_the_eleventh_placeholder_is_not_the_first(self, storage: Storage) -> None:
        names = ", ".join(f"c{n}" for n in range(1, 12))
        table = await make_table(storage, ", ".join(f"c{n} bigint" for n in range(1, 12)))
        marks = ", ".join(f"${n}" for n in range(1, 12))
        async with storage.transaction() as tx:
            statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"
            await tx.sql.execute(statement, *range(1, 12))
            (row,) = await tx.sql.fetch(f"SELECT c1, c10, c11 FROM {table}")
        assert (row["c1"], row["c10"], row["c11"]) == (1, 10, 11)

    async def test_a_value_that_no_parameter_takes_is_named(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", object())
        assert caught.value.code == "EB5009"

    async def test_a_missing_argument_is_an_error(self, storage: Storage) -> None:
        table = await make_table(storage, "a bigint, b bigint")
        with pytest.raises(StorageError):
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} (a, b) VALUES ($1, $2)", 1)

    async def test_execute_says_how_many_rows_it_changed(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            assert await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1), (2), (3)") == 3
            assert await tx.sql.execute(f"UPDATE {table} SET n = n + 10 WHERE n > $1", 1) == 2
            assert await tx.sql.execute(f"UPDATE {table} SET n = 0 WHERE n = $1", 99) == 0
            assert await tx.sql.execute(f"DELETE FROM {table}") == 3

    async def test_execute_many_takes_any_rows_and_none(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            await tx.sql.execute_many(f"INSERT INTO {table} (n) VALUES ($1)", ([n] for n in (1, 2)))
            await tx.sql.execute_many(f"INSERT INTO {table} (n) VALUES ($1)", [])
            assert await tx.sql.fetch(f"SELECT n FROM {table} WHERE n > 5") == []
            found = await tx.sql.fetch(f"SELECT n FROM {table} ORDER BY n")
        assert [row["n"] for row in found] == [1, 2]
