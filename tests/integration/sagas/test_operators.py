"""What operators see and do: every change is a transition with who and why."""

from datetime import timedelta
from uuid import uuid4

import pytest

from eventbus.errors import SagaError
from eventbus.storage.sagas import SagaQuery
from tests.integration.sagas.rig import Rig
from tests.integration.sagas.shop import Told
from tests.unit.saga.shop import OrderCancelled, OrderPlaced, PaymentSeen

ME = "tests@here"


async def test_a_saga_is_started_by_its_event_without_a_broker(rig: Rig) -> None:
    with pytest.raises(SagaError, match="EB7066"):
        await rig.bus.sagas.start(OrderPlaced(order_id="A-1"))  # two sagas start with it
    with pytest.raises(SagaError, match="EB7066"):
        await rig.bus.sagas.start(PaymentSeen(payment_id="P-1"))


async def test_a_list_has_what_is_asked_for(rig: Rig, participants: Told) -> None:
    participants.not_shipped.add("A-1")
    await rig.publish(OrderPlaced(order_id="A-1"), OrderPlaced(order_id="A-2"))
    (one,) = await rig.bus.sagas.list(SagaQuery(saga="place-order", status="running"))
    assert (one.key, one.step, one.definition, one.paused) == ("A-1", "ship", 1, False)
    (same,) = await rig.bus.sagas.list(SagaQuery(step="ship", ids=[one.saga_id]))
    assert same.saga_id == one.saga_id
    assert await rig.bus.sagas.list(SagaQuery(older_than=timedelta(hours=1))) == []
    counts = {
        (row.saga, row.step, row.status): row.count for row in await rig.bus.sagas.in_flight()
    }
    assert counts["place-order", "ship", "running"] == 1


async def test_what_is_armed_and_due_is_shown(rig: Rig, participants: Told) -> None:
    participants.not_shipped.add("A-1")
    await rig.publish(OrderPlaced(order_id="A-1"))
    names = {timer.name for timer in (await rig.show("A-1")).timers}
    assert names == {"deadline", "step:2"}
    assert await rig.bus.sagas.timers(due=True) == []


async def test_a_pause_holds_inputs_and_timers_until_it_is_resumed(
    rig: Rig, participants: Told
) -> None:
    participants.not_shipped.add("A-1")
    await rig.publish(OrderPlaced(order_id="A-1"))
    saga_id = await rig.id_of("A-1")
    await rig.bus.sagas.pause(saga_id, actor=ME, reason="to look")
    assert {timer.due_in for timer in (await rig.show("A-1")).timers} == {None}
    participants.not_shipped.clear()
    await rig.bus.dead_letters.change("redrive", actor=ME, group="shipping")
    await rig.publish(OrderCancelled(order_id="A-1"))
    assert await rig.status("A-1") == "running"
    assert await rig.stashed() == 2
    await rig.bus.sagas.resume(saga_id, actor=ME)
    await rig.bus.until_idle()
    assert await rig.status("A-1") == "completed"
    last = [each.entry for each in (await rig.show("A-1")).journal if each.entry.actor]
    assert [(each.input_id, each.actor) for each in last] == [("pause", ME), ("resume", ME)]


async def test_a_cancelled_saga_is_undone(rig: Rig, participants: Told) -> None:
    participants.declined.add("A-1")
    participants.no_release.add("A-1")
    await rig.publish(OrderPlaced(order_id="A-1"))
    with pytest.raises(SagaError, match="EB7068"):
        await rig.bus.sagas.cancel(await rig.id_of("A-1"), actor=ME)
    for _ in range(11):
        await rig.pass_time(400)
    assert await rig.status("A-1") == "stuck"
    stuck = (await rig.show("A-1")).stuck
    assert stuck is not None
    assert stuck.reason == "undo-failed"
    status = await rig.bus.sagas.skip(await rig.id_of("A-1"), actor=ME, reason="released by hand")
    assert status == "compensated"


async def test_a_dry_run_says_the_status_and_writes_nothing(rig: Rig, participants: Told) -> None:
    participants.not_shipped.add("A-1")
    await rig.publish(OrderPlaced(order_id="A-1"))
    before = await rig.show("A-1")
    status = await rig.bus.sagas.change("cancel", before.saga.saga_id, actor=ME, dry_run=True)
    assert status == "resolving"
    after = await rig.show("A-1")
    assert (after.saga.version, after.saga.status) == (before.saga.version, "running")
    assert after.journal == before.journal


async def test_a_saga_that_is_not_there_is_named(rig: Rig) -> None:
    with pytest.raises(SagaError, match="EB7067"):
        await rig.bus.sagas.show(uuid4())
    with pytest.raises(SagaError, match="EB7067"):
        await rig.bus.sagas.pause(uuid4(), actor=ME)
