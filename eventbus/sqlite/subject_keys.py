"""The keys of personal data: one row per subject, which outlives its key."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import orjson

from eventbus.sealing import BOX, Subject
from eventbus.sqlite.audit import AUDIT
from eventbus.sqlite.rows import Row
from eventbus.sqlite.session import Session
from eventbus.storage.subject_keys import Shredded, SubjectKey, rewrapped_through

_COLUMNS = "tenant, subject, key_id, wrapped_key"
_FIND = f"SELECT {_COLUMNS} FROM eventbus_subject_keys WHERE key_id = ?"
_STANDING = f"SELECT {_COLUMNS} FROM eventbus_subject_keys WHERE tenant = ? AND subject = ?"
_ANY = f"SELECT {_COLUMNS} FROM eventbus_subject_keys WHERE wrapped_key IS NOT NULL LIMIT 1"
# No id is the first one: a subject may be named by an empty text.
_LISTED = f"""
SELECT {_COLUMNS} FROM eventbus_subject_keys
 WHERE wrapped_key IS NOT NULL AND (tenant, subject) >= (?, ?) AND key_id <> ?
 ORDER BY tenant, subject LIMIT ?"""
_ADD = f"""
INSERT INTO eventbus_subject_keys ({_COLUMNS}, created_at) VALUES (?, ?, ?, ?, eventbus_now())
ON CONFLICT DO NOTHING"""
_REWRAP = """
UPDATE eventbus_subject_keys SET wrapped_key = ? WHERE key_id = ? AND wrapped_key = ?"""
_SHRED = """
INSERT INTO eventbus_subject_keys AS k (tenant, subject, key_id, created_at, shredded_at)
VALUES (?, ?, ?, eventbus_now(), eventbus_now())
ON CONFLICT (tenant, subject) DO UPDATE SET wrapped_key = NULL, shredded_at = eventbus_now()
 WHERE k.shredded_at IS NULL"""
_STANDS = """
SELECT key_id, shredded_at FROM eventbus_subject_keys WHERE tenant = ? AND subject = ?"""
# What was sealed as a whole says in its head with which keys. A scan: forgetting is rare.
_SNAPSHOTS = """
DELETE FROM eventbus_snapshots WHERE substr(state, 1, length(?1)) = ?1 AND instr(state, ?2) > 0"""
_SHREDDED = """
SELECT tenant, subject, shredded_at FROM eventbus_subject_keys
 WHERE shredded_at IS NOT NULL AND (tenant, subject) > (?, ?) ORDER BY tenant, subject LIMIT ?"""


class SqliteSubjectKeys:
    """One row per subject."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made: set[bytes] = set()  # by this transaction

    async def find(self, ids: Collection[bytes]) -> Sequence[SubjectKey]:
        """Those of these ids."""
        return await self._looked("find", _FIND, [(each,) for each in ids])

    async def standing(self, subjects: Collection[Subject]) -> Sequence[SubjectKey]:
        """Those of these subjects."""
        return await self._looked("standing", _STANDING, subjects)

    async def any(self) -> SubjectKey | None:
        """One that is not shredded."""
        return next(iter(await self._looked("any", _ANY, [()])), None)

    async def listed(
        self, *, after: SubjectKey | None = None, limit: int = 1000
    ) -> Sequence[SubjectKey]:
        """Those that are not shredded, in their order."""
        subject, key_id = (after.subject, after.id) if after else (("", ""), b"")
        return await self._looked("listed", _LISTED, [(*subject, key_id, limit)])

    async def add(self, keys: Sequence[SubjectKey]) -> Sequence[SubjectKey]:
        """Keep those whose subject has none; what stands now."""
        self._made.update(key.id for key in keys)

        def add(connection: sqlite3.Connection) -> list[SubjectKey]:
            rows = [(*key.subject, key.id, key.wrapped) for key in keys]
            connection.executemany(_ADD, rows)
            return self._keys(connection, _STANDING, [key.subject for key in keys])

        return await self._session.run("subject_keys.add", add)

    async def rewrap(
        self, keys: Sequence[tuple[SubjectKey, bytes]], *, actor: str, reason: str = ""
    ) -> int:
        """Replace the wrapped form of those that are as they were read."""

        def rewrap(connection: sqlite3.Connection) -> int:
            rows = [(anew, key.id, key.wrapped) for key, anew in keys]
            with _overwriting(connection):
                changed = connection.executemany(_REWRAP, rows).rowcount
            if changed > 0:
                selection = rewrapped_through(keys)
                connection.execute(AUDIT, ("rewrap", selection, changed, actor, reason))
            return max(changed, 0)

        return await self._session.run("subject_keys.rewrap", rewrap)

    async def shred(self, subject: Subject, *, actor: str, reason: str = "") -> Shredded:
        """Destroy the key, and the snapshots that it was part of."""

        def shred(connection: sqlite3.Connection) -> Shredded:
            values = (*subject, os.urandom(16))
            with _overwriting(connection):
                new = connection.execute(_SHRED, values).rowcount == 1
                key_id, at = connection.execute(_STANDS, subject).fetchone()
                snapshots = 0
                if new:
                    snapshots = connection.execute(_SNAPSHOTS, (BOX, key_id)).rowcount
                    what = {"tenant": subject.tenant, "subject": subject.name}
                    selection = orjson.dumps(what).decode()
                    connection.execute(AUDIT, ("forget", selection, 1 + snapshots, actor, reason))
            return Shredded(subject=subject, at=_moment(at), new=new, snapshots=snapshots)

        return await self._session.run("subject_keys.shred", shred)

    async def shredded(
        self, *, after: Subject | None = None, limit: int = 1000
    ) -> Sequence[Shredded]:
        """Who is forgotten."""

        def shredded(connection: sqlite3.Connection) -> list[Shredded]:
            values = (*(after or ("", "")), limit)
            return [
                Shredded(subject=Subject(tenant, name), at=_moment(at), new=False, snapshots=0)
                for tenant, name, at in connection.execute(_SHREDDED, values)
            ]

        return await self._session.run("subject_keys.shredded", shredded)

    async def _looked(
        self, where: str, statement: str, values: Collection[Row]
    ) -> Sequence[SubjectKey]:
        def look(connection: sqlite3.Connection) -> list[SubjectKey]:
            return self._keys(connection, statement, values)

        return await self._session.run(f"subject_keys.{where}", look)

    def _keys(
        self, connection: sqlite3.Connection, statement: str, values: Iterable[Row]
    ) -> list[SubjectKey]:
        return [
            SubjectKey(
                subject=Subject(tenant, name),
                id=key_id,
                wrapped=wrapped,
                kept=key_id not in self._made,
            )
            for each in values
            for tenant, name, key_id, wrapped in connection.execute(statement, each)
        ]


@contextmanager
def _overwriting(connection: sqlite3.Connection) -> Iterator[None]:
    """What is replaced and deleted inside is not left in free pages."""
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    try:
        yield
    finally:
        connection.execute("PRAGMA secure_delete = OFF").fetchall()


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
