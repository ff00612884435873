"""A saga on a bus: steps, answers, undos, timers, early and repeated messages."""

from tests.integration.sagas.rig import Rig
from tests.integration.sagas.shop import Told
from tests.unit.saga.shop import OrderCancelled, OrderPlaced, PaymentSeen


async def test_a_saga_whose_steps_succeed_is_completed(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-1"))
    assert await rig.status("A-1") == "completed"
    assert await rig.effects("applied", "A-1") == ["reserve", "charge", "ship"]
    assert await rig.effects("undone", "A-1") == []
    assert await rig.journal("A-1") == ["started", "replied", "replied", "replied"]


async def test_a_rejection_undoes_what_was_done(rig: Rig, participants: Told) -> None:
    participants.declined.add("A-2")
    await rig.publish(OrderPlaced(order_id="A-2"))
    assert await rig.status("A-2") == "compensated"
    assert await rig.effects("applied", "A-2") == ["reserve"]
    assert await rig.effects("undone", "A-2") == ["reserve"]


async def test_an_undo_that_keeps_failing_makes_it_stuck_and_frees_it_when_it_succeeds(
    rig: Rig, participants: Told
) -> None:
    participants.declined.add("A-3")
    participants.no_release.add("A-3")
    await rig.publish(OrderPlaced(order_id="A-3"))
    assert await rig.status("A-3") == "compensating"
    for _ in range(11):
        await rig.pass_time(400)
    assert await rig.status("A-3") == "stuck"
    participants.no_release.clear()
    await rig.bus.dead_letters.change("redrive", actor="tests", group="stock")
    await rig.bus.until_idle()
    assert await rig.status("A-3") == "compensated"
    assert await rig.effects("undone", "A-3") == ["reserve"]


async def test_sagas_of_many_orders_do_not_meet(rig: Rig, participants: Told) -> None:
    orders = [f"B-{number}" for number in range(40)]
    participants.declined.update(orders[::4])
    await rig.publish(*(OrderPlaced(order_id=order) for order in orders))
    found = {order: await rig.status(order) for order in orders}
    wanted = {
        order: "compensated" if order in participants.declined else "completed" for order in orders
    }
    assert found == wanted


async def test_a_second_start_and_a_late_cancel_change_nothing(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="A-4"))
    await rig.publish(OrderPlaced(order_id="A-4"), OrderCancelled(order_id="A-4"))
    assert await rig.status("A-4") == "completed"
    assert await rig.effects("applied", "A-4") == ["reserve", "charge", "ship"]


async def test_a_cancel_before_its_saga_waits_for_it(rig: Rig) -> None:
    await rig.publish(OrderCancelled(order_id="A-5"))
    assert await rig.stashed() == 1
    await rig.publish(OrderPlaced(order_id="A-5"))
    assert await rig.status("A-5") == "compensated"
    assert await rig.stashed() == 0


async def test_a_step_without_an_answer_is_sent_again_and_has_one_effect(
    rig: Rig, participants: Told
) -> None:
    participants.not_shipped.add("A-6")
    await rig.publish(OrderPlaced(order_id="A-6"))
    assert await rig.status("A-6") == "running"
    await rig.pass_time(601)
    assert await rig.status("A-6") == "resolving"
    participants.not_shipped.clear()
    await rig.bus.dead_letters.change("redrive", actor="tests", group="shipping")
    await rig.bus.until_idle()
    assert await rig.status("A-6") in {"completed", "compensated"}
    applied = await rig.effects("applied", "A-6")
    undone = await rig.effects("undone", "A-6")
    assert (applied, undone) in [
        (["reserve", "charge", "ship"], []),
        (["reserve", "charge"], ["charge", "reserve"]),
    ]


async def test_local_steps_calls_and_waits_run_in_the_worker(rig: Rig) -> None:
    await rig.publish(OrderPlaced(order_id="silent"))
    assert await rig.orders() == ["silent"]
    assert await rig.status("silent", "mixed") == "running"
    await rig.publish(PaymentSeen(payment_id="P-silent"))
    await rig.pass_time(61)
    assert await rig.status("silent", "mixed") == "completed"


async def test_an_event_for_a_key_of_the_state_may_come_before_its_saga(rig: Rig) -> None:
    await rig.publish(PaymentSeen(payment_id="P-silent"))
    await rig.publish(OrderPlaced(order_id="silent"))
    await rig.pass_time(61)
    assert await rig.status("silent", "mixed") == "completed"
    assert await rig.stashed() == 0
