"""Every mutant of the event log turns the suite's test red that is named for it."""

import inspect
from collections.abc import Iterator

import pytest

from eventbus.errors import EventBusError
from eventbus.postgres import PostgresStorage
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage
from eventbus.testing import conformance
from eventbus.testing.conformance import HandClock
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database, entered
from tests.faults.mutants_events import MUTANTS
from tests.faults.mutants_postgres_events import LATER, RACES
from tests.faults.mutants_postgres_events import MUTANTS as ON_POSTGRES
from tests.faults.mutants_storage import Mutant
from tests.faults.seen import seen
from tests.integration.postgres.event_races import RACES as NAMES
from tests.integration.postgres.event_races import EventRaces

ROUNDS = 6  # a race that a mutant opens is met in most rounds, not in every one
SEEN = (AssertionError, pytest.fail.Exception, TimeoutError, EventBusError)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


async def _run(mutant: Mutant, storage: Storage) -> None:
    test = getattr(getattr(conformance, mutant.suite)(), mutant.test)
    given = {"storage": storage, **mutant.arguments}
    await test(**{name: given[name] for name in inspect.signature(test).parameters})


async def _on_sqlite(mutant: Mutant) -> None:
    async with SqliteStorage(now=HandClock()) as storage:
        await _run(mutant, storage)


async def _on_postgres(mutant: Mutant, server: str) -> None:
    async with entered(server, schema=unique("mutant")) as storage:
        if mutant.suite != RACES:
            await _run(mutant, storage)
            return
        async with PostgresStorage(storage.config) as other:
            await getattr(EventRaces(), mutant.test)(storage, other)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant_of_sqlite(mutant: Mutant) -> None:
    await _on_sqlite(mutant)
    with mutant.applied(), seen(*SEEN):
        await _on_sqlite(mutant)


@pytest.mark.parametrize("mutant", ON_POSTGRES, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant_of_postgresql(mutant: Mutant, server: str) -> None:
    await _on_postgres(mutant, server)
    with mutant.applied(), seen(*SEEN):
        for _ in range(ROUNDS if mutant.test == LATER else 1):
            await _on_postgres(mutant, server)


def test_every_race_has_a_mutant() -> None:
    assert set(NAMES) == {mutant.test for mutant in ON_POSTGRES if mutant.suite == RACES}
