"""Types of our schema, looked up once for all connections: the driver does it on each."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import asyncpg

Looked = tuple[Any, Any]  # rows of the driver's question, and its statement

_BUILT_IN = "pg_catalog"


class KnownTypes:
    """What the driver was told of types that stay as they are: those of our schema.

    The question takes the server 7 ms, and each connection has three statements that ask it.
    """

    def __init__(self, schema: str) -> None:
        self._schemas = {schema, _BUILT_IN}
        self._known: dict[frozenset[int], Looked] = {}

    async def look(
        self,
        ids: Collection[int],
        asked: set[frozenset[int]],
        ask: Callable[[], Awaitable[Looked]],
    ) -> Looked:
        """As another connection was told; an application's types are asked for each time.

        `asked`: what this connection asked for. Who asks again was told wrong, or has forgotten
        all because something changed.
        """
        key = frozenset(ids)
        known = None if key in asked else self._known.get(key)
        asked.add(key)
        if known is not None:
            return known
        looked = await ask()
        if all(row["ns"] in self._schemas for row in looked[0]):
            self._known[key] = looked
        return looked


def connection_class(types: KnownTypes) -> type[Any]:
    """The driver's connection, which asks `types` first.

    It overrides a method that the driver keeps to itself: under another name there it is never
    called, and each connection looks its types up again.
    """

    class TypedConnection(asyncpg.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._asked: set[frozenset[int]] = set()

        async def _introspect_types(self, typeoids: Any, *patience: Any) -> Looked:
            driver: Any = super()
            return await types.look(
                typeoids, self._asked, lambda: driver._introspect_types(typeoids, *patience)
            )

    return TypedConnection
