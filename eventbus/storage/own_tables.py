"""Tables that a projection of the general form makes and writes by itself, in a rebuild."""

from collections.abc import Sequence
from typing import Protocol

from eventbus.storage.projections import Table


class OwnTables(Protocol):
    """What a rebuild does to tables whose columns the framework did not declare."""

    async def keep(self, name: str, version: int, tables: Sequence[str]) -> None:
        """These are tables of a version: it is switched and dropped with them."""
        ...

    async def described(self, table: str) -> Table | None:
        """Its columns and its primary key, without their types; None: there is no such table.

        The key is empty where the table has none.
        """
        ...

    async def imitate(self, tables: Sequence[str], version: int) -> None:
        """Make an empty table like each of these, with its indexes, beside it.

        Raises:
            StorageError: EB6003, a table of that name stands there.
        """
        ...

    async def watch(self, tables: Sequence[str]) -> None:
        """See from here on, in this transaction, which of these are written to."""
        ...

    async def touched(self) -> Sequence[str]:
        """Which of those that are watched were written to; they are watched no more."""
        ...

    async def analyze(self, tables: Sequence[str]) -> None:
        """Let the planner look at them."""
        ...
