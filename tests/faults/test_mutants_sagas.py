"""Every mutant of saga rows turns the suite's test red that is named for it."""

import inspect

import pytest

from eventbus.sqlite import SqliteStorage
from eventbus.testing import conformance
from eventbus.testing.conformance import HandClock
from tests.faults.mutants_sagas import MUTANTS
from tests.faults.mutants_storage import Mutant
from tests.faults.seen import seen

SEEN = (AssertionError, pytest.fail.Exception)


async def _run(mutant: Mutant, arguments: dict[str, object]) -> None:
    clock = HandClock()
    test = getattr(getattr(conformance, mutant.suite)(), mutant.test)
    async with SqliteStorage(now=clock) as storage:
        given = {"storage": storage, "clock": clock, **arguments}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant(mutant: Mutant) -> None:
    arguments: dict[str, object] = {"state": "done"}
    await _run(mutant, arguments)
    with mutant.applied(), seen(*SEEN):
        await _run(mutant, arguments)
