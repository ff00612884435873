"""Read models in the transaction of the append: which version it is, and rows that are held."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from eventbus.postgres import read_models
from eventbus.postgres.read_models import listed, qualified, quoted
from eventbus.postgres.session import Session
from eventbus.storage.projections import Table, of_other_code

_ENTER = "SELECT name, version, fingerprint FROM {schema}.enter_inline($1, $2)"
_EXCLUDE = "SELECT pg_advisory_xact_lock({schema}.lock_key(2, $1::bigint))"


async def enter(session: Session, fingerprints: Mapping[str, bytes]) -> Mapping[str, int]:
    """The active versions; a switch waits until this transaction has ended.

    Raises:
        StorageError: EB5202.
    """
    names = sorted(fingerprints)
    rows = await session.fetch(
        _ENTER.format(schema=session.schema),
        names,
        [_number(name) for name in names],
        where="projections.enter",
    )
    for row in rows:
        if row["fingerprint"] != fingerprints[row["name"]]:
            raise of_other_code(row["name"], row["version"])
    return {row["name"]: row["version"] for row in rows}


async def exclude(session: Session, name: str) -> None:
    """Wait for those who have entered, 500 ms, and let nobody enter until this has ended.

    Raises:
        StorageError: EB5007, one of them takes longer.
    """
    await session.execute("SET LOCAL lock_timeout = '500ms'", where="projections.hold")
    statement = _EXCLUDE.format(schema=session.schema)
    await session.fetch(statement, _number(name), where="projections.hold")


async def claim(
    session: Session, schema: str, table: Table, rows: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """Insert those that are missing, and lock all: in the order of keys, against deadlocks."""
    names = list(table.columns)
    ordered = sorted(rows, key=lambda row: [str(row[name]) for name in table.key])
    values = read_models.arrays(table, names, [[row[name] for name in names] for row in ordered])
    session.wrote = True
    return await session.fetch(_claim(schema, table), *values, where="projections.claim")


def _claim(schema: str, table: Table) -> str:
    """An update of nothing is the one statement that locks a row or makes it."""
    names, key = list(table.columns), quoted(table.key[0])
    return (
        f"INSERT INTO {qualified(schema, table.name)} AS t ({listed(names)})"
        f" SELECT * FROM unnest({read_models.typed_arrays(table, names)})"
        f" ON CONFLICT ({listed(table.key)}) DO UPDATE SET {key} = t.{key}"
        f" RETURNING {listed(names, 't.')}"
    )


def _number(name: str) -> int:
    """Two names of one number wait for each other's switches, and no more."""
    return crc32(name.encode())
