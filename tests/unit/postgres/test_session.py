"""What becomes of a call whose connection is cut by another task."""

import pytest

from eventbus.errors import StorageError
from eventbus.postgres.config import PostgresConfig
from eventbus.postgres.pools import Pools
from eventbus.postgres.session import Session


class Cut:
    """A connection that is cut between two steps of a call: its driver has no protocol any more."""

    def terminate(self) -> None: ...

    async def execute(self, statement: str) -> str:
        raise AttributeError("'NoneType' object has no attribute 'bind_execute'")


def session() -> Session:
    pools = Pools(PostgresConfig(dsn="postgresql://nowhere/shop"))
    one = Session(pools, "eventbus", Cut())
    one.borrowed = False
    return one


async def test_a_driver_that_was_cut_between_two_steps_is_a_doomed_transaction() -> None:
    one = session()
    one.abandon()
    with pytest.raises(StorageError) as caught:
        await one.run(Cut().execute, "SELECT 1", where="SQL")
    assert caught.value.code == "EB5004"
    assert isinstance(caught.value.__cause__, AttributeError)


async def test_an_error_of_a_whole_connection_is_not_renamed() -> None:
    with pytest.raises(AttributeError):
        await session().run(Cut().execute, "SELECT 1", where="SQL")
