"""Every mutant of the participant's half turns the test red that is named for it."""

import inspect
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from eventbus import EventBus
from tests.faults.mutants_participant import MUTANTS
from tests.faults.mutants_storage import Mutant
from tests.faults.seen import seen
from tests.integration import test_participant as tests

SEEN = (AssertionError, ValueError, TimeoutError)


async def _run(mutant: Mutant) -> None:
    teller, outside = tests.Teller(), tests.Outside()
    async with AsyncExitStack() as stack:
        given: dict[str, Any] = {"teller": teller, "outside": outside, **mutant.arguments}
        test = getattr(tests, mutant.test)
        names = inspect.signature(test).parameters
        for name, handlers in (("saga", teller.handlers), ("far", outside.handlers)):
            if name in names:
                given[name] = await stack.enter_async_context(tests.running(*handlers))
        await test(**{name: given[name] for name in names})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_tests_see_the_mutant(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    await _run(mutant)
    soon = {"at_most": timedelta(seconds=10)}  # some mutants are never idle
    monkeypatch.setattr(EventBus.until_idle, "__kwdefaults__", soon)
    with mutant.applied(), seen(*SEEN):
        await _run(mutant)
