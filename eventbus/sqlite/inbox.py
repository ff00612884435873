"""The inbox (S4): one row per group and message, written with the effects."""

import sqlite3
from collections.abc import Mapping, Sequence
from uuid import UUID

from eventbus.message import Message
from eventbus.sqlite.rows import json_list, json_rows
from eventbus.sqlite.session import Session
from eventbus.storage.inbox import Received

# RETURNING through executemany is lost, so the ids go in as JSON: one statement for the batch
_RECEIVE = """
INSERT INTO eventbus_inbox (group_name, message, seen)
SELECT ?, value, eventbus_now() FROM json_each(?) WHERE true
ON CONFLICT DO NOTHING RETURNING message"""
_LOOK = """
SELECT json_group_array(message) FROM eventbus_inbox
 WHERE group_name = ? AND message IN (SELECT value FROM json_each(?))"""
_HELD = """
SELECT json_group_array(key) FROM eventbus_parked_keys
 WHERE group_name = ? AND key IN (SELECT value FROM json_each(?))"""
_FORGET = """
DELETE FROM eventbus_inbox
 WHERE group_name = ? AND message IN (SELECT value FROM json_each(?))"""
_ATTEMPTS = """
SELECT message, attempts FROM eventbus_attempts
 WHERE group_name = ? AND message IN (SELECT value FROM json_each(?))
UNION ALL
SELECT message, attempts FROM eventbus_parked
 WHERE group_name = ? AND message IN (SELECT value FROM json_each(?))"""
_COUNT_PARKED = """
UPDATE eventbus_parked SET attempts = attempts + 1
 WHERE group_name = ? AND message IN (SELECT value FROM json_each(?))
RETURNING message, attempts"""
_COUNT = """
INSERT INTO eventbus_attempts (group_name, message, attempts, at)
SELECT ?, value, 1, eventbus_now() FROM json_each(?) WHERE true
ON CONFLICT DO UPDATE SET attempts = attempts + 1, at = excluded.at
RETURNING message, attempts"""


_UNCOUNT = (
    """
UPDATE eventbus_parked SET attempts = attempts - 1
 WHERE attempts > 0 AND group_name = ? AND message IN (SELECT value FROM json_each(?))""",
    """
UPDATE eventbus_attempts SET attempts = attempts - 1
 WHERE attempts > 0 AND group_name = ? AND message IN (SELECT value FROM json_each(?))""",
)


class SqliteInbox:
    """One writer: who receives is alone until its transaction ends."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def receive(
        self, messages: Sequence[Message], *, keys: Sequence[str], group: str
    ) -> Received:
        """Record identities; what is new, and which keys are held."""
        identities = _by_text(messages)
        asked = json_list(identities)
        queues = json_list(set(keys))

        def receive(connection: sqlite3.Connection) -> Received:
            rows = connection.execute(_RECEIVE, (group, asked)).fetchall()
            new = frozenset([identities[row[0]] for row in rows])
            if rows:
                self._session.witness = (_LOOK_ONE, (group, rows[0][0]))
            return Received(new=new, held=_held(connection, group, queues))

        return await self._session.run("inbox.receive", receive)

    async def look(
        self, messages: Sequence[Message], *, keys: Sequence[str], group: str
    ) -> Received:
        """The answer of `receive`, without its rows."""
        identities = _by_text(messages)
        asked = json_list(identities)
        queues = json_list(set(keys))

        def look(connection: sqlite3.Connection) -> Received:
            known = json_rows(connection.execute(_LOOK, (group, asked)).fetchone()[0])
            new = frozenset(identities[text] for text in identities.keys() - set(known))
            return Received(new=new, held=_held(connection, group, queues))

        return await self._session.run("inbox.look", look)

    async def forget(self, messages: Sequence[Message], *, group: str) -> None:
        """Delete the rows."""
        asked = json_list(_by_text(messages))

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute(_FORGET, (group, asked))

        await self._session.run("inbox.forget", forget)

    async def attempts(self, messages: Sequence[Message], *, group: str) -> Mapping[UUID, int]:
        """The attempts that stand in either table."""
        identities = _by_text(messages)
        asked = json_list(identities)

        def attempts(connection: sqlite3.Connection) -> dict[UUID, int]:
            rows = connection.execute(_ATTEMPTS, (group, asked, group, asked))
            return {identities[text]: number for text, number in rows}

        return await self._session.run("inbox.attempts", attempts)

    async def count(self, messages: Sequence[Message], *, group: str) -> Mapping[UUID, int]:
        """One more attempt: of a parked message in its own row, of any other apart."""
        identities = _by_text(messages)
        asked = json_list(identities)

        def count(connection: sqlite3.Connection) -> dict[UUID, int]:
            counts = dict(connection.execute(_COUNT_PARKED, (group, asked)).fetchall())
            others = [text for text in identities if text not in counts]
            if others:
                counts |= dict(connection.execute(_COUNT, (group, json_list(others))).fetchall())
            return {identities[text]: attempts for text, attempts in counts.items()}

        return await self._session.run("inbox.count", count)

    async def uncount(self, messages: Sequence[Message], *, group: str) -> None:
        """One attempt less, where it stands."""
        asked = json_list(_by_text(messages))

        def uncount(connection: sqlite3.Connection) -> None:
            for statement in _UNCOUNT:
                connection.execute(statement, (group, asked))

        await self._session.run("inbox.uncount", uncount)


_LOOK_ONE = "SELECT 1 FROM eventbus_inbox WHERE group_name = ? AND message = ?"


def _by_text(messages: Sequence[Message]) -> dict[str, UUID]:
    return {str(message.identity): message.identity for message in messages}


def _held(connection: sqlite3.Connection, group: str, keys: str) -> frozenset[str]:
    return frozenset(json_rows(connection.execute(_HELD, (group, keys)).fetchone()[0]))
