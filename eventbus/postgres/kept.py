"""Connections that stay with who uses them: a pool's take and give cost as much as a statement."""

from collections.abc import Awaitable, Callable
from typing import Any

Connection = Any


class KeptConnections:
    """As many as are used at once, opened when needed, kept until the end.

    Args:
        connect: a new one.
        is_gone: nothing can be sent by it any more.
        cut: end it at once.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        is_gone: Callable[[Connection], bool],
        cut: Callable[[Connection], None],
    ) -> None:
        self._connect = connect
        self._is_gone = is_gone
        self._cut = cut
        self._free: list[Connection] = []
        self._open = True

    async def take(self) -> Connection:
        """One that nobody uses.

        Raises:
            StorageError: EB5001, a new one is needed and the server cannot be reached.
        """
        self._open = True
        while self._free:
            connection = self._free.pop()
            if not self._is_gone(connection):
                return connection
        return await self._connect()

    def give(self, connection: Connection, *, whole: bool) -> None:
        """It is not used any more; one that is not whole is ended."""
        if whole and self._open:
            self._free.append(connection)
        else:
            self._cut(connection)

    def close(self) -> None:
        """End all of them, those in use when they are given back."""
        self._open = False
        while self._free:
            self._cut(self._free.pop())
