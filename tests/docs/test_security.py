"""The roles of docs/explanation/security.md are enough for what the page says, and for no more."""

from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from eventbus import Event, EventBus, subscribe
from eventbus.errors import StorageError
from eventbus.inspection import Selection
from eventbus.postgres.storage import open_storage
from tests.docs.pages import ROOT, blocks

ROLES = ("owner", "worker", "web", "look")
PAGE = ROOT / "docs" / "explanation" / "security.md"


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str


@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced) -> None:
    """Nothing: the roles are under test."""


async def run(url: str, *statements: str) -> object:
    """The value of the last one."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


@pytest.fixture
async def roles(postgres_url: str) -> AsyncIterator[dict[str, str]]:
    """URLs by role, on an upgraded database with the statements of the page."""
    if not await run(postgres_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        pytest.skip("capability missing: the user of the test database is no superuser")
    parts = urlsplit(postgres_url)
    name = parts.path.removeprefix("/")
    before, after, recording = (
        block.text.replace("shop", name) for block in blocks(PAGE) if block.language == "sql"
    )
    host = parts.netloc.rpartition("@")[2]
    urls = {
        role: urlunsplit(parts._replace(netloc=f"{name}_{role}:{name}@{host}")) for role in ROLES
    }
    passwords = [f"ALTER ROLE {name}_{role} PASSWORD '{name}'" for role in ROLES]
    try:
        await run(postgres_url, before, *passwords, "SELECT 1")
        await open_storage(urls["owner"], "shop").upgrade()
        await run(urls["owner"], after, "SELECT 1")
        yield {**urls, "recording": recording}
    finally:
        for role in reversed(ROLES):  # one by one: together the server trips over its own rights
            await run(postgres_url, f"DROP OWNED BY {name}_{role} CASCADE", "SELECT 1")
        for role in reversed(ROLES):
            await run(postgres_url, f"DROP ROLE {name}_{role}", "SELECT 1")


async def test_each_role_can_do_what_the_page_says_and_no_more(roles: dict[str, str]) -> None:
    await a_worker_handles_and_forgets(roles)
    await a_web_process_publishes_and_reads_nothing(roles)
    await who_looks_changes_nothing(roles)


async def a_worker_handles_and_forgets(roles: dict[str, str]) -> None:
    bus = EventBus("memory://", storage=roles["worker"], service="shop", handlers=[bill])
    await run(roles["owner"], "SELECT eventbus.ensure_inbox_day(current_date - 20)")
    async with bus:
        await bus.publish(OrderPlaced(order_id="A-1"))
        await bus.until_idle()
        assert bus.storage is not None
        await bus.storage.prune(inbox=timedelta(days=7), limit=100)
    old = "SELECT to_regclass('eventbus.inbox_' || to_char(current_date - 20, 'YYYYMMDD'))::text"
    assert await run(roles["owner"], old) is None
    assert await run(roles["owner"], "SELECT count(*) FROM eventbus.inbox") == 1


async def a_web_process_publishes_and_reads_nothing(roles: dict[str, str]) -> None:
    bus = EventBus("memory://", storage=roles["web"], service="shop", handlers=[bill])
    async with bus.client():
        await bus.publish(OrderPlaced(order_id="A-1"))
        await bus.publish(OrderPlaced(order_id="A-2"), delay=timedelta(hours=1))
        async with bus.transaction() as tx:
            await tx.publish(OrderPlaced(order_id="A-3"))
        with pytest.raises(StorageError, match="EB5012"):
            await bus.dead_letters.list()
        with pytest.raises(StorageError, match="EB5012"):
            await bus.events.append("order-1", [OrderPlaced(order_id="A-1")], expected="any")
        await run(roles["owner"], roles["recording"], "SELECT 1")
        for _ in range(2):
            await bus.events.append("order-1", [OrderPlaced(order_id="A-1")], expected="any")
        assert len(await bus.events.read("order-1")) == 2


async def who_looks_changes_nothing(roles: dict[str, str]) -> None:
    async with open_storage(roles["look"], "shop") as storage:
        assert await storage.inspection.figures()
        assert not await storage.inspection.find(Selection(place="dead-letter"), limit=1)
        assert not await storage.inspection.verify()
        with pytest.raises(StorageError, match="EB5012"):
            await storage.inspection.change("pause", Selection(place="outbox"), actor="ops")
