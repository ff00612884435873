"""SQL of the user in this transaction; the savepoint goes out with the first statement."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eventbus.postgres.session import Session

_WHERE = "a statement of the application"


class PostgresSql:
    """Placeholders are the server's own; `Decimal`, `UUID`, dates and times go in and come out."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def execute(self, statement: str, *args: object) -> int:
        """Run one statement; how many rows it changed."""
        tag = await self._session.execute(statement, *args, where=_WHERE)
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def execute_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row, in one batch of messages."""
        await self._session.execute_many(statement, list(rows), where=_WHERE)

    async def fetch(self, statement: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """All rows, each by column name."""
        return await self._session.fetch(statement, *args, where=_WHERE)
