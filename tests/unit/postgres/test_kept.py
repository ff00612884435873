"""Connections that stay with who uses them."""

import pytest

from eventbus.errors import StorageError
from eventbus.postgres.kept import KeptConnections


class Opened:
    """Numbers connections, and remembers which were ended."""

    def __init__(self) -> None:
        self.made = 0
        self.gone: set[int] = set()
        self.cut: list[int] = []
        self.refused = False
        self.kept = KeptConnections(
            self.connect, is_gone=self.gone.__contains__, cut=self.cut.append
        )

    async def connect(self) -> int:
        if self.refused:
            raise StorageError("EB5001", "no", where="here", why="refused", next="wait")
        self.made += 1
        return self.made


async def test_it_is_the_same_one_again() -> None:
    opened = Opened()
    for _ in range(3):
        connection = await opened.kept.take()
        opened.kept.give(connection, whole=True)
    assert (opened.made, opened.cut) == (1, [])


async def test_as_many_as_are_used_at_once() -> None:
    opened = Opened()
    used = [await opened.kept.take() for _ in range(2)]
    for connection in used:
        opened.kept.give(connection, whole=True)
    assert {await opened.kept.take(), await opened.kept.take()} == {1, 2}


async def test_one_that_is_not_whole_is_ended() -> None:
    opened = Opened()
    opened.kept.give(await opened.kept.take(), whole=False)
    assert opened.cut == [1]
    assert await opened.kept.take() == 2


async def test_one_that_went_away_meanwhile_is_not_given_out() -> None:
    opened = Opened()
    opened.kept.give(await opened.kept.take(), whole=True)
    opened.gone.add(1)
    assert await opened.kept.take() == 2


async def test_a_server_that_refuses_is_told() -> None:
    opened = Opened()
    opened.refused = True
    with pytest.raises(StorageError, match="EB5001"):
        await opened.kept.take()


async def test_in_the_end_all_are_ended_those_in_use_when_they_come_back() -> None:
    opened = Opened()
    first, second = await opened.kept.take(), await opened.kept.take()
    opened.kept.give(first, whole=True)
    opened.kept.close()
    assert opened.cut == [first]
    opened.kept.give(second, whole=True)
    assert opened.cut == [first, second]
