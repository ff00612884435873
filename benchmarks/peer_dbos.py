"""DBOS, set up as its documentation advises; imported only where it is installed."""

import asyncio

from dbos import DBOS, DBOSConfig  # type: ignore[import-not-found, unused-ignore]  # optional

from benchmarks.postgres import World, timed


@DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # DBOS is optional
async def first(order: str) -> int:
    """Nothing but what the framework does."""
    return 1


@DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # DBOS is optional
async def second(order: str) -> int:
    """The same."""
    return 2


@DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # DBOS is optional
async def third(order: str) -> int:
    """The same."""
    return 3


@DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]  # DBOS is optional
async def three(order: str) -> int:
    """Each step is recorded before the next one starts."""
    return int(await first(order) + await second(order) + await third(order))


async def three_steps(world: World, n: int, *, at_once: int) -> None:
    """Workflows in this process, their state in the database of the world."""
    DBOS(
        config=DBOSConfig(
            name="bench",
            system_database_url=world.storage.config.dsn,
            run_admin_server=False,
            log_level="ERROR",
        )
    )
    DBOS.launch()
    try:
        left = iter(range(n))

        async def one_after_another() -> None:
            for number in left:
                handle = await DBOS.start_workflow_async(three, str(number))
                await handle.get_result()

        async with timed(world):
            await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    finally:
        DBOS.destroy()
