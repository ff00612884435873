"""The schema of a storage, step by step, whichever store it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import click

from eventbus.cli.flags import Settings
from eventbus.cli.storages import operators_storage

if TYPE_CHECKING:
    from eventbus.postgres import PostgresStorage
    from eventbus.sqlite import SqliteStorage

_WAIT_SECONDS = 5.0  # for a writer of the bus


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One migration, and whether this database has it."""

    number: int
    name: str
    kind: str
    applied: bool


class Schema(Protocol):
    """What `eventbus db` asks of a store; nothing is changed but by `upgrade`."""

    async def steps(self) -> Sequence[Step]:
        """All steps of this version; a database without a schema has none of them.

        Raises:
            MigrationError: its history is not ours.
            StorageError: it cannot be read.
        """
        ...

    def script(self, pending: Sequence[Step]) -> str:
        """The SQL of these steps."""
        ...

    async def upgrade(self) -> None:
        """Apply what is pending."""
        ...

    async def begin_incarnation(self, actor: str) -> int:
        """Another database from here on; how many checkpoints must be accepted first."""
        ...


def schema_of(settings: Settings) -> Schema:
    """Of the operators' storage.

    Raises:
        UsageError: it has none that this version knows.
    """
    from eventbus.sqlite import SqliteStorage

    storage = operators_storage(settings)
    if isinstance(storage, SqliteStorage):
        return SqliteSchema(storage)
    from eventbus.postgres import PostgresStorage

    if isinstance(storage, PostgresStorage):
        return PostgresSchema(storage)
    raise click.UsageError("this version upgrades SQLite and PostgreSQL")


class SqliteSchema:
    """Of a file, which is made by `upgrade` and by nothing else here."""

    def __init__(self, storage: "SqliteStorage") -> None:
        self._path = str(storage.path)

    async def steps(self) -> Sequence[Step]:
        """Read from the file."""
        from eventbus.sqlite.upgrade import migrations

        missing = self._missing()
        return [
            Step(number=one.number, name=one.name, kind=one.kind, applied=one.number not in missing)
            for one in migrations()
        ]

    def script(self, pending: Sequence[Step]) -> str:
        """The files."""
        from eventbus.sqlite.upgrade import migrations

        wanted = {step.number for step in pending}
        return "\n".join(one.text for one in migrations() if one.number in wanted)

    async def upgrade(self) -> None:
        """As the bus does on entering."""
        from eventbus.sqlite import SqliteStorage

        await SqliteStorage(self._path).upgrade()

    async def begin_incarnation(self, actor: str) -> int:
        """In a transaction of its own, beside a bus that may have the file."""
        import sqlite3
        from contextlib import closing

        from eventbus.sqlite.failures import translated
        from eventbus.sqlite.upgrade import begin_incarnation

        try:
            with closing(sqlite3.connect(self._path, timeout=_WAIT_SECONDS)) as connection:
                return begin_incarnation(connection, actor)
        except sqlite3.Error as error:
            raise translated(error, "a new incarnation") from error

    def _missing(self) -> set[int]:
        import sqlite3
        from contextlib import closing
        from pathlib import Path
        from urllib.parse import quote

        from eventbus.sqlite.failures import translated
        from eventbus.sqlite.upgrade import migrations, pending

        if not Path(self._path).exists():
            return {one.number for one in migrations()}
        try:
            uri = f"file:{quote(self._path)}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                return {one.number for one in pending(connection)}
        except sqlite3.Error as error:
            raise translated(error, "reading the schema") from error


class PostgresSchema:
    """A schema in a database that exists; the role needs CREATE on it, once."""

    def __init__(self, storage: "PostgresStorage") -> None:
        self._storage = storage

    async def steps(self) -> Sequence[Step]:
        """Read on a connection of its own: entering would refuse a schema that is not current."""
        from eventbus.postgres.upgrade import migrations, pending

        config = self._storage.config
        pools = self._storage.pools
        try:
            async with pools.connecting() as connection:
                left = await pending(connection, config.schema, config.where)
        finally:
            await pools.close()
        missing = {one.number for one in left}
        return [
            Step(number=one.number, name=one.name, kind=one.kind, applied=one.number not in missing)
            for one in migrations()
        ]

    def script(self, pending: Sequence[Step]) -> str:
        """For `psql -1`, by a role that may: each file with its record in `migrations`."""
        from eventbus.postgres.upgrade import migrations, part, script

        schema = self._storage.config.schema
        wanted = {step.number for step in pending}
        if wanted == {one.number for one in migrations()}:
            return script(schema)  # with the schema itself
        return "".join(f"{part(schema, one)}\n" for one in migrations() if one.number in wanted)

    async def upgrade(self) -> None:
        """One transaction per file, under a lock: two at once wait for each other."""
        await self._storage.upgrade()

    async def begin_incarnation(self, actor: str) -> int:
        """One statement, and its audit row with it."""
        from eventbus.postgres.upgrade import begin_incarnation

        config, pools = self._storage.config, self._storage.pools
        try:
            async with pools.connecting() as connection:
                return await begin_incarnation(connection, config.schema, config.where, actor)
        finally:
            await pools.close()
