"""SQL of the user in this transaction; the savepoint goes out with the first statement."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eventbus.postgres.session import Session

_WHERE = "a statement of the application"
_CHANGES = ("INSERT", "UPDATE", "DELETE", "MERGE", "COPY")


class PostgresSql:
    """Placeholders are the server's own; `Decimal`, `UUID`, dates and times go in and come out."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def execute(self, statement: str, *args: object) -> int:
        """Run one statement; how many rows it changed."""
        connection = await self._session.raw()
        tag: str = await self._session.run(
            connection.execute, statement, *args, where=_WHERE, ours=False
        )
        return int(tag.rpartition(" ")[2]) if tag.startswith(_CHANGES) else 0

    async def execute_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row, in one batch of messages."""
        connection = await self._session.raw()
        await self._session.run(connection.executemany, statement, rows, where=_WHERE, ours=False)

    async def fetch(self, statement: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """All rows, each by column name."""
        connection = await self._session.raw()
        rows: Sequence[Mapping[str, Any]] = await self._session.run(
            connection.fetch, statement, *args, where=_WHERE, ours=False
        )
        return rows
