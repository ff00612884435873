"""Which version of a projection serves: a switch and the way back, in one transaction."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

import sqlite3

import orjson

from eventbus.sqlite.own_tables import TABLES, quoted
from eventbus.storage.projections import beside, compared, not_at_one_position, one_position

TABLES_OF = f"SELECT {TABLES}, runs FROM eventbus_projections WHERE name = ? AND version = ?"
_STANDING = """
SELECT name, position FROM eventbus_checkpoints
 WHERE substr(name, 1, length(?1)) = ?1 OR substr(name, 1, length(?2)) = ?2 ORDER BY name"""
_ACTIVE = f"""
SELECT version, {TABLES}, runs FROM eventbus_projections WHERE name = ? AND status = 'active'"""
_STATUS = """
UPDATE eventbus_projections SET status = ?, switched_at = eventbus_now()
 WHERE name = ? AND version = ?"""
_PUBLISHES = "UPDATE eventbus_projections SET publishes_after = ? WHERE name = ? AND version = ?"
_RETIRE = "UPDATE eventbus_checkpoints SET state = ? WHERE substr(name, 1, length(?2)) = ?2"
# Of an inline version that is left: up to where its rows are.
_LEFT = "UPDATE eventbus_checkpoints SET position = ?1 WHERE substr(name, 1, length(?2)) = ?2"
_REVIVE = """
UPDATE eventbus_projections SET status = 'building', switched_at = eventbus_now()
 WHERE name = ? AND version = ? AND status = 'retired'"""


def switch(connection: sqlite3.Connection, *, name: str, to: int, back: bool) -> None:
    """Retire the active version, and let `to` be it.

    Raises:
        StorageError: EB6008.
    """
    row = connection.execute(_ACTIVE, (name,)).fetchone()
    known = connection.execute(TABLES_OF, (name, to)).fetchone()
    if row is None or known is None or row[0] == to:
        raise not_at_one_position(name, f"there is no version {to} beside an active one")
    old, tables, runs = row
    prefixes = f"{name}@{old}/", f"{name}@{to}/"
    standing = dict(connection.execute(_STANDING, prefixes).fetchall())
    inline = "inline" in {runs, known[1]}
    position = one_position(name, standing, compared(prefixes, back=back, inline=inline))
    if runs == "inline":
        connection.execute(_LEFT, (position, prefixes[0]))
    connection.execute(_STATUS, ("retired", name, old))
    connection.execute(_STATUS, ("active", name, to))
    connection.execute(_PUBLISHES, (position, name, to))
    for prefix, state in zip(prefixes, (2, 0), strict=True):
        connection.execute(_RETIRE, (state, prefix))
    for table in orjson.loads(tables):
        _rename(connection, table, beside(table, old))
    for table in orjson.loads(known[0]):
        _rename(connection, beside(table, to), table)


def revive(connection: sqlite3.Connection, *, name: str, version: int) -> None:
    """A retired version is built on.

    Raises:
        StorageError: EB6008.
    """
    if not connection.execute(_REVIVE, (name, version)).rowcount:
        raise not_at_one_position(name, f"version {version} is not retired")
    connection.execute(_RETIRE, (0, f"{name}@{version}/"))


def _rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    connection.execute(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(new)}")
