"""Every interleaving of `event_races.py` on the adapter as it is."""

import pytest

from eventbus.postgres import PostgresStorage
from tests.integration.postgres.event_races import RACES, EventRaces


@pytest.mark.parametrize("race", RACES)
async def test_step_by_step(storage: PostgresStorage, race: str) -> None:
    async with PostgresStorage(storage.config) as other:
        await getattr(EventRaces(), race)(storage, other)
