"""What operators look at and put right: figures, rows, changes with their audit row."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventbus.errors import Finding
from eventbus.inspection import Request, Selection, Verb
from eventbus.postgres import picking, projection_figures, rules, saga_figures, verbs
from eventbus.postgres.audit import AUDIT
from eventbus.postgres.completion import commit, roll_back
from eventbus.postgres.feed import HOLDERS
from eventbus.postgres.picking import COUNT_UP_TO
from eventbus.postgres.pools import Pools
from eventbus.postgres.session import Session
from eventbus.storage import Work

_AUDIT = f"{AUDIT} RETURNING id"
_CHANGED = "UPDATE {schema}.audit SET changed = $2 WHERE id = $1"
_SENDABLE = "due_at IS DISTINCT FROM 'infinity'"


def _counted(source: str) -> str:
    return f"(SELECT count(*) FROM (SELECT 1 {source} LIMIT {COUNT_UP_TO}) c)"


_OUTBOX_FIGURES = f"""
SELECT {_counted(f"FROM {{schema}}.outbox WHERE {_SENDABLE}")} AS outbox_pending_messages,
  coalesce((
    SELECT extract(epoch FROM statement_timestamp() - min(h.created_at))
      FROM generate_series(0, 63) part CROSS JOIN LATERAL (
        SELECT created_at FROM {{schema}}.outbox o WHERE o.part = part AND {_SENDABLE}
         ORDER BY o.id LIMIT 1) h), 0) AS outbox_oldest_age_seconds,
  {_counted("FROM {schema}.outbox WHERE due_at = 'infinity'")} AS outbox_failed_messages,
  (SELECT count(*) FROM {{schema}}.leases
    WHERE starts_with(name, 'outbox/') AND until >= statement_timestamp())
  AS outbox_partitions_leased"""
# From group to group along the index: there may be a million keys.
_GROUP_FIGURES = f"""
WITH RECURSIVE g AS (
  (SELECT group_name AS name FROM {{schema}}.parked_keys ORDER BY 1 LIMIT 1)
  UNION ALL
  SELECT (SELECT k.group_name FROM {{schema}}.parked_keys k WHERE k.group_name > g.name
           ORDER BY 1 LIMIT 1) FROM g WHERE g.name IS NOT NULL)
SELECT name,
  {_counted("FROM {schema}.parked p WHERE p.group_name = name")} AS parked_messages,
  {_counted("FROM {schema}.parked_keys p WHERE p.group_name = name")} AS parked_keys,
  {_counted(picking.DEAD_LETTERS + " AND p.group_name = name")} AS dead_letters
  FROM g WHERE name IS NOT NULL"""


class PostgresInspection:
    """Reads beside the bus; changes lock the keys they are about, and wait for lanes that do."""

    def __init__(self, pools: Pools, schema: str, hint: Callable[[Work], None]) -> None:
        self._pools = pools
        self._schema = schema
        self._hint = hint

    async def figures(self) -> Mapping[str, float]:
        """Gauges of outbox, parking, log, projections and sagas; counts stop at 10,000."""
        async with self._pools.connecting() as connection:
            outbox = await connection.fetchrow(_OUTBOX_FIGURES.format(schema=self._schema))
            groups = await connection.fetch(_GROUP_FIGURES.format(schema=self._schema))
            projections = await projection_figures.figures(connection, self._schema)
            sagas = await saga_figures.figures(connection, self._schema)
            holders = await connection.fetch(HOLDERS.format(schema=self._schema))
        figures = {name: float(value) for name, value in outbox.items()}
        figures["log_held_seconds"] = max((row["seconds"] or 0.0 for row in holders), default=0.0)
        for row in groups:
            for name in ("parked_messages", "parked_keys", "dead_letters"):
                figures[f"{name}{{{row['name']}}}"] = float(row[name])
        return figures | projections | sagas

    async def find(self, what: Selection, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """Rows of a place, oldest first.

        Raises:
            ConfigurationError: EB8001, a place or a field that there is not.
        """
        session = Session(self._pools, self._schema)
        try:
            return await picking.find(session, what, limit=limit)
        finally:
            await roll_back(session)

    async def verify(self, *, sample: int = 0) -> Sequence[Finding]:
        """Audit of outbox, inbox and parking; at most `sample` rows of the outbox, 0 is all."""
        async with self._pools.connecting() as connection:
            return await rules.verify(connection, self._schema, sample=sample)

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
            StorageError: EB5007, a lane holds one of the keys for long. Nothing was changed.
        """
        act = verbs.find(verb, what)
        session = Session(self._pools, self._schema)
        try:
            audit = await self._audit(session, verb, what.as_json(), actor, reason)
            changed = await act(
                session,
                Request(
                    what=what, actor=actor, audit=audit, rate=rate, limit=limit, payload=payload
                ),
            )
            await session.execute(
                _CHANGED.format(schema=self._schema), audit, changed, where=f"inspection.{verb}"
            )
        except BaseException:
            await roll_back(session)
            raise
        if dry_run:
            await roll_back(session)
            return changed
        session.wrote = True
        session.hints |= {"outbox", "parked"}
        await commit(session, self._hint)
        return changed

    async def note(
        self, verb: str, what: Mapping[str, Any], *, changed: int, actor: str, reason: str = ""
    ) -> None:
        """As `Inspection.note`.

        Raises:
            StorageError: EB5001, EB5007; CommitUnknownError, EB5101.
        """
        session = Session(self._pools, self._schema)
        try:
            selection = json.dumps(what, sort_keys=True)
            await self._audit(session, verb, selection, actor, reason, changed=changed)
        except BaseException:
            await roll_back(session)
            raise
        session.wrote = True
        await commit(session, self._hint)

    async def _audit(
        self,
        session: Session,
        verb: str,
        selection: str,
        actor: str,
        reason: str,
        *,
        changed: int = 0,
    ) -> int:
        rows = await session.fetch(
            _AUDIT.format(schema=self._schema),
            verb,
            selection,
            changed,
            actor,
            reason,
            where=f"inspection.{verb}",
            role="control",
        )
        return int(rows[0]["id"])
