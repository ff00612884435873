"""Numbered files bring the schema to this code's version, under a lock (S8)."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

import logging

from eventbus.errors import MigrationError
from eventbus.postgres.config import PostgresConfig
from eventbus.postgres.failures import FAILURES, translated
from eventbus.postgres.pools import UPGRADE_SECONDS, Connection, is_gone
from eventbus.storage.migrations import Migration, migrations_of

log: logging.Logger = logging.getLogger("eventbus.postgres")

# Lock kind 4 (storage.md 2); 44 bits for the schema.
_LOCK = """
SELECT pg_advisory_xact_lock((73::bigint << 56) | (hashtextextended($1, 0) & 17592186044415))"""
_SCHEMA = "CREATE SCHEMA {schema}"
_NO_SCHEMA = "SELECT to_regnamespace($1) IS NULL"
_TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.migrations (
  number int PRIMARY KEY, name text NOT NULL, kind text NOT NULL, digest text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT statement_timestamp())"""
_RECORD = "INSERT INTO {schema}.migrations (number, name, kind, digest) VALUES ($1, $2, $3, $4)"
_THERE = "SELECT to_regclass($1) IS NOT NULL"
_BEGUN = """
WITH renewed AS (
  UPDATE {schema}.store_info SET incarnation = gen_random_uuid() RETURNING incarnation)
INSERT INTO {schema}.audit (verb, selection, changed, actor, reason)
SELECT 'new-incarnation', incarnation::text, (SELECT count(*) FROM {schema}.checkpoints), $1, ''
  FROM renewed RETURNING changed"""
# Leases of workers who use what a contract file takes away; an owner says its schema behind an @.
# What an operator paused is held for ever, by nobody.
_OLDER = """
SELECT name, owner FROM {schema}.leases
 WHERE until >= statement_timestamp() AND until < 'infinity'
   AND coalesce(substring(owner FROM '@([0-9]+)$')::numeric, 0) < {workers}
 ORDER BY name COLLATE "C" LIMIT 3"""
_REFUSE = """
DO $$ BEGIN IF EXISTS ({older}) THEN
  RAISE EXCEPTION '{name} waits: workers of an older version hold leases in {schema}.leases';
END IF; END $$;"""
_APPLIED = "SELECT number, digest FROM {schema}.migrations ORDER BY number"


def migrations() -> tuple[Migration, ...]:
    """All files of this version, in order."""
    return migrations_of("eventbus.postgres")


def script(schema: str) -> str:
    """What `eventbus db upgrade --sql` prints for a new schema: all files, each with its record."""
    parts = [f"CREATE SCHEMA IF NOT EXISTS {schema};", _TABLE.format(schema=schema) + ";"]
    return "\n".join([*parts, *(part(schema, one) for one in migrations())]) + "\n"


def part(schema: str, one: Migration) -> str:
    """One file of the script, with its record; a contract file fails beside older workers."""
    name = f"{one.number:04}_{one.name}"
    lines = [f"\n-- {name}"]
    if one.kind == "contract":
        older = _OLDER.format(schema=schema, workers=one.workers)
        lines.append(_REFUSE.format(older=older, name=name, schema=schema).strip())
    return "\n".join(
        [
            *lines,
            one.sql(schema).rstrip(),
            f"INSERT INTO {schema}.migrations (number, name, kind, digest)"
            f" VALUES ({one.number}, '{one.name}', '{one.kind}', '{one.digest}');",
        ]
    )


async def upgrade(connection: Connection, schema: str, where: str) -> list[str]:
    """Apply what is pending, one transaction per file; the names of those applied.

    Two upgrades at once wait for each other. Nothing is half done.

    Raises:
        MigrationError: EB5301, EB5302, as `pending`; EB5304, workers of an older version need what
            the next file takes away.
    """
    applied: list[str] = []
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{UPGRADE_SECONDS:.0f}s'")
                await connection.fetchval(_LOCK, schema)  # of another upgrade: its files take long
                await connection.execute("SET LOCAL lock_timeout = '2s'")
                if await connection.fetchval(_NO_SCHEMA, schema):
                    await connection.execute(_SCHEMA.format(schema=schema))
                await connection.execute(_TABLE.format(schema=schema))
                left = await pending(connection, schema, where)
                if not left:
                    return applied
                if left[0].kind == "contract":
                    await _require_no_older_worker(connection, schema, left[0], where)
                await _apply(connection, schema, left[0])
        except FAILURES as error:
            # a rollback that fails on a dead connection would hide why it is dead (X11)
            gone = is_gone(connection)
            raise translated(error, f"upgrade of {schema}, {where}", cut=gone) from error
        applied.append(f"{left[0].number:04}_{left[0].name}")
        log.info("applied %s to %s", applied[-1], where)


async def begin_incarnation(connection: Connection, schema: str, where: str, actor: str) -> int:
    """Say that this is another database now: restored, or copied; an audit row says who.

    Returns:
        How many checkpoints were saved before: each is refused until it is accepted.
    """
    try:
        changed = await connection.fetchval(_BEGUN.format(schema=schema), actor)
    except FAILURES as error:
        raise translated(error, f"new incarnation of {schema}, {where}") from error
    return int(changed)


async def pending(connection: Connection, schema: str, where: str) -> list[Migration]:
    """What is not applied yet.

    Raises:
        MigrationError: EB5301, the schema is newer; EB5302, its history is not ours.
    """
    known = {migration.number: migration for migration in migrations()}
    applied: dict[int, str] = {}
    if await connection.fetchval(_THERE, f"{schema}.migrations"):
        rows = await connection.fetch(_APPLIED.format(schema=schema))
        applied = {row["number"]: row["digest"] for row in rows}
    for number, digest in applied.items():
        if number > max(known):
            raise _newer(number, max(known), schema, where)
        if number not in known or known[number].digest != digest:
            raise _unknown(number, schema, where)
    return [migration for number, migration in known.items() if number not in applied]


async def require_current(connection: Connection, config: PostgresConfig) -> None:
    """Entering a bus checks, and names the command.

    Raises:
        MigrationError: EB5302, something is pending; EB5301, the schema is newer.
    """
    try:
        left = await pending(connection, config.schema, config.where)
    except FAILURES as error:
        raise translated(error, f"schema check, {config.where}") from error
    if left:
        raise MigrationError(
            "EB5302",
            f"the schema {config.schema!r} lacks {left[0].number:04}_{left[0].name}",
            where=config.where,
            why="it was made by an older version, or not made yet",
            next=f"eventbus db upgrade --storage {config.url}",
        )


async def _require_no_older_worker(
    connection: Connection, schema: str, migration: Migration, where: str
) -> None:
    older = _OLDER.format(schema=schema, workers=migration.workers)
    held = [f"{row['name']} by {row['owner']}" for row in await connection.fetch(older)]
    if held:
        raise MigrationError(
            "EB5304",
            f"{migration.number:04}_{migration.name} waits for workers of an older version",
            where=f"schema {schema!r}, {where}",
            why=f"it takes away what they use, and they hold leases: {', '.join(held)}",
            next="deploy this version everywhere, and repeat it when the last old worker is gone:"
            " its leases run out after 10 s",
        )


async def _apply(connection: Connection, schema: str, migration: Migration) -> None:
    await connection.execute(migration.sql(schema))
    await connection.execute(
        _RECORD.format(schema=schema),
        migration.number,
        migration.name,
        migration.kind,
        migration.digest,
    )


def _newer(number: int, newest: int, schema: str, where: str) -> MigrationError:
    return MigrationError(
        "EB5301",
        f"the schema {schema!r} is at {number}, this version knows {newest}",
        where=where,
        why="a newer version of eventbus has upgraded it",
        next="install that version: pip install --upgrade eventbus",
    )


def _unknown(number: int, schema: str, where: str) -> MigrationError:
    return MigrationError(
        "EB5302",
        f"migration {number} of {schema!r} is unknown to this version",
        where=where,
        why="it is missing here, or its text was changed after it was applied",
        next="install the version that wrote it; history is never repaired",
    )
