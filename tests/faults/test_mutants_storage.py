"""Every mutant of the SQLite storage turns the suite's test red that is named for it."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

from eventbus.sqlite import SqliteStorage
from eventbus.testing import conformance
from tests.faults.mutants_storage import MUTANTS, Mutant
from tests.faults.seen import seen

HERE = Path(__file__).parent
SEEN = (AssertionError, pytest.fail.Exception, TimeoutError)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant(mutant: Mutant) -> None:
    await _run(mutant)
    with mutant.applied(), seen(*SEEN):
        await _run(mutant)
    print(f"{mutant.name} -> {mutant.suite}.{mutant.test}")


def test_every_suite_of_storages_has_a_mutant() -> None:
    of_transports = {"TransportSuite"}
    suites = {name for name in conformance.__all__ if name.endswith("Suite")} - of_transports
    tables = [import_module(f"tests.faults.{path.stem}") for path in HERE.glob("mutants_*.py")]
    found = {getattr(mutant, "suite", "") for table in tables for mutant in table.MUTANTS}
    assert suites - found == set()


async def _run(mutant: Mutant) -> None:
    """The named test of the suite, on a database of its own in memory."""
    clock = conformance.HandClock()
    test = getattr(getattr(conformance, mutant.suite)(), mutant.test)
    async with SqliteStorage(now=clock) as storage:
        given = {"storage": storage, "clock": clock, **mutant.arguments}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})
