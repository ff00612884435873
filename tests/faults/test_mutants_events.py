"""Every mutant of the event log turns the suite's test red that is named for it."""

import inspect

import pytest

from eventbus.errors import StorageError
from eventbus.sqlite import SqliteStorage
from eventbus.testing import conformance
from tests.faults.mutants_events import MUTANTS
from tests.faults.mutants_storage import Mutant

SEEN = (AssertionError, pytest.fail.Exception, StorageError)


async def _run(mutant: Mutant) -> None:
    test = getattr(getattr(conformance, mutant.suite)(), mutant.test)
    async with SqliteStorage(now=conformance.HandClock()) as storage:
        given = {"storage": storage, **mutant.arguments}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant(mutant: Mutant) -> None:
    await _run(mutant)
    with mutant.applied(), pytest.raises(SEEN):
        await _run(mutant)
