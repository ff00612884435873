"""How long a transaction may be silent: the server ends it, so no group may wait longer."""

from datetime import timedelta

import asyncpg
import pytest

from eventbus import Context, EventBus, Group, Untyped, subscribe
from eventbus.errors import StorageError, UnsafeConfigurationError
from eventbus.postgres import PostgresStorage
from eventbus.postgres.storage import open_storage
from eventbus.testing.conformance.samples import make_table

MINUTE = timedelta(minutes=1)


def bus_of(group: Group, storage: PostgresStorage) -> EventBus:
    @subscribe("idle.asked", group=group)
    async def wait(event: Untyped, ctx: Context) -> None:
        """Nothing is sent to it."""

    return EventBus("memory://", storage=storage, handlers=[wait], service="idle")


async def test_a_process_that_stands_still_holds_its_locks_no_longer_than_that(
    storage: PostgresStorage, server: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    table = await make_table(storage, "n bigint")
    short = open_storage(f"{server}?schema={storage.config.schema}&idle=1", "still")
    async with short:
        with pytest.raises(StorageError) as caught:
            async with short.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
                await admin.execute("SET lock_timeout = '30s'")
                await admin.execute(f"TRUNCATE {table}")  # waits until the server has ended it
                await tx.sql.execute(f"INSERT INTO {table} VALUES (2)")
    assert caught.value.code == "EB5001"


@pytest.mark.parametrize("idle", [45, 60])
async def test_a_group_that_may_wait_longer_is_refused_and_told_what_to_say(
    storage: PostgresStorage, server: str, idle: int
) -> None:
    url = f"{server}?schema={storage.config.schema}&idle={idle}"
    with pytest.raises(UnsafeConfigurationError) as caught:
        await bus_of(Group("slow", timeout=MINUTE), open_storage(url, "idle")).__aenter__()
    assert caught.value.code == "EB1123"
    assert "?idle=75" in caught.value.next


@pytest.mark.parametrize(
    ("group", "idle"),
    [
        (Group("slow", timeout=MINUTE), 75),
        (Group("outside", timeout=MINUTE, transactional=False), 45),
        (Group("default"), 45),
    ],
)
async def test_what_cannot_lose_its_transaction_by_waiting_is_fine(
    storage: PostgresStorage, server: str, group: Group, idle: int
) -> None:
    url = f"{server}?schema={storage.config.schema}&idle={idle}"
    async with bus_of(group, open_storage(url, "idle")) as bus:
        assert (await bus.health()).live
        shown = await _shown(bus)
    assert shown == f"{idle}s"


async def _shown(bus: EventBus) -> str:
    async with bus.transaction() as tx:
        [row] = await tx.sql.fetch(
            "SELECT current_setting('idle_in_transaction_session_timeout') AS shown"
        )
    return str(row["shown"])
