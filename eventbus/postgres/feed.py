"""The feed of all streams: how far it can be read, who holds it back, and a piece of it."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Sequence
from typing import Any

from eventbus.postgres.recorded import StoredEvent, columns
from eventbus.postgres.session import Session
from eventbus.storage.events import Filter, Holder, Position, ReadBound

_BOUND = "SELECT * FROM {schema}.read_bound()"
HOLDERS = """
SELECT l.pid, a.application_name AS application,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
  FROM (SELECT pid, (classid::bigint << 32) | objid::bigint AS k FROM pg_locks
         WHERE locktype = 'advisory' AND granted AND objsubid = 1
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) l
  LEFT JOIN pg_stat_activity a USING (pid)
 WHERE k >= {schema}.lock_key(0, 0) AND k < {schema}.lock_key(0, 0) + (1::bigint << 44)
 ORDER BY k LIMIT 3"""
# A statement for each kind of filter: one text for all of them has a generic plan that reads the
# window to its end (measured: 19 ms a page instead of 2). The upper end is compared as a row for
# the same reason, and what no index answers is no equation: of `position > $1 AND position <= $2`,
# and of an equation, the planner expects half a percent of the table, and sorts it (0040).
_FEED = f"""
SELECT {columns()} FROM {{schema}}.events
 WHERE position > $1 AND (position, 0) <= ($2::bigint, 0){{only}}
 ORDER BY position LIMIT {{limit}}"""


async def read_bound(session: Session) -> ReadBound:
    """How far the feed can be read: what is read in a later statement is whole up to there."""
    rows = await session.look(_BOUND.format(schema=session.schema), where="events.read_bound")
    return ReadBound(
        bound=Position(rows[0]["bound"]),
        head=Position(rows[0]["head"]),
        server_started=rows[0]["server_started"],
    )


async def holders(session: Session) -> Sequence[Holder]:
    """Transactions that have announced positions, the lowest first; at most 3."""
    rows = await session.look(HOLDERS.format(schema=session.schema), where="events.holders")
    return [
        Holder(pid=row["pid"], application=row["application"] or "", seconds=row["seconds"])
        for row in rows
    ]


async def events_between(
    session: Session, after: Position, upto: Position, only: Filter, limit: int
) -> list[StoredEvent]:
    """At most `limit` events behind a position, up to another one, that a filter lets through."""
    conditions, arguments = _conditions(only)
    sql = _FEED.format(schema=session.schema, only=conditions, limit=int(limit))
    return await session.look(
        sql, after, upto, *arguments, where="events.read_all", rows_as=StoredEvent
    )


def _conditions(only: Filter) -> tuple[str, list[Any]]:
    asked = {
        "type = ANY(${}::text[])": list(only.types) or None,
        "coalesce(tenant = ${}, false)": only.tenant,
        "coalesce(split_part(stream, '-', 1) = ${}, false)": only.category,
        "stream = ANY(${}::text[])": list(only.streams) or None,
    }
    given = [(text, value) for text, value in asked.items() if value is not None]
    texts = [f" AND {text.format(number)}" for number, (text, _) in enumerate(given, 3)]
    if only.share is not None:  # in the text: a statement for each, which is planned once
        number, of = only.share
        texts.append(f" AND coalesce(stream_id % {int(of)} = {int(number)}, false)")
    return "".join(texts), [value for _, value in given]
