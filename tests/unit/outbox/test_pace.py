"""How many rows a call of the relay takes, and when it waits for more."""

from datetime import timedelta

from eventbus.message import Message, new_id
from eventbus.outbox.pace import BACKLOG, BATCH, LIGHT_BYTES, LONGEST_GATHERING_SECONDS, MANY, Pace
from eventbus.storage.outbox import Outgoing


def rows(amount: int, payload: bytes = b"{}") -> list[Outgoing]:
    message = Message(id=new_id(), type="t", source="s", topic="t", payload=payload)
    one = Outgoing(partition=0, row=1, message=message, attempts=0, age=timedelta())
    return [one] * amount


def test_a_backlog_is_read_in_larger_calls_until_it_is_worked_off() -> None:
    pace = Pace(None)
    assert pace.rows == BATCH
    pace.came(rows(BATCH))
    assert pace.rows == BACKLOG
    pace.came(rows(BACKLOG - 1))
    assert pace.rows == BATCH


def test_a_backlog_of_heavy_messages_is_not() -> None:
    pace = Pace(None)
    pace.came(rows(BATCH, b"x" * (LIGHT_BYTES // BATCH + 1)))
    assert pace.rows == BATCH


def test_what_was_asked_for_is_the_most() -> None:
    pace = Pace(7)
    pace.came(rows(7))
    pace.went(7)
    assert pace.rows == 7


def test_a_link_that_was_too_slow_is_tried_with_less_and_then_with_a_little_more() -> None:
    pace = Pace(None)
    pace.late(200)
    assert pace.rows == 50
    pace.went(50)
    assert pace.rows == 57
    pace.went(3)
    assert pace.rows == 57
    for _ in range(100):
        pace.went(pace.rows)
    assert pace.rows == BATCH
    pace.late(1)
    assert pace.rows == 1


def test_rows_gather_after_many_and_not_if_more_wait_already() -> None:
    pace = Pace(None)
    pace.came(rows(MANY))
    assert pace.gathering_seconds(MANY, 0.01) == 0.02
    assert pace.gathering_seconds(MANY, 1.0) == LONGEST_GATHERING_SECONDS
    assert pace.gathering_seconds(MANY - 1, 1.0) == 0
    pace.came(rows(BATCH))
    assert pace.gathering_seconds(BATCH, 1.0) == 0
