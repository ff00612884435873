"""Both front ends send the same commands and end in the same status, whatever happens."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus.saga.input import GaveUp
from tests.unit.saga.play import Play
from tests.unit.saga.shop import OrderCancelled, OrderPlaced, OrderProcess, PlaceOrder

CANCEL = OrderCancelled(order_id="A-1")
Story = Callable[[Play], Any]


def reserved(play: Play) -> None:
    play.reply("reserve")


def charged(play: Play) -> None:
    reserved(play)
    play.reply("charge")


def undo_all(play: Play) -> None:
    while play.saga.status == "compensating":
        row = next(r for r in play.steps if r.phase == "undo" and r.status == "dispatched")
        play.undo(row.name)


def success(play: Play) -> None:
    charged(play)
    play.reply("ship")


def rejection_of_the_first(play: Play) -> None:
    play.reply("reserve", "rejected")


def rejection_of_the_second(play: Play) -> None:
    reserved(play)
    play.reply("charge", "rejected")
    undo_all(play)


def rejected_pivot(play: Play) -> None:
    charged(play)
    play.reply("ship", "rejected")
    undo_all(play)


def timeout_of_the_first(play: Play) -> None:
    for _ in range(3):
        play.fire("step:0")
    undo_all(play)


def timeout_of_the_second(play: Play) -> None:
    reserved(play)
    play.fire("step:1")
    play.reply("charge")
    undo_all(play)


def timeout_of_the_pivot(play: Play) -> None:
    charged(play)
    play.fire("step:2")
    play.reply("ship")


def timeout_of_the_question(play: Play) -> None:
    charged(play)
    play.fire("step:2")
    play.fire_until("resolve:2", "stuck")
    play.reply("ship", "cancelled")
    undo_all(play)


def deadline(play: Play) -> None:
    reserved(play)
    play.fire("deadline")
    undo_all(play)


def duplicates(play: Play) -> None:
    play.reply("reserve")
    play.reply("reserve")
    play.reply("charge")
    play.reply("reserve")
    play.reply("charge")
    play.reply("ship")
    play.reply("ship")


def failing_undo(play: Play) -> None:
    reserved(play)
    play.reply("charge", "rejected")
    play.fire_until("undo:0", "stuck")
    play.fire("undo:0")
    play.undo("reserve")


def rejected_undo(play: Play) -> None:
    reserved(play)
    play.reply("charge", "rejected")
    play.undo("reserve", "rejected")
    play.verb("retry")
    undo_all(play)


def cancel_at_once(play: Play) -> None:
    play.event(CANCEL)
    undo_all(play)


def cancel_in_the_middle(play: Play) -> None:
    reserved(play)
    play.event(CANCEL)
    play.event(CANCEL)
    undo_all(play)


def cancel_with_the_pivot_in_flight_that_takes_effect(play: Play) -> None:
    charged(play)
    play.event(CANCEL)
    play.reply("ship")


def cancel_with_the_pivot_in_flight_that_does_not(play: Play) -> None:
    charged(play)
    play.event(CANCEL)
    play.reply("ship", "cancelled")
    undo_all(play)


def cancel_after_the_end(play: Play) -> None:
    success(play)
    play.event(CANCEL)


def contradiction(play: Play) -> None:
    reserved(play)
    play.reply("reserve", "rejected")
    play.verb("retry")
    play.reply("charge")


def an_input_that_fails(play: Play) -> None:
    play.feed(GaveUp("m"))
    play.verb("compensate")
    undo_all(play)


def an_operator_who_knows(play: Play) -> None:
    charged(play)
    play.fire("step:2")
    play.verb("resolve", step="ship", reply={"shipment_id": "S"}, **{"as": "done"})


def a_second_start(play: Play) -> None:
    from eventbus.saga.input import Started

    play.feed(Started(OrderPlaced(order_id="A-1")))


STORIES: list[Story] = [
    success,
    rejection_of_the_first,
    rejection_of_the_second,
    rejected_pivot,
    timeout_of_the_first,
    timeout_of_the_second,
    timeout_of_the_pivot,
    timeout_of_the_question,
    deadline,
    duplicates,
    failing_undo,
    rejected_undo,
    cancel_at_once,
    cancel_in_the_middle,
    cancel_with_the_pivot_in_flight_that_takes_effect,
    cancel_with_the_pivot_in_flight_that_does_not,
    cancel_after_the_end,
    contradiction,
    an_input_that_fails,
    an_operator_who_knows,
    a_second_start,
]


class Told(Play):
    """Remembers what was sent, and the status after every input."""

    def __init__(self, cls: type[Any]) -> None:
        self.sent: list[Any] = []
        super().__init__(cls)

    def feed(self, input: Any) -> Any:
        decision = super().feed(input)
        sent = [(s.phase, s.step, s.effect_id, s.target, s.command) for s in decision.commands]
        timers = sorted(self.timers.items())
        self.sent.append((decision.status, decision.intent, sent, timers, self.state))
        return decision


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_both_front_ends_do_the_same(story: Story) -> None:
    steps, process = Told(PlaceOrder), Told(OrderProcess)
    story(steps)
    story(process)
    assert process.sent == steps.sent
    assert process.statuses() == steps.statuses()
    assert len(steps.sent) > 1
