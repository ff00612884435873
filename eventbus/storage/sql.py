"""SQL of the user, portable between stores."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol


class Sql(Protocol):
    """The user's statements in this transaction; placeholders are `$1`, `$2` on every store.

    The message's savepoint is opened with the first statement (B6). `Decimal`, `UUID`, `date` and
    `datetime` go in and come out as
    such on PostgreSQL; SQLite keeps their text: ISO 8601, aware times in UTC. SQLite adds decimals
    as floats: never let it.
    """

    async def execute(self, statement: str, *args: object) -> int:
        """Run one statement; how many rows it changed."""
        ...

    async def execute_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row."""
        ...

    async def fetch(self, statement: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """All rows of a query, each by column name."""
        ...
