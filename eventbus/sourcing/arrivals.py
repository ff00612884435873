"""How far rows are that this process writes: who waits for them need not poll."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from eventbus.storage.events import Position


class Arrivals:
    """Told by who follows, heard by who waits; the database is the truth, this is the hint."""

    def __init__(self) -> None:
        self._expected: dict[asyncio.Event, tuple[str, Position]] = {}

    @contextmanager
    def expected(self, name: str, position: Position) -> Iterator[asyncio.Event]:
        """Is set, inside the block, whenever a projection is told to be as far as this or farther.

        Enter it before you look into the database: then nothing comes between.
        """
        here = asyncio.Event()
        self._expected[here] = name, position
        try:
            yield here
        finally:
            del self._expected[here]

    def tell(self, name: str, position: Position) -> None:
        """The rows of a projection, all of whose shards are held here, are up to this position."""
        for here, (wanted, at) in self._expected.items():
            if wanted == name and at <= position:
                here.set()
