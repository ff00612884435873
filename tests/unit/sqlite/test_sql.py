"""Values in, statements refused."""

from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from uuid import UUID

import pytest

from eventbus.errors import StorageError
from eventbus.sqlite.sql import bound, refuse
from tests.unit.sqlite.helpers import with_table


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (Level.HIGH, 3),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (
            datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-02T01:00:00+00:00",
        ),
    ],
)
def test_values_have_one_form(value: object, plain: object) -> None:
    assert bound([value]) == {"1": plain}


@pytest.mark.parametrize("value", [timedelta(1), object(), float("nan"), [1], {"a": 1}])
def test_values_without_a_form_are_refused_before_they_are_sent(value: object) -> None:
    with pytest.raises(StorageError) as raised:
        bound(["fine", value])
    assert raised.value.code == "EB5009"
    assert raised.value.where == "$2"


@pytest.mark.parametrize("value", [2**63, "\ud800"])
async def test_values_that_sqlite_cannot_take_are_named(value: object) -> None:
    async with with_table(None) as storage, storage.transaction() as tx:
        with pytest.raises(StorageError) as raised:
            async with tx.savepoint():
                await tx.sql.execute("INSERT INTO note VALUES ($1)", value)
        assert raised.value.code == "EB5009"


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "commit",
        "END TRANSACTION",
        "  -- a comment\n ROLLBACK",
        "/* one */ /* two\n */ SAVEPOINT mine",
        ";RELEASE mine",
        "ATTACH 'other.db' AS other",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA table_info_of_nothing",
        "VACUUM",
    ],
)
def test_statements_that_are_not_the_users_are_refused(statement: str) -> None:
    with pytest.raises(StorageError) as raised:
        refuse(statement)
    assert raised.value.code == "EB5005"


@pytest.mark.parametrize(
    "statement", ["SELECT 1", "PRAGMA table_info(note)", "CREATE TABLE begin (a)", "-- x\nSELECT 1"]
)
def test_other_statements_are_the_users(statement: str) -> None:
    refuse(statement)


@pytest.mark.parametrize(
    "statement", ["SELECT 1; SELECT 2", "SELECT ?", "SELEC 1", "INSERT INTO nowhere VALUES (1)"]
)
async def test_errors_of_statements_name_the_statement(statement: str) -> None:
    async with with_table(None) as storage, storage.transaction() as tx:
        with pytest.raises(StorageError) as raised:
            async with tx.savepoint():
                await tx.sql.execute(statement, 1)
        assert raised.value.code == "EB5005"
        assert raised.value.where == statement


async def test_tables_can_be_made_in_a_transaction_and_go_with_it() -> None:
    async with with_table(None) as storage:
        with suppress(LookupError):
            async with storage.transaction() as tx:
                await tx.sql.execute("CREATE TABLE gone (a)")
                raise LookupError
        async with storage.transaction() as tx:
            rows = await tx.sql.fetch("SELECT name FROM sqlite_schema WHERE name = 'gone'")
            assert rows == []


async def test_rows_of_returning_are_counted() -> None:
    async with with_table(None) as storage, storage.transaction() as tx:
        insert = "INSERT INTO note VALUES ('a'), ('b') RETURNING text"
        assert await tx.sql.execute(insert) == 2
        assert await tx.sql.execute("SELECT * FROM note") == 0
