"""What a thief, or a backup, has of the database."""

import sqlite3
from pathlib import Path
from typing import Protocol

import asyncpg


class Inside(Protocol):
    """The database, past the bus."""

    async def dump(self) -> str:
        """Everything in it."""
        ...

    async def bring_back(self, wrapped: bytes) -> None:
        """As a restored backup does: the key of every forgotten subject."""
        ...


class OfFile:
    """Of the bytes: freed pages and the log count."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def dump(self) -> str:
        files = [self._path, self._path.with_name(f"{self._path.name}-wal")]
        return "".join(each.read_bytes().decode("latin-1") for each in files if each.exists())

    async def bring_back(self, wrapped: bytes) -> None:
        connection = sqlite3.connect(self._path)
        with connection:
            connection.execute(
                "UPDATE eventbus_subject_keys SET wrapped_key = ?, shredded_at = NULL"
                " WHERE shredded_at IS NOT NULL",
                (wrapped,),
            )
        connection.close()


class OfSchema:
    """Of every row of every table."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn, self._schema = dsn, schema

    async def dump(self) -> str:
        connection = await asyncpg.connect(self._dsn)
        try:
            tables = await connection.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = $1", self._schema
            )
            found: list[str] = []
            for (table,) in tables:
                rows = await connection.fetch(f'SELECT * FROM {self._schema}."{table}"')
                found += [_text(value) for row in rows for value in row.values()]
            return "\n".join(found)
        finally:
            await connection.close()

    async def bring_back(self, wrapped: bytes) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(
                f"UPDATE {self._schema}.subject_keys SET wrapped_key = $1, shredded_at = NULL"
                " WHERE shredded_at IS NOT NULL",
                wrapped,
            )
        finally:
            await connection.close()


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
