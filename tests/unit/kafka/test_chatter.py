"""A client that logs each attempt does not fill the log of who uses it."""

import logging

import pytest

from eventbus_kafka import chatter
from eventbus_kafka.chatter import AGAIN_SECONDS, Chatter, calm


def test_a_kind_of_line_is_heard_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    heard = Chatter(lambda: now)

    def said(text: str, *args: object) -> None:
        record = logging.LogRecord("aiokafka.conn", logging.WARNING, "", 0, text, args, None)
        heard.handle(record)

    said("cannot connect to node %s", 1)
    said("cannot connect to node %s", 2)
    said("no coordinator")
    assert caplog.messages == ["cannot connect to node 1", "no coordinator"]
    now = AGAIN_SECONDS
    said("cannot connect to node %s", 3)
    assert caplog.messages[-1] == "cannot connect to node 3"


def test_no_more_kinds_are_remembered_than_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chatter, "MOST", 2)
    heard = Chatter(lambda: 0.0)
    for text in ("one", "two", "three", "one"):
        heard.handle(logging.LogRecord("aiokafka", logging.WARNING, "", 0, text, (), None))
    assert len(caplog.messages) == 4


def test_it_stands_between_the_client_and_the_root_once() -> None:
    calm()
    calm()
    logger = logging.getLogger("aiokafka")
    assert [type(one) for one in logger.handlers].count(Chatter) == 1
    assert not logger.propagate


def test_without_handlers_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    Chatter().handle(logging.LogRecord("aiokafka", logging.ERROR, "", 0, "away", (), None))
    assert capsys.readouterr().err == ""
