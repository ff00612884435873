"""The service of the example on a real database: web in this process, the worker in another."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from eventbus.postgres import PostgresConfig, PostgresStorage
from examples.postgres_service.tables import create
from examples.postgres_service.web import make_app

WAIT_SECONDS = 60.0


@pytest.fixture
async def url(postgres_url: str) -> str:
    await PostgresStorage(PostgresConfig(dsn=postgres_url)).upgrade()
    await create(postgres_url)
    return postgres_url


@pytest.fixture
async def web(url: str) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(url)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client


async def rows(url: str) -> dict[str, int]:
    """How many orders are there, messages on their way, bills, and cups of tea."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=10)
    try:
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM orders) AS orders,"
            " (SELECT count(*) FROM eventbus.outbox) AS outbox,"
            " (SELECT count(*) FROM bills) AS bills,"
            " (SELECT amount FROM stock WHERE item = 'tea') AS tea"
        )
    finally:
        connection.terminate()
    assert row is not None
    return dict(row)


def order(order_id: str, item: str = "tea") -> dict[str, object]:
    return {"order_id": order_id, "item": item, "cents": 4200}


@asynccontextmanager
async def working(url: str) -> AsyncIterator[asyncio.StreamReader]:
    """The worker's process, and what it prints; it drains in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "eventbus", "run", "examples.postgres_service.worker:bus"),
        env={**os.environ, "SHOP_DATABASE": url},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_SECONDS):
            code = await process.wait()
    assert code == 0


async def said(output: asyncio.StreamReader, wanted: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        async for line in output:
            if line.decode().strip() == wanted:
                return
    pytest.fail(f"the worker ended, and never said {wanted!r}")


async def test_order_and_event_are_committed_together(web: httpx.AsyncClient, url: str) -> None:
    answer = await web.post("/orders", json=order("A-1"))
    assert (answer.status_code, answer.json()) == (201, "A-1")
    assert await rows(url) == {"orders": 1, "outbox": 1, "bills": 0, "tea": 2}


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (order("A-1"), 409),  # the key: the database refuses on flush, after the publish
        (order("A-2", "coffee"), 404),  # our own exception, after the publish
    ],
    ids=["the-database-refuses", "the-application-refuses"],
)
async def test_what_is_refused_leaves_neither_order_nor_event(
    web: httpx.AsyncClient, url: str, refused: dict[str, object], status: int
) -> None:
    await web.post("/orders", json=order("A-1"))
    before = await rows(url)
    assert (await web.post("/orders", json=refused)).status_code == status
    assert await rows(url) == before


async def test_the_last_cup_is_sold_once_and_the_event_of_the_other_is_gone(
    web: httpx.AsyncClient, url: str
) -> None:
    answers = await asyncio.gather(
        *(web.post("/orders", json=order(f"A-{number}")) for number in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 201, 201, 409, 409]
    assert await rows(url) == {"orders": 3, "outbox": 3, "bills": 0, "tea": 0}


async def test_handlers_run_in_the_workers_and_once(web: httpx.AsyncClient, url: str) -> None:
    await web.post("/orders", json=order("A-1"))
    assert (await web.get("/orders/A-1")).json()["bills"] == 0  # the web process handles nothing
    async with working(url) as output:
        await said(output, "billed A-1")
        await web.post("/orders", json=order("A-2"))  # the worker runs: it is woken up
        await said(output, "billed A-2")
    await web.post("/orders", json=order("A-3"))  # nobody works: it waits
    async with working(url) as output:
        await said(output, "billed A-3")  # and what the first worker had handled is not repeated
    for one in ("A-1", "A-2", "A-3"):
        assert (await web.get(f"/orders/{one}")).json()["bills"] == 1
    assert (await rows(url))["bills"] == 3


async def test_an_order_that_nobody_placed_is_not_found(web: httpx.AsyncClient) -> None:
    assert (await web.get("/orders/A-9")).status_code == 404
