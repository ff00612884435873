"""What waits says so once, and once a minute, and when it goes on."""

import logging

import pytest

from eventbus.resilience.seldom import AGAIN_SECONDS, SeldomLog

log = logging.getLogger("tests.seldom")


def test_a_kind_is_told_at_once_then_once_a_minute_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    lines = SeldomLog(log, lambda: now)
    lines.over("it goes on")
    for _ in range(3):
        lines.tell("EB5001", "it waits: %s", "away")
    lines.tell("EB5007", "it waits: %s", "slow")
    now = AGAIN_SECONDS
    lines.tell("EB5001", "it waits: %s", "away")
    lines.over("it goes on")
    lines.over("it goes on")
    lines.tell("EB5001", "it waits: %s", "away")
    assert caplog.messages == [
        "it waits: away",
        "it waits: slow",
        "it waits: away (2 more in between)",
        "it goes on",
        "it waits: away",
    ]


def test_what_nobody_foresaw_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        int("unforeseen")
    except ValueError as error:
        SeldomLog(log).tell("ValueError", "again: %s", error, level=logging.ERROR, trace=True)
    assert "Traceback" in caplog.text
    assert caplog.records[0].levelname == "ERROR"
