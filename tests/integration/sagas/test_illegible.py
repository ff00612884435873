"""A saga whose plan was changed by another hand is stuck alone, and goes on once it is mended."""

import pytest

from eventbus.errors import SagaError
from tests.integration.sagas.rig import Rig
from tests.integration.sagas.shop import Told
from tests.unit.saga.shop import OrderCancelled, OrderPlaced

ME = "tests@here"


async def both_turn_back(rig: Rig, participants: Told) -> bytes:
    """Two sagas that wait for their undo; the plan of the first is changed. The right one."""
    participants.declined |= {"A-1", "A-2"}
    participants.no_release |= {"A-1", "A-2"}
    await rig.publish(OrderPlaced(order_id="A-1"), OrderPlaced(order_id="A-2"))
    plan = (await rig.show("A-1")).saga.plan
    assert plan is not None
    await write(rig, plan.replace(b"release", b"released"))
    participants.no_release.clear()
    return plan


async def write(rig: Rig, plan: bytes) -> None:
    async with rig.bus.transaction() as tx:
        await tx.sql.execute(
            f"UPDATE {rig.table('saga')} SET plan = $1"
            " WHERE business_key = 'A-1' AND saga_type = 'place-order'",
            plan,
        )


async def test_its_timers_hold_up_no_others_and_mended_it_goes_on(
    rig: Rig, participants: Told
) -> None:
    plan = await both_turn_back(rig, participants)
    await rig.pass_time(400)
    assert (await rig.journal("A-2"))[-1] == "timer"
    broken = await rig.show("A-1")
    assert broken.saga.status == "stuck"
    assert broken.saga.error is not None
    assert b"EB7069" in broken.saga.error
    assert "undo:0" in {timer.name for timer in broken.timers}  # it rings again
    await rig.bus.dead_letters.change("redrive", actor=ME, group="stock")
    await rig.bus.until_idle()
    assert await rig.status("A-2") == "compensated"
    assert await rig.status("A-1") == "stuck"
    await write(rig, plan)
    await rig.bus.sagas.retry(await rig.id_of("A-1"), actor=ME)
    await rig.bus.until_idle()
    assert await rig.status("A-1") == "compensated"
    assert await rig.effects("undone", "A-1") == ["reserve"]


async def test_what_comes_for_it_is_kept_and_its_neighbours_in_the_batch_take_theirs(
    rig: Rig, participants: Told
) -> None:
    await both_turn_back(rig, participants)
    async with rig.bus.transaction() as tx:
        await tx.publish(OrderCancelled(order_id="A-1"))
        await tx.publish(OrderCancelled(order_id="A-2"))
    await rig.bus.until_idle()
    assert await rig.stashed() == 1
    assert await rig.status("A-1") == "stuck"
    assert "received" in await rig.journal("A-2")
    assert await rig.bus.dead_letters.list(group="place-order") == []


async def test_a_verb_says_what_is_wrong(rig: Rig, participants: Told) -> None:
    await both_turn_back(rig, participants)
    with pytest.raises(SagaError, match="EB7069"):
        await rig.bus.sagas.retry(await rig.id_of("A-1"), actor=ME)
