"""tx.afterwards: beside the traffic, in a unit of its own, left out rather than waited for."""

import asyncio

import pytest

from eventbus import Context, EventBus, UnitOfWork, subscribe
from eventbus.bus import afterwards
from eventbus.testing import context_for
from tests.unit.sourcing import orders
from tests.unit.sourcing.orders import OrderPlaced


async def make_table(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        await tx.sql.execute("CREATE TABLE IF NOT EXISTS done (name text)")
        await tx.sql.execute("DELETE FROM done")


async def done(bus: EventBus) -> list[str]:
    await bus.until_idle()
    async with bus.transaction() as tx:
        return [row["name"] for row in await tx.sql.fetch("SELECT name FROM done ORDER BY name")]


async def note(tx: UnitOfWork) -> None:
    await tx.sql.execute("INSERT INTO done VALUES ('noted')")


async def fail(tx: UnitOfWork) -> None:
    await tx.sql.execute("INSERT INTO done VALUES ('failed')")
    raise LookupError("as planned")


async def test_it_is_done_whatever_becomes_of_who_asked(bus: EventBus) -> None:
    await make_table(bus)
    with pytest.raises(LookupError):
        async with bus.transaction() as tx:
            tx.afterwards("note", note)
            raise LookupError
    assert await done(bus) == ["noted"]


async def test_one_that_waits_stands_for_those_of_its_name(bus: EventBus) -> None:
    await make_table(bus)
    async with bus.transaction() as tx:
        for _ in range(5):
            tx.afterwards("note", note)
        tx.afterwards("note again", note)
    assert await done(bus) == ["noted", "noted"]


async def test_a_failure_is_logged_and_the_next_one_is_done(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    await make_table(bus)
    async with bus.transaction() as tx:
        tx.afterwards("fail", fail)
        tx.afterwards("note", note)
    assert await done(bus) == ["noted"]
    assert "left out: fail: as planned" in caplog.text


async def test_leaving_does_what_waits_and_leaves_out_what_does_not_end(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(afterwards, "GRACE_SECONDS", 0.05)
    finished: list[str] = []

    async def finish(tx: UnitOfWork) -> None:
        finished.append("done")

    async def hang(tx: UnitOfWork) -> None:
        await asyncio.Event().wait()

    bus = EventBus("memory://", storage=url, handlers=[orders])
    await bus.upgrade()
    async with bus.client(), bus.transaction() as tx:
        tx.afterwards("finish", finish)
    assert finished == ["done"]
    async with bus.client(), bus.transaction() as tx:
        tx.afterwards("hang", hang)
        tx.afterwards("finish", finish)
    assert finished == ["done"]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "afterwards:0"]


async def test_a_handler_asks_by_its_context_and_a_context_without_a_bus_does_nothing(
    url: str,
) -> None:
    @subscribe(OrderPlaced, group="notes")
    async def take(event: OrderPlaced, ctx: Context) -> None:
        ctx.afterwards("note", note)

    bus = EventBus("memory://", storage=url, handlers=[take])
    await bus.upgrade()
    async with bus:
        await make_table(bus)
        await bus.publish(OrderPlaced(order_id="A-1", cents=1))
        assert await done(bus) == ["noted"]
    event = OrderPlaced(order_id="A-1", cents=1)
    await take(event, context_for(event))
