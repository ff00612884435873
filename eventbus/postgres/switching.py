"""Which version of a projection serves: a switch and the way back, in one transaction."""

# ruff: noqa: S608 - names are quoted, and were checked when they were declared; values are bound

from collections.abc import Iterable, Mapping
from typing import Any

from eventbus.postgres import inline as inlined
from eventbus.postgres.own_tables import TABLES
from eventbus.postgres.read_models import qualified, quoted
from eventbus.postgres.session import Session
from eventbus.storage.events import Position
from eventbus.storage.projections import beside, compared, not_at_one_position, one_position

_BOTH = f"""
SELECT version, status, table_schema, {TABLES} AS tables, runs FROM {{schema}}.projections
 WHERE name = $1 AND (status = 'active' OR version = $2)"""
_STANDING = """
SELECT name, position FROM {schema}.checkpoints
 WHERE starts_with(name, $1) OR starts_with(name, $2) ORDER BY name FOR UPDATE"""
_HOLD = """
SELECT name, position FROM {schema}.checkpoints WHERE starts_with(name, $1)
 ORDER BY name FOR UPDATE"""
_STATUS = """
UPDATE {schema}.projections SET status = $3, switched_at = statement_timestamp(),
       publishes_after = coalesce($4, publishes_after) WHERE name = $1 AND version = $2"""
_STATES = """
UPDATE {schema}.checkpoints SET state = CASE WHEN starts_with(name, $1) THEN 2 ELSE 0 END
 WHERE starts_with(name, $1) OR starts_with(name, $2)"""
# Of an inline version that is left: up to where its rows are.
_LEFT = "UPDATE {schema}.checkpoints SET position = $2 WHERE starts_with(name, $1)"
_REVIVE = """
UPDATE {schema}.projections SET status = 'building', switched_at = statement_timestamp()
 WHERE name = $1 AND version = $2 AND status = 'retired' RETURNING 1"""
_ALIVE = "UPDATE {schema}.checkpoints SET state = 0 WHERE starts_with(name, $1)"


async def hold(session: Session, name: str, *, inline: bool) -> Mapping[str, Position]:
    """All checkpoints, locked in the order of their names; those who have entered first."""
    if inline:
        await inlined.exclude(session, name)
    rows = await _fetch(session, _HOLD, f"{name}@", where="projections.hold")
    return {row["name"]: Position(row["position"]) for row in rows}


async def switch(session: Session, name: str, *, to: int, back: bool) -> None:
    """Retire the active version, and let `to` be it.

    Raises:
        StorageError: EB6008; EB5007, a reader was in the way.
    """
    where = "projections.switch"
    session.wrote = True
    await session.execute("SET LOCAL lock_timeout = '500ms'", where=where)
    rows = {row["version"]: row for row in await _fetch(session, _BOTH, name, to, where=where)}
    old = next((row for row in rows.values() if row["status"] == "active"), None)
    if old is None or to not in rows or old["version"] == to:
        raise not_at_one_position(name, f"there is no version {to} beside an active one")
    prefixes = f"{name}@{old['version']}/", f"{name}@{to}/"
    standing = await _fetch(session, _STANDING, *prefixes, where=where)
    found = {row["name"]: row["position"] for row in standing}
    inline = "inline" in {row["runs"] for row in rows.values()}
    position = one_position(name, found, compared(prefixes, back=back, inline=inline))
    if old["runs"] == "inline":
        await _fetch(session, _LEFT, prefixes[0], position, where=where)
    await _fetch(session, _STATUS, name, old["version"], "retired", None, where=where)
    await _fetch(session, _STATUS, name, to, "active", position, where=where)
    await _fetch(session, _STATES, *prefixes, where=where)
    await _rename(session, [(one, beside(one, old["version"])) for one in old["tables"]], old)
    await _rename(session, [(beside(one, to), one) for one in rows[to]["tables"]], rows[to])


async def revive(session: Session, name: str, version: int) -> None:
    """A retired version is built on.

    Raises:
        StorageError: EB6008.
    """
    session.wrote = True
    where = "projections.revive"
    if not await _fetch(session, _REVIVE, name, version, where=where):
        raise not_at_one_position(name, f"version {version} is not retired")
    await _fetch(session, _ALIVE, f"{name}@{version}/", where=where)


async def _rename(
    session: Session, names: Iterable[tuple[str, str]], version: Mapping[str, Any]
) -> None:
    for before, after in names:
        place = qualified(version["table_schema"], before)
        rename = f"ALTER TABLE {place} RENAME TO {quoted(after)}"
        await session.execute(rename, where="projections.switch")


async def _fetch(session: Session, statement: str, *args: Any, where: str) -> list[Any]:
    return await session.fetch(statement.format(schema=session.schema), *args, where=where)
