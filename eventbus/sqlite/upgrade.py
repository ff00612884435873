"""Numbered files bring the schema to this code's version (S8); unknown history is refused."""

import sqlite3
from collections.abc import Iterator
from uuid import uuid4

from eventbus.errors import MigrationError
from eventbus.storage.migrations import Migration, migrations_of

_TABLE = """
CREATE TABLE IF NOT EXISTS eventbus_migrations (
  number INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL,
  applied_at INTEGER NOT NULL) STRICT"""
_RECORD = """
INSERT INTO eventbus_migrations (number, name, kind, digest, applied_at)
VALUES (?, ?, ?, ?, eventbus_now())"""
_BEGUN = """
INSERT INTO eventbus_audit (at, verb, selection, changed, actor, reason)
VALUES (unixepoch() * 1000, 'new-incarnation', ?, ?, ?, '')"""


def migrations() -> tuple[Migration, ...]:
    """All files of this version, in order."""
    return migrations_of("eventbus.sqlite")


def upgrade(connection: sqlite3.Connection) -> None:
    """Apply what is pending, all in one transaction.

    Raises:
        MigrationError: EB5301, a newer version has written the file; EB5302, its history is not
            ours. Nothing was changed.
    """
    if not pending(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_TABLE)
        for migration in pending(connection):
            for statement in statements(migration.text):
                connection.execute(statement)
            row = (migration.number, migration.name, migration.kind, migration.digest)
            connection.execute(_RECORD, row)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def begin_incarnation(connection: sqlite3.Connection, actor: str) -> int:
    """Say that this is another database now: restored, or copied; an audit row says who.

    Returns:
        How many checkpoints were saved before: each is refused until it is accepted.
    """
    incarnation = str(uuid4())
    with connection:
        (changed,) = connection.execute("SELECT count(*) FROM eventbus_checkpoints").fetchone()
        connection.execute("UPDATE eventbus_store_info SET incarnation = ?", (incarnation,))
        connection.execute(_BEGUN, (incarnation, changed, actor))
    return int(changed)


def pending(connection: sqlite3.Connection) -> tuple[Migration, ...]:
    """What is not applied yet.

    Raises:
        MigrationError: EB5301 or EB5302.
    """
    known = {migration.number: migration for migration in migrations()}
    applied = _applied(connection)
    newest = max(known)
    for number, digest in applied.items():
        if number > newest:
            raise MigrationError(
                "EB5301",
                f"the schema is at {number}, this version knows {newest}",
                where="eventbus_migrations",
                why="a newer version of eventbus has upgraded this file",
                next="install the version that wrote it: pip install --upgrade eventbus",
            )
        if number not in known or known[number].digest != digest:
            raise _unknown_history(number)
    return tuple(migration for number, migration in known.items() if number not in applied)


def require_current(connection: sqlite3.Connection) -> None:
    """For operators' processes, which never change the schema.

    Raises:
        MigrationError: EB5302, something is pending; EB5301, it is newer.
    """
    missing = pending(connection)
    if missing:
        raise MigrationError(
            "EB5302",
            f"the schema lacks {missing[0].number:04}_{missing[0].name}",
            where="eventbus_migrations",
            why="the file was written by an older version, or by no bus yet",
            next="eventbus db upgrade",
        )


def _applied(connection: sqlite3.Connection) -> dict[int, str]:
    there = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'eventbus_migrations'"
    ).fetchone()
    if there is None:
        return {}
    rows = connection.execute("SELECT number, digest FROM eventbus_migrations ORDER BY number")
    return dict(rows.fetchall())


def statements(text: str) -> Iterator[str]:
    """The statements of a file; `executescript` would commit first."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _unknown_history(number: int) -> MigrationError:
    return MigrationError(
        "EB5302",
        f"migration {number} of this file is unknown to this version",
        where="eventbus_migrations",
        why="it is missing here, or its text was changed after it was applied",
        next="install the version that wrote the file; history is never repaired",
    )
