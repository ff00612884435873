"""Effects in a lane's batch: begun and finished together, each with a verdict of its own."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from eventbus import Command, Context, Group, Reply, RetryPolicy, Undone, handles, undoes
from eventbus.sqlite.sagas import SqliteSagas
from tests.integration.test_participant import Saga, running

ONE_LANE = Group("payments", lanes=1, retry=RetryPolicy(in_place=0, parked=()))


class Paid(Reply, type="pay.paid"):
    amount: int


class Pay(Command[Paid], type="pay.pay", key="order"):
    order: str


class PayBack(Command[Undone], type="pay.pay-back", key="order"):
    order: str


class Refusing:
    """Writes a row for each, and fails for some orders."""

    def __init__(self) -> None:
        self.fails: set[str] = set()

        @handles(Pay, group=ONE_LANE)
        async def pay(command: Pay, ctx: Context) -> Paid:
            await ctx.sql.execute("INSERT INTO ledger VALUES ($1, 1)", command.order)
            if command.order in self.fails:
                raise ValueError(command.order)
            return Paid(amount=1)

        @undoes(pay, PayBack)
        async def pay_back(command: PayBack, done: Paid, ctx: Context) -> None:
            await ctx.sql.execute("INSERT INTO ledger VALUES ($1, -1)", command.order)

        self.handlers = (pay, pay_back)


@pytest.fixture
def refusing() -> Refusing:
    return Refusing()


@pytest.fixture
async def saga(refusing: Refusing) -> AsyncIterator[Saga]:
    async with running(*refusing.handlers) as saga:
        yield saga


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Sequence[tuple[str, int]]:
    """Calls of the storage, each with how many effects."""
    calls: list[tuple[str, int]] = []
    for name in ("begin_effect", "finish_effect", "forget_effect"):
        monkeypatch.setattr(SqliteSagas, name, _noting(getattr(SqliteSagas, name), calls))
    return calls


def _noting(method: Callable[..., Any], calls: list[tuple[str, int]]) -> Callable[..., Any]:
    async def noted(self: SqliteSagas, effects: Sequence[Any]) -> Any:
        calls.append((method.__name__, len(effects)))
        return await method(self, effects)

    return noted


def many(saga: Saga, amount: int) -> list[Any]:
    """Commands of as many effects."""
    return [saga.made(Pay(order=str(n)), sagaeffect=str(UUID(int=n + 1))) for n in range(amount)]


async def test_a_batch_of_effects_is_begun_and_finished_in_one_statement_each(
    saga: Saga, begun: Sequence[tuple[str, int]]
) -> None:
    await saga.together(*many(saga, 20))
    assert begun == [("begin_effect", 20), ("finish_effect", 20)]
    assert saga.outcomes == ["succeeded"] * 20
    assert await saga.ledger() == [1] * 20


async def test_one_that_fails_leaves_no_row_and_the_others_stand(
    saga: Saga, refusing: Refusing, begun: Sequence[tuple[str, int]]
) -> None:
    refusing.fails = {"1"}
    batch = many(saga, 3)
    await saga.together(*batch)
    assert begun == [("begin_effect", 3), ("finish_effect", 2), ("forget_effect", 1)]
    assert await saga.ledger() == [1, 1]
    refusing.fails = set()
    again = saga.made(Pay(order="9"), sagaeffect=batch[1].headers["sagaeffect"])
    await saga.together(again)  # it never ran: now it does
    assert Counter(saga.outcomes) == {"succeeded": 3}
    assert await saga.ledger() == [1, 1, 1]


async def test_one_effect_twice_in_a_batch_runs_once_and_is_answered_twice(saga: Saga) -> None:
    first, other = many(saga, 2)
    again = saga.made(Pay(order="0"), sagaeffect=first.headers["sagaeffect"])
    await saga.together(first, again, other)
    assert saga.outcomes == ["succeeded"] * 3
    assert await saga.ledger() == [1, 1]


async def test_a_command_and_its_undo_in_one_batch_happen_in_their_order(saga: Saga) -> None:
    other = many(saga, 1)[0]
    await saga.together(saga.made(Pay(order="A")), other, saga.made(PayBack(order="A"), "undo"))
    assert sorted(saga.outcomes) == ["succeeded", "succeeded", "undone"]
    assert await saga.ledger() == [1, 1, -1]


async def test_an_undo_before_its_command_in_one_batch_bars_it(saga: Saga) -> None:
    await saga.together(saga.made(PayBack(order="A"), "undo"), saga.made(Pay(order="A")))
    assert saga.outcomes == ["undone", "cancelled"]
    assert await saga.ledger() == []


async def test_what_is_queued_behind_a_failed_one_leaves_no_row(
    saga: Saga, refusing: Refusing, begun: Sequence[tuple[str, int]]
) -> None:
    refusing.fails = {"0"}
    first, other = many(saga, 2)
    behind = saga.made(Pay(order="0"))  # another effect of the same key
    await saga.together(first, behind, other)
    assert ("forget_effect", 2) in begun
    assert await saga.ledger() == [1]


async def test_headers_that_no_saga_sends_stop_none_of_their_batch(saga: Saga) -> None:
    good, bad = many(saga, 2)
    bad = saga.made(Pay(order="1"), sagaeffect="no uuid")
    await saga.together(bad, good)
    assert saga.outcomes == ["succeeded"]
