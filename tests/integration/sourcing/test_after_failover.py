"""Row 20: after a failover to a copy that lagged, a checkpoint may be ahead of the log."""

from datetime import timedelta

from eventbus import EventBus
from eventbus.storage.events import Position
from tests.integration.sourcing.read_models import Sum, sell, until

LONG = timedelta(seconds=30)
LOST = 5000  # positions that the new primary has never had


async def test_who_stands_ahead_of_the_log_stops_and_a_rebuild_puts_it_right(url: str) -> None:
    revenue = Sum()
    first = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await first.upgrade()
    async with first:
        await sell(first, ("UK", 3), ("FR", 4))
        await first.until_idle()
        name = f"{revenue.name}@1/0"
    async with first.client():
        assert first.storage is not None
        async with first.storage.transaction() as tx:
            (at,) = (await tx.checkpoints.positions(name)).values()
            leases = await tx.leases.acquire(
                [f"projection/{name}"], owner="test", ttl=LONG, limit=1
            )
            ahead = Position(at + LOST)
            await tx.checkpoints.save(name, ahead, after=at, lease=leases[0])
            await tx.leases.release(leases)
    async with EventBus("memory://", storage=first.storage, handlers=[revenue.projection()]) as bus:
        await until(lambda: _says(bus, "ahead of the log"))
        await sell(bus, ("UK", 5))
        assert await revenue.rows(bus) == {"UK": (1, 3), "FR": (1, 4)}
        rebuilt = await bus.projections.rebuild(revenue.name)
        assert rebuilt.switched
        assert await revenue.rows(bus) == {"UK": (2, 8), "FR": (1, 4)}
        position = await sell(bus, ("FR", 6))
        await bus.projections.wait(revenue.name, position, at_most=LONG)
        assert await revenue.rows(bus) == {"UK": (2, 8), "FR": (2, 10)}


async def _says(bus: EventBus, what: str) -> bool:
    return what in str((await bus.health()).services)
