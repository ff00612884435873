"""Where a projection lives while it is killed: a filled database, copied for each point."""

import asyncio
import shutil
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.sqlite import SqliteStorage


class Places(Protocol):
    """Copies of one filled database."""

    @property
    def template(self) -> str:
        """What is filled, once."""
        ...

    def fresh(self, point: int) -> str:
        """A copy for this point."""
        ...

    def gone(self, place: str) -> None:
        """It was judged."""
        ...


class Files:
    """SQLite: a file is a place."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.template = str(directory / "template.db")

    def fresh(self, point: int) -> str:
        path = self._directory / f"{point}.db"
        for name in ("", "-wal"):
            if (there := Path(f"{self.template}{name}")).exists():
                shutil.copy(there, f"{path}{name}")
        return str(path)

    def gone(self, place: str) -> None:
        """The directory of the test goes by itself."""


class Databases:
    """PostgreSQL: a database is a place, made from the one at `url`, which nobody else uses."""

    def __init__(self, url: str) -> None:
        self.template = url

    def fresh(self, point: int) -> str:
        name = f"{_name(self.template)}_{point}"
        self._server(f'CREATE DATABASE "{name}" TEMPLATE "{_name(self.template)}"')
        return urlunsplit(urlsplit(self.template)._replace(path=f"/{name}"))

    def gone(self, place: str) -> None:
        self._server(f'DROP DATABASE "{_name(place)}" WITH (FORCE)')

    def _server(self, statement: str) -> None:
        server = urlunsplit(urlsplit(self.template)._replace(path="/postgres"))

        async def execute() -> None:
            async with asyncio.timeout(30):
                connection = await asyncpg.connect(server)
                try:
                    await connection.execute(statement)
                finally:
                    await connection.close()

        asyncio.run(execute())


def places(where: str, directory: Path) -> Places:
    """By a URL of a database, or `sqlite`."""
    return Files(directory) if where == "sqlite" else Databases(where)


def storage_at(place: str) -> SqliteStorage | PostgresStorage:
    """What a bus opens there."""
    if "://" in place:
        return PostgresStorage(PostgresConfig(dsn=place))
    return SqliteStorage(place)


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")
