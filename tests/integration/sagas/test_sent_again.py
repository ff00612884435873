"""A command that nobody answers is sent again and again; what its saga keeps does not grow."""

from datetime import timedelta

import pytest

from eventbus import Command, Reply
from eventbus.saga import Resend, Saga, starts_on, step
from tests.integration.sagas.rig import Rig
from tests.unit.saga.shop import OrderPlaced, OrderState

# Far apart: the clock of PostgreSQL goes on while the test looks.
OFTEN = Resend(attempts=100, first=timedelta(minutes=10), cap=timedelta(minutes=10))


class Heard(Reply, type="far.heard"): ...


class Call(Command[Heard], type="far.call", key="order_id"):
    order_id: str


class Calling(Saga[OrderState], name="calling-out", step_timeout=timedelta(days=1)):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step(resend=OFTEN, no_undo="nobody heard it")
    def call(self, s: OrderState) -> Call:
        return Call(order_id=s.order_id)


@pytest.fixture
def sagas() -> list[type]:
    return [Calling]


async def kept(rig: Rig) -> dict[str, int]:
    """Rows and bytes beside the journal, which has a row for every transition."""
    (row,) = await rig.rows(
        f"SELECT (SELECT sum(length(data)) FROM {rig.table('saga')}) AS bytes,"
        f" (SELECT count(*) FROM {rig.table('saga_step')}) AS steps,"
        f" (SELECT count(*) FROM {rig.table('saga_timer')}) AS timers,"
        f" (SELECT count(*) FROM {rig.table('saga_stash')}) AS stashed,"
        f" (SELECT count(*) FROM {rig.table('outbox')}) AS outbox"
    )
    return {name: int(value) for name, value in row.items()}


async def test_what_a_saga_keeps_does_not_grow_with_its_attempts(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"))
    before = await kept(rig)
    for _ in range(20):
        await rig.pass_time(20 * 60)
    (call,) = (await rig.show("A-1", "calling-out")).saga.steps
    assert call.attempt > 20
    assert await kept(rig) == before
    assert before == {"bytes": before["bytes"], "steps": 1, "timers": 1, "stashed": 0, "outbox": 0}
