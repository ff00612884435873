"""What operators look at and put right: figures, rows, changes with their audit row."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from eventbus.errors import Finding
from eventbus.inspection import Request, Selection, Verb
from eventbus.sqlite import picking, rules, saga_figures, verbs
from eventbus.sqlite.audit import AUDIT
from eventbus.sqlite.picking import COUNT_UP_TO, DEAD_LETTERS
from eventbus.sqlite.rows import NEVER
from eventbus.storage import Work

T = TypeVar("T")

_CHANGED = "UPDATE eventbus_audit SET changed = ? WHERE id = ?"
_SENDABLE = f"due_at IS NULL OR due_at < {NEVER}"
_PLAIN_FIGURES = {
    "outbox_pending_messages": f"""
SELECT count(*) FROM (SELECT 1 FROM eventbus_outbox WHERE {_SENDABLE} LIMIT {COUNT_UP_TO})""",
    "outbox_oldest_age_seconds": f"""
SELECT coalesce((SELECT (eventbus_now() - created_at) / 1000.0 FROM eventbus_outbox
  WHERE {_SENDABLE} ORDER BY id LIMIT 1), 0)""",
    "outbox_failed_messages": f"""
SELECT count(*) FROM (SELECT 1 FROM eventbus_outbox WHERE due_at = {NEVER} LIMIT {COUNT_UP_TO})""",
    "outbox_partitions_leased": """
SELECT count(*) FROM eventbus_leases
 WHERE name >= 'outbox/' AND name < 'outbox0' AND until >= eventbus_now()""",
}
_GROUPS = "SELECT DISTINCT group_name FROM eventbus_parked_keys ORDER BY group_name"
_GROUP_FIGURES = {
    "parked_messages": "FROM eventbus_parked p WHERE 1",
    "parked_keys": "FROM eventbus_parked_keys p WHERE 1",
    "dead_letters": DEAD_LETTERS,
}

# A checkpoint moves over what it does not want too, so the next event of any type is its lag.
_LAGS = """
WITH s AS (
  SELECT p.name, min(c.position) AS position FROM eventbus_projections p
    JOIN eventbus_checkpoints c
      ON substr(c.name, 1, length(p.name || '@' || p.version || '/'))
       = p.name || '@' || p.version || '/'
   WHERE p.status = 'active' AND p.runs = 'following' GROUP BY p.name)
SELECT s.name, max(0, coalesce((
         SELECT max(seq) FROM sqlite_sequence WHERE name = 'eventbus_events'), 0) - s.position),
  coalesce((SELECT max(0, eventbus_now() - e.recorded_at) FROM eventbus_events e
             WHERE e.position > s.position ORDER BY e.position LIMIT 1), 0)
  FROM s"""
_REBUILDS = """
SELECT g.name, CASE g.phase WHEN 'plan' THEN 0
    WHEN 'replay' THEN min(1.0, g.done * 1.0 / max(g.total, 1)) ELSE 1 END
  FROM eventbus_progress g WHERE EXISTS (
    SELECT 1 FROM eventbus_projections p WHERE p.name = g.name AND p.status = 'building')"""


class Access(Protocol):
    """The two ways to the tables: beside the writer, or in its turn."""

    async def look(self, where: str, call: Callable[[sqlite3.Connection], T]) -> T:
        """Read what is committed."""
        ...

    async def change(
        self, where: str, call: Callable[[sqlite3.Connection], T], *, hints: Collection[Work]
    ) -> T:
        """Write in one transaction."""
        ...


class SqliteInspection:
    """Reads beside the bus; changes take their turn as every other transaction.

    Works from another process too: `SqliteStorage(path, inspect_only=True)`.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def figures(self) -> Mapping[str, float]:
        """Gauges of outbox, parking, log, projections and sagas; counts stop at 10,000."""
        return await self._access.look("inspection.figures", _figures)

    async def find(self, what: Selection, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """Rows of a place, oldest first.

        Raises:
            ConfigurationError: EB8001, a place or a field that SQLite does not have.
        """

        def find(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            return picking.find(connection, what, limit=limit)

        return await self._access.look("inspection.find", find)

    async def verify(self, *, sample: int = 0) -> Sequence[Finding]:
        """Audit of outbox, inbox and parking; at most `sample` rows of the outbox, 0 is all."""

        def verify(connection: sqlite3.Connection) -> list[Finding]:
            return rules.verify(connection, sample=sample)

        return await self._access.look("inspection.verify", verify)

    async def change(
        self,
        verb: Verb,
        what: Selection,
        *,
        actor: str,
        reason: str = "",
        rate: float | None = None,
        limit: int | None = None,
        payload: bytes | None = None,
        dry_run: bool = False,
    ) -> int:
        """One transaction with one audit row, also if nothing was found; keys count once.

        Raises:
            ConfigurationError: EB8001 verb, place or options do not fit, EB8003 nothing selected,
                EB8004 the one message is not there. Nothing was changed.
        """
        act = verbs.find(verb, what)

        def change(connection: sqlite3.Connection) -> int:
            selection = what.as_json()
            audit = connection.execute(AUDIT, (verb, selection, 0, actor, reason)).lastrowid
            request = Request(
                what=what, actor=actor, audit=audit or 0, rate=rate, limit=limit, payload=payload
            )
            changed = act(connection, request)
            if dry_run:
                raise _DryRun(changed)
            connection.execute(_CHANGED, (changed, audit))
            return changed

        try:
            return await self._access.change(
                f"inspection.{verb}", change, hints=("outbox", "parked")
            )
        except _DryRun as counted:
            return counted.changed

    async def note(
        self, verb: str, what: Mapping[str, Any], *, changed: int, actor: str, reason: str = ""
    ) -> None:
        """As `Inspection.note`."""
        row = (verb, json.dumps(what, sort_keys=True), changed, actor, reason)
        await self._access.change("inspection.note", lambda sql: sql.execute(AUDIT, row), hints=())


class _DryRun(Exception):  # noqa: N818 - it rolls back, and is no error
    def __init__(self, changed: int) -> None:
        self.changed = changed


def _figures(connection: sqlite3.Connection) -> dict[str, float]:
    figures: dict[str, float] = {
        name: float(connection.execute(query).fetchone()[0])
        for name, query in _PLAIN_FIGURES.items()
    }
    figures["log_held_seconds"] = 0.0  # writers take turns: who reads sees what is committed
    for (group,) in connection.execute(_GROUPS).fetchall():
        for name, source in _GROUP_FIGURES.items():
            query = (
                f"SELECT count(*) FROM (SELECT 1 {source} AND p.group_name = ? LIMIT {COUNT_UP_TO})"
            )
            figures[f"{name}{{{group}}}"] = float(connection.execute(query, (group,)).fetchone()[0])
    for name, events, milliseconds in connection.execute(_LAGS).fetchall():
        figures[f"projection_lag_events{{{name}}}"] = float(events)
        figures[f"projection_lag_seconds{{{name}}}"] = milliseconds / 1000
    for name, ratio in connection.execute(_REBUILDS).fetchall():
        figures[f"projection_rebuild_progress_ratio{{{name}}}"] = float(ratio)
    return figures | saga_figures.figures(connection)
