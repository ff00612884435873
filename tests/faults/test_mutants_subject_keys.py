"""Every mutant of the keys of personal data turns the suite's test red that is named for it."""

import inspect

import pytest

from eventbus.sqlite import SqliteStorage
from eventbus.testing import conformance
from tests.faults.mutants_storage import Mutant
from tests.faults.mutants_subject_keys import MUTANTS
from tests.faults.seen import seen
from tests.faults.test_mutants_storage import SEEN


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant(mutant: Mutant) -> None:
    await _run(mutant)
    with mutant.applied(), seen(*SEEN):
        await _run(mutant)
    print(f"{mutant.name} -> {mutant.suite}.{mutant.test}")


async def _run(mutant: Mutant) -> None:
    """The named test of the suite, on a database of its own in memory."""
    test = getattr(conformance.SubjectKeySuite(), mutant.test)
    async with SqliteStorage(now=conformance.HandClock()) as storage:
        given = {"storage": storage, **mutant.arguments}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})
