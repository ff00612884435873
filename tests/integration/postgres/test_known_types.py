"""Types of our schema are looked up once, not on each connection; an application's on each."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventbus.postgres import PostgresStorage
from eventbus.postgres.pools import Connection

OURS = "SELECT u.step FROM unnest($1::{schema}.begun_effect[]) u"
ROW = (uuid4(), uuid4(), "pay", "executing", None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[int]]:
    """What the driver asks the server about types."""
    asked: list[Sequence[int]] = []
    ask: Any = getattr(asyncpg.Connection, "_introspect_types")  # noqa: B009 - the driver's own

    async def count(self: Any, ids: Sequence[int], *rest: Any) -> Any:
        asked.append(ids)
        return await ask(self, ids, *rest)

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", count)
    return asked


@pytest.fixture
async def two(storage: PostgresStorage) -> AsyncIterator[tuple[Connection, Connection]]:
    pools = storage.pools
    async with pools.connecting("work") as one, pools.connecting("control") as other:
        yield one, other


async def test_one_connection_asks_for_all(
    two: tuple[Connection, Connection], schema: str, asked: list[Sequence[int]]
) -> None:
    for one in two:
        assert await fetched(one, OURS.format(schema=schema), ROW) == ["pay"]
    assert len(asked) == 1


async def test_who_has_forgotten_them_asks_again(
    two: tuple[Connection, Connection], schema: str, asked: list[Sequence[int]]
) -> None:
    for each in two:
        await fetched(each, OURS.format(schema=schema), ROW)
    await two[1].reload_schema_state()
    assert await fetched(two[1], OURS.format(schema=schema), ROW) == ["pay"]
    assert len(asked) == 2


async def test_an_application_may_change_its_types(
    two: tuple[Connection, Connection], schema: str, asked: list[Sequence[int]]
) -> None:
    one, other = two
    await one.execute(f"CREATE SCHEMA {schema}_app")
    await one.execute(f"CREATE TYPE {schema}_app.line AS (step text)")
    query = f"SELECT u.step FROM unnest($1::{schema}_app.line[]) u"
    assert await fetched(one, query, ("pay",)) == ["pay"]
    await one.execute(f"ALTER TYPE {schema}_app.line ADD ATTRIBUTE cents int")
    assert await fetched(other, query, ("pay", 5)) == ["pay"]
    assert len(asked) == 2
    await one.execute(f"DROP SCHEMA {schema}_app CASCADE")


async def fetched(connection: Connection, query: str, row: tuple[Any, ...]) -> list[str]:
    return [each["step"] for each in await connection.fetch(query, [row])]
