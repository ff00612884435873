"""Every interleaving of `races.py` on the adapter as it is."""

import pytest

from eventbus.postgres import PostgresStorage
from tests.integration.postgres import saga_races
from tests.integration.postgres.races import RACES, Races


@pytest.mark.parametrize("race", RACES)
async def test_step_by_step(storage: PostgresStorage, race: str) -> None:
    async with PostgresStorage(storage.config) as other:
        await getattr(Races(), race)(storage, other)
        assert other.pools.idle() == other.pools.size()


@pytest.mark.parametrize("race", saga_races.RACES)
async def test_sagas_step_by_step(storage: PostgresStorage, race: str) -> None:
    async with PostgresStorage(storage.config) as other:
        await getattr(saga_races.SagaRaces(), race)(storage, other)
        assert other.pools.idle() == other.pools.size()
