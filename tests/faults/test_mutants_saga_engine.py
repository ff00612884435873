"""Every mutant of the engine of sagas turns the test red that is named for it."""

import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.errors import EventBusError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage
from tests.faults.mutants_saga_engine import MUTANTS
from tests.faults.mutants_storage import Mutant
from tests.faults.seen import seen
from tests.integration.sagas import (
    shop,
    test_operators,
    test_running,
    test_versions,
    test_worker_steps,
    test_wrong_input,
)
from tests.integration.sagas.rig import Clock, Rig
from tests.unit.saga.shop import Mixed, PlaceOrder

SEEN = (AssertionError, ValueError, TimeoutError, EventBusError)
MODULES = (test_running, test_operators, test_worker_steps, test_wrong_input, test_versions)
BUSES: dict[str, list[Any]] = {
    "rig": [PlaceOrder, Mixed, *shop.PARTICIPANTS],
    "strict": [test_wrong_input.Strict],
    "trips": [test_worker_steps.Trip, test_worker_steps.tell],
}
TABLES = (
    *(f"m_{table}" for table in shop.TABLES),
    "orders (order_id text PRIMARY KEY)",
    "trips (trip text)",
)


@asynccontextmanager
async def running(handlers: list[Any]) -> AsyncIterator[Rig]:
    clock = Clock()
    bus = EventBus(
        MemoryTransport(MemoryBroker()), storage=SqliteStorage(now=clock), handlers=handlers
    )
    async with bus:
        async with bus.transaction() as tx:
            for table in TABLES:
                await tx.sql.execute(f"CREATE TABLE {table}")
        yield Rig(bus, clock, "m")


async def _run(mutant: Mutant, directory: Path) -> None:
    shop.told.prefix = "m"
    for refusals in (shop.told.declined, shop.told.no_release, shop.told.not_shipped):
        refusals.clear()
    test_worker_steps.Trip.outside = test_worker_steps.Outside()
    given: dict[str, Any] = {
        "participants": shop.told,
        "outside": test_worker_steps.Trip.outside,
    }
    module = next(module for module in MODULES if hasattr(module, mutant.test))
    test = getattr(module, mutant.test)
    names = inspect.signature(test).parameters
    async with AsyncExitStack() as stack:
        for name, handlers in BUSES.items():
            if name in names:
                given[name] = await stack.enter_async_context(running(handlers))
        if "make" in names:
            given["make"] = await test_versions.on_sqlite(directory / "sagas.db", Clock())
        await test(**{name: given[name] for name in names})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_tests_see_the_mutant(mutant: Mutant, tmp_path: Path) -> None:
    for name in ("sound", "mutant"):
        (tmp_path / name).mkdir()
    await _run(mutant, tmp_path / "sound")
    with mutant.applied(), seen(*SEEN):
        await _run(mutant, tmp_path / "mutant")
