"""Every mutant of saga rows turns the suite's test red that is named for it."""

import inspect

import pytest

from eventbus.sqlite import SqliteStorage
from eventbus.sqlite.sagas import SqliteSagas
from eventbus.sqlite.transaction import SqliteTransaction
from eventbus.storage import Transaction
from eventbus.testing.conformance import HandClock
from eventbus.testing.conformance.effects import EffectSuite
from eventbus.testing.conformance.sagas import SagaSuite
from tests.faults.mutants_sagas import MUTANTS
from tests.faults.mutants_storage import Mutant

SEEN = (AssertionError, pytest.fail.Exception)


class _OnSqlite:
    def sagas_of(self, tx: Transaction) -> SqliteSagas:
        assert isinstance(tx, SqliteTransaction)
        return tx.sagas


class _Sagas(_OnSqlite, SagaSuite): ...


class _Effects(_OnSqlite, EffectSuite): ...


SUITES = {"SagaSuite": _Sagas, "EffectSuite": _Effects}


async def _run(mutant: Mutant, arguments: dict[str, object]) -> None:
    clock = HandClock()
    test = getattr(SUITES[mutant.suite](), mutant.test)
    async with SqliteStorage(now=clock) as storage:
        given = {"storage": storage, "clock": clock, **arguments}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_suite_sees_the_mutant(mutant: Mutant) -> None:
    arguments: dict[str, object] = {"state": "done"}
    await _run(mutant, arguments)
    with mutant.applied(), pytest.raises(SEEN):
        await _run(mutant, arguments)
