"""The inbox (S4): identities of a batch in one round trip, with the keys that are held."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from eventbus.message import Message
from eventbus.postgres.fate import WITNESS
from eventbus.postgres.rows import identities_and_days
from eventbus.postgres.session import Session, only_read_committed
from eventbus.storage.inbox import Received

_RECEIVE = "SELECT fresh, held, {witness} FROM {schema}.receive($1, $2, $3, $4)"
_LOOK = """
SELECT (SELECT array_agg(u.m) FROM unnest($2::uuid[], $3::date[]) u(m, d)
         WHERE NOT EXISTS (SELECT 1 FROM {schema}.inbox i
                            WHERE i.group_name = $1 AND i.message = u.m AND i.day = u.d)) AS fresh,
       (SELECT array_agg(key) FROM {schema}.parked_keys
         WHERE group_name = $1 AND key = ANY($4::text[])) AS held"""
_FORGET = """
DELETE FROM {schema}.inbox i USING unnest($2::uuid[], $3::date[]) u(m, d)
 WHERE i.group_name = $1 AND i.message = u.m AND i.day = u.d"""
_ATTEMPTS = """
SELECT message, attempts FROM {schema}.attempts WHERE group_name = $1 AND message = ANY($2::uuid[])
UNION ALL
SELECT message, attempts FROM {schema}.parked WHERE group_name = $1 AND message = ANY($2::uuid[])"""
# A parked message is counted in its own row, any other in attempts: one counter each.
_COUNT = """
WITH p AS (
  UPDATE {schema}.parked SET attempts = attempts + 1
   WHERE group_name = $1 AND message = ANY($2::uuid[]) RETURNING message, attempts),
a AS (
  INSERT INTO {schema}.attempts AS t
  SELECT $1, m, 1, statement_timestamp()
    FROM (SELECT DISTINCT m FROM unnest($2::uuid[]) m ORDER BY m) u
   WHERE NOT EXISTS (SELECT 1 FROM {schema}.parked x WHERE x.group_name = $1 AND x.message = m)
  ON CONFLICT (group_name, message) DO UPDATE SET attempts = t.attempts + 1, at = excluded.at
  RETURNING message, attempts)
SELECT * FROM p UNION ALL SELECT * FROM a"""

_UNCOUNT = """
WITH p AS (
  UPDATE {schema}.parked SET attempts = attempts - 1
   WHERE attempts > 0 AND group_name = $1 AND message = ANY($2::uuid[]))
UPDATE {schema}.attempts SET attempts = attempts - 1
 WHERE attempts > 0 AND group_name = $1 AND message = ANY($2::uuid[])"""


class PostgresInbox:
    """Who receives a message waits while another transaction receives it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def receive(
        self, messages: Sequence[Message], *, keys: Sequence[str], group: str
    ) -> Received:
        """Record identities; what is new, and which keys are held."""
        await only_read_committed(self._session, "inbox.receive")
        rows = await self._session.fetch(
            *self._question(_RECEIVE, messages, keys, group), where="inbox.receive"
        )
        self._session.wrote = True
        if rows[0]["fresh"]:  # else nothing was written yet
            self._session.testify(rows[0])
        return _received(rows[0])

    async def look(
        self, messages: Sequence[Message], *, keys: Sequence[str], group: str
    ) -> Received:
        """The answer of `receive`, without its rows."""
        rows = await self._session.look(
            *self._question(_LOOK, messages, keys, group), where="inbox.look"
        )
        return _received(rows[0])

    async def forget(self, messages: Sequence[Message], *, group: str) -> None:
        """Delete the rows."""
        identities, days = identities_and_days(messages)
        sql = _FORGET.format(schema=self._session.schema)
        await self._session.execute(sql, group, identities, days, where="inbox.forget")

    async def attempts(self, messages: Sequence[Message], *, group: str) -> Mapping[UUID, int]:
        """The attempts that stand in either table."""
        identities, _ = identities_and_days(messages)
        sql = _ATTEMPTS.format(schema=self._session.schema)
        rows = await self._session.look(sql, group, identities, where="inbox.attempts")
        return {row["message"]: row["attempts"] for row in rows}

    async def count(self, messages: Sequence[Message], *, group: str) -> Mapping[UUID, int]:
        """One more attempt for each, and the total."""
        identities, _ = identities_and_days(messages)
        sql = _COUNT.format(schema=self._session.schema)
        rows = await self._session.fetch(sql, group, identities, where="inbox.count")
        return {row["message"]: row["attempts"] for row in rows}

    async def uncount(self, messages: Sequence[Message], *, group: str) -> None:
        """One attempt less, where it stands."""
        identities, _ = identities_and_days(messages)
        sql = _UNCOUNT.format(schema=self._session.schema)
        await self._session.execute(sql, group, identities, where="inbox.uncount")

    def _question(
        self, statement: str, messages: Sequence[Message], keys: Sequence[str], group: str
    ) -> tuple[Any, ...]:
        identities, days = identities_and_days(messages)
        sql = statement.format(schema=self._session.schema, witness=WITNESS)
        return sql, group, identities, days, sorted(set(keys))


def _received(row: Any) -> Received:
    # asyncpg has a UUID class of its own; equal and of equal hash to the standard one
    return Received(new=frozenset(row["fresh"] or ()), held=frozenset(row["held"] or ()))
