"""Every mutant of the PostgreSQL storage turns the test red that is named for it."""

import inspect
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from eventbus.errors import EventBusError
from eventbus.postgres import PostgresStorage
from eventbus.testing import conformance
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import ShiftingClock, WaitingClock, database, entered
from tests.faults.mutants_postgres import MUTANTS, RACES
from tests.faults.mutants_postgres_sagas import MUTANTS as OF_SAGAS
from tests.faults.mutants_postgres_sagas import SAGA_RACES
from tests.faults.mutants_postgres_subject_keys import MUTANTS as OF_KEYS
from tests.faults.mutants_storage import Mutant
from tests.faults.seen import seen
from tests.integration.postgres.races import RACES as NAMES
from tests.integration.postgres.races import Races
from tests.integration.postgres.saga_races import RACES as NAMES_OF_SAGAS
from tests.integration.postgres.saga_races import SagaRaces

STRESS_ROUNDS = 6  # a race that a mutant opens is met in most rounds, not in every one
STEP_BY_STEP: dict[str, type] = {RACES: Races, SAGA_RACES: SagaRaces}
SEEN = (AssertionError, pytest.fail.Exception, TimeoutError, EventBusError)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.mark.parametrize("mutant", [*MUTANTS, *OF_SAGAS, *OF_KEYS], ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant(server: str, mutant: Mutant) -> None:
    await _run(server, mutant)
    rounds = STRESS_ROUNDS if mutant.suite == "StressSuite" else 1
    with mutant.applied(), seen(*SEEN):
        for _ in range(rounds):
            await _run(server, mutant)


async def _run(server: str, mutant: Mutant) -> None:
    """The named test, in a schema of its own: made by the mutated files, if it mutates them."""
    schema = unique("mutant")
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(entered(server, schema=schema))
        given: dict[str, Any] = {"storage": storage, **mutant.arguments}
        if mutant.suite in STEP_BY_STEP:
            other = await stack.enter_async_context(PostgresStorage(storage.config))
            await getattr(STEP_BY_STEP[mutant.suite](), mutant.test)(storage, other)
            return
        waits = mutant.suite == "StressSuite"
        given["clock"] = WaitingClock() if waits else ShiftingClock(server, schema)
        test = getattr(getattr(conformance, mutant.suite)(), mutant.test)
        names = inspect.signature(test).parameters
        await test(**{name: given[name] for name in names})


def test_every_race_has_a_mutant_or_is_about_waiting_alone() -> None:
    named = {mutant.test for mutant in MUTANTS if mutant.suite == RACES}
    assert set(NAMES) - named == {
        "a_closing_round_that_finds_the_key_busy_gives_up_and_costs_nothing",
        "an_operator_waits_for_the_lane_that_has_the_key",
    }


def test_every_race_of_sagas_has_a_mutant_or_is_about_each_timer_once() -> None:
    named = {mutant.test for mutant in OF_SAGAS if mutant.suite == SAGA_RACES}
    assert set(NAMES_OF_SAGAS) - named == {"two_timer_workers_fire_a_timer_once"}
