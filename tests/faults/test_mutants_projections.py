"""Every wrong projector turns the test red that is named for it."""

import inspect
from pathlib import Path

import pytest

from eventbus.errors import EventBusError
from eventbus.sqlite import SqliteStorage
from eventbus.testing import conformance
from tests.faults.mutants_projections import MUTANTS, WRONG, Wrong
from tests.faults.mutants_storage import Mutant
from tests.faults.seen import seen

SEEN = (AssertionError, pytest.fail.Exception, TimeoutError)
READ = (*SEEN, EventBusError)  # a projector may notice its own harm


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant(mutant: Mutant) -> None:
    await run(mutant)
    with mutant.applied(), seen(*SEEN):
        await run(mutant)
    print(f"{mutant.name} -> {mutant.suite}.{mutant.test}")


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
async def test_a_wrong_projector_is_seen(
    wrong: Wrong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, mutated = tmp_path / "right", tmp_path / "mutated"
    right.mkdir()
    mutated.mkdir()
    await wrong.check(right)
    wrong.patch(monkeypatch)
    with seen(*READ):
        await wrong.check(mutated)


async def run(mutant: Mutant) -> None:
    """The named test of the suite, on a database of its own in memory."""
    test = getattr(getattr(conformance, mutant.suite)(), mutant.test)
    async with SqliteStorage(now=conformance.HandClock()) as storage:
        given = {"storage": storage, **mutant.arguments}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})
