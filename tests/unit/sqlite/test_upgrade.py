"""Migrations: whole or not at all."""

import sqlite3
from collections.abc import Iterator

import pytest

from eventbus.sqlite import upgrade
from eventbus.sqlite.connection import Opening
from eventbus.sqlite.upgrade import statements
from eventbus.storage.migrations import Migration


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = Opening(path=None, now=lambda: 1000.0).connect("writer")
    yield connection
    connection.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}


def test_all_files_are_applied_once_with_their_digest(connection: sqlite3.Connection) -> None:
    upgrade.upgrade(connection)
    upgrade.upgrade(connection)
    rows = connection.execute("SELECT number, name, kind, digest FROM eventbus_migrations")
    known = [(m.number, m.name, m.kind, m.digest) for m in upgrade.migrations()]
    assert rows.fetchall() == known
    assert all(kind in {"expand", "contract"} for _, _, kind, _ in known)


def test_all_tables_are_strict_and_carry_the_prefix(connection: sqlite3.Connection) -> None:
    upgrade.upgrade(connection)
    listed = connection.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
    ours = {name: strict for name, strict in listed if not name.startswith("sqlite_")}
    assert all(name.startswith("eventbus_") for name in ours)
    assert set(ours.values()) == {1}


def test_a_failing_file_leaves_nothing(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(
        number=2, name="broken", kind="expand", text="CREATE TABLE eventbus_two (a);\nSELEC;\n"
    )
    both = (*upgrade.migrations(), broken)
    monkeypatch.setattr(upgrade, "migrations", lambda: both)
    with pytest.raises(sqlite3.OperationalError):
        upgrade.upgrade(connection)
    assert tables(connection) == set()
    assert not connection.in_transaction


def test_statements_are_split_where_they_end() -> None:
    text = (
        "-- kind: expand\nCREATE TABLE a (b TEXT DEFAULT ';');\n"
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM a;\nEND;\n"
    )
    assert [statement.split()[-1] for statement in statements(text)] == ["';');", "END;"]
