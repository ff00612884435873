"""Every mutant of event sourcing turns the test red that is named for it."""

import asyncio
import inspect

import pytest

from eventbus import EventBus
from eventbus.errors import EventBusError
from tests.faults.mutants_sourcing import MUTANTS, Mutant
from tests.faults.seen import seen
from tests.unit.sourcing import orders

SEEN = (AssertionError, pytest.fail.Exception, TimeoutError, EventBusError)
DEADLINE_SECONDS = 3.0  # of a mutant that waits for what never comes


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_named_test_sees_the_mutant(mutant: Mutant) -> None:
    await _run(mutant)
    with mutant.applied(), seen(*SEEN):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await _run(mutant)
    print(f"{mutant.name} -> {mutant.test.__name__}")


async def _run(mutant: Mutant) -> None:
    """The named test, on a database of its own in memory."""
    wanted = inspect.signature(mutant.test).parameters
    with pytest.MonkeyPatch.context() as patching:
        given = {"url": "sqlite://", "monkeypatch": patching, **mutant.arguments}
        if "bus" not in wanted:
            answer = mutant.test(**{name: given[name] for name in wanted})
            if inspect.isawaitable(answer):
                await answer
            return
        async with EventBus("memory://", storage="sqlite://", handlers=[orders]) as bus:
            await mutant.test(**{name: {**given, "bus": bus}[name] for name in wanted})
