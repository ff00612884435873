"""The keys of personal data: one row per subject, which outlives its key."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import orjson

from eventbus.postgres.audit import AUDIT
from eventbus.postgres.session import Session
from eventbus.sealing import BOX, Subject
from eventbus.storage.subject_keys import Shredded, SubjectKey, rewrapped_through

_COLUMNS = "tenant, subject, key_id, wrapped_key"
_FIND = f"SELECT {_COLUMNS} FROM {{schema}}.subject_keys WHERE key_id = ANY($1::uuid[])"
_STANDING = f"""
SELECT {_COLUMNS} FROM {{schema}}.subject_keys JOIN unnest($1::text[], $2::text[]) u(t, s)
    ON tenant = u.t AND subject = u.s"""
_ANY = f"""
SELECT {_COLUMNS} FROM {{schema}}.subject_keys WHERE wrapped_key IS NOT NULL LIMIT 1"""
# No id is the first one: a subject may be named by an empty text.
_LISTED = f"""
SELECT {_COLUMNS} FROM {{schema}}.subject_keys
 WHERE wrapped_key IS NOT NULL AND (tenant, subject) >= ($1, $2) AND key_id <> $3
 ORDER BY tenant, subject LIMIT $4"""
# In one order, or two that add the same subjects would wait for each other. DO NOTHING would not
# show a row that another transaction committed meanwhile; this waits for it, and shows it.
_ADD = f"""
INSERT INTO {{schema}}.subject_keys AS k ({_COLUMNS})
SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[]) ORDER BY 1, 2
ON CONFLICT (tenant, subject) DO UPDATE SET tenant = k.tenant
RETURNING {_COLUMNS}"""
_LOCK = """
SELECT key_id, shredded_at FROM {schema}.subject_keys WHERE tenant = $1 AND subject = $2
   FOR UPDATE"""
# Locked in the order of _ADD; what was shredded or rewrapped while this waited does not match.
_REWRAP = """
WITH held AS (
  SELECT k.key_id, u.anew FROM {schema}.subject_keys k
    JOIN unnest($1::uuid[], $2::bytea[], $3::bytea[]) u(id, before, anew)
      ON k.key_id = u.id AND k.wrapped_key = u.before
   ORDER BY k.tenant, k.subject FOR UPDATE OF k)
UPDATE {schema}.subject_keys k SET wrapped_key = held.anew FROM held WHERE k.key_id = held.key_id"""
_SHRED = """
INSERT INTO {schema}.subject_keys AS k (tenant, subject, key_id, shredded_at)
VALUES ($1, $2, gen_random_uuid(), statement_timestamp())
ON CONFLICT (tenant, subject) DO UPDATE SET wrapped_key = NULL, shredded_at = statement_timestamp()
 WHERE k.shredded_at IS NULL
RETURNING key_id, shredded_at"""
# What was sealed as a whole says in its head with which keys. A scan: forgetting is rare.
_SNAPSHOTS = """
DELETE FROM {schema}.snapshots
 WHERE substring(data FOR length($1::bytea)) = $1
   AND position(uuid_send($2) IN data) > 0"""
_SHREDDED = """
SELECT tenant, subject, shredded_at FROM {schema}.subject_keys
 WHERE shredded_at IS NOT NULL AND (tenant, subject) > ($1, $2) ORDER BY tenant, subject LIMIT $3"""


class PostgresSubjectKeys:
    """One row per subject."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made: set[bytes] = set()  # by this transaction

    async def find(self, ids: Collection[bytes]) -> Sequence[SubjectKey]:
        """Those of these ids."""
        wanted = [UUID(bytes=each) for each in ids]
        return self._keys(await self._look(_FIND, wanted, where="find"))

    async def standing(self, subjects: Collection[Subject]) -> Sequence[SubjectKey]:
        """Those of these subjects."""
        columns = [each.tenant for each in subjects], [each.name for each in subjects]
        return self._keys(await self._look(_STANDING, *columns, where="standing"))

    async def any(self) -> SubjectKey | None:
        """One that is not shredded."""
        return next(iter(self._keys(await self._look(_ANY, where="any"))), None)

    async def listed(
        self, *, after: SubjectKey | None = None, limit: int = 1000
    ) -> Sequence[SubjectKey]:
        """Those that are not shredded, in their order."""
        subject, key_id = (after.subject, after.id) if after else (("", ""), bytes(16))
        rows = await self._look(_LISTED, *subject, UUID(bytes=key_id), limit, where="listed")
        return self._keys(rows)

    async def add(self, keys: Sequence[SubjectKey]) -> Sequence[SubjectKey]:
        """Keep those whose subject has none; what stands now."""
        self._made.update(key.id for key in keys)
        self._session.wrote = True
        rows = await self._session.fetch(
            _ADD.format(schema=self._session.schema),
            [key.subject.tenant for key in keys],
            [key.subject.name for key in keys],
            [UUID(bytes=key.id) for key in keys],
            [key.wrapped for key in keys],
            where="subject_keys.add",
        )
        return self._keys(rows)

    async def rewrap(
        self, keys: Sequence[tuple[SubjectKey, bytes]], *, actor: str, reason: str = ""
    ) -> int:
        """Replace the wrapped form of those that are as they were read."""
        self._session.wrote = True
        tag = await self._session.execute(
            _REWRAP.format(schema=self._session.schema),
            [UUID(bytes=key.id) for key, _ in keys],
            [key.wrapped for key, _ in keys],
            [anew for _, anew in keys],
            where="subject_keys.rewrap",
        )
        changed = int(tag.rpartition(" ")[2])
        if changed:
            selection = rewrapped_through(keys)
            audit = ("rewrap", selection, changed, actor, reason)
            await self._run(AUDIT, *audit, where="rewrap")
        return changed

    async def shred(self, subject: Subject, *, actor: str, reason: str = "") -> Shredded:
        """Destroy the key, and the snapshots that it was part of."""
        self._session.wrote = True
        rows = await self._run(_SHRED, *subject)
        if not rows:
            (row,) = await self._run(_LOCK, *subject)
            return Shredded(subject=subject, at=row["shredded_at"], new=False, snapshots=0)
        key_id, at = rows[0]
        tag = await self._session.execute(
            _SNAPSHOTS.format(schema=self._session.schema), BOX, key_id, where="subject_keys.shred"
        )
        snapshots = int(tag.rpartition(" ")[2])
        selection = orjson.dumps({"tenant": subject.tenant, "subject": subject.name}).decode()
        await self._run(AUDIT, "forget", selection, 1 + snapshots, actor, reason)
        return Shredded(subject=subject, at=at, new=True, snapshots=snapshots)

    async def shredded(
        self, *, after: Subject | None = None, limit: int = 1000
    ) -> Sequence[Shredded]:
        """Who is forgotten."""
        tenant, name = after or ("", "")
        rows = await self._look(_SHREDDED, tenant, name, limit, where="shredded")
        return [
            Shredded(subject=Subject(row[0], row[1]), at=row[2], new=False, snapshots=0)
            for row in rows
        ]

    def _keys(self, rows: Sequence[Any]) -> list[SubjectKey]:
        """Of a caller's transaction nobody here knows what it made before."""
        borrowed = self._session.borrowed
        return [
            SubjectKey(
                subject=Subject(tenant, name),
                id=key_id.bytes,
                wrapped=wrapped,
                kept=not borrowed and key_id.bytes not in self._made,
            )
            for tenant, name, key_id, wrapped in rows
        ]

    async def _look(self, statement: str, *args: Any, where: str) -> list[Any]:
        sql = statement.format(schema=self._session.schema)
        return await self._session.look(sql, *args, where=f"subject_keys.{where}")

    async def _run(self, statement: str, *args: Any, where: str = "shred") -> list[Any]:
        sql = statement.format(schema=self._session.schema)
        return await self._session.fetch(sql, *args, where=f"subject_keys.{where}")
