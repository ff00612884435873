"""What a broker refuses again and again does not fill the log, and is not kept silent either."""

import pytest

from eventbus.message import Message
from eventbus.outbox import refusals
from eventbus.outbox.refusals import AGAIN_SECONDS, Refusals
from eventbus.storage.outbox import Outgoing


def row(id: str) -> Outgoing:
    message = Message(id=id, type="t.done", source="/t", topic="t", payload=b"{}")
    return Outgoing(partition=0, row=1, message=message, attempts=0)


def test_a_reason_is_told_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    told = Refusals(lambda: now)
    told.tell([(row("a"), "no route")])
    told.tell([(row("a"), "no route"), (row("b"), "no route"), (row("c"), "too large")])
    assert [one.getMessage() for one in caplog.records] == [
        "the broker refused message a: no route; it is tried again",
        "the broker refused message c: too large; it is tried again",
    ]
    now = AGAIN_SECONDS
    told.tell([(row("b"), "no route")])
    assert caplog.records[-1].getMessage() == (
        "the broker refused 3 times, the last time message b: no route; it is tried again"
    )


def test_reasons_are_forgotten_when_there_are_too_many(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "MOST", 1)
    told = Refusals(lambda: 0.0)
    told.tell([(row("a"), "one"), (row("b"), "two"), (row("c"), "three")])
    told.tell([(row("a"), "one")])
    assert caplog.text.count("message a: one") == 2
