"""Values between messages and rows."""

from dataclasses import replace
from datetime import timedelta

from eventbus.message import Message
from eventbus.postgres.rows import clean, parked_columns
from eventbus.storage.parking import Failure, Parked

MESSAGE = Message(id="7", type="a.b", source="s", topic="a", payload=b"", key="k")


def _parked(*, attempts: int, text: str | None) -> Parked:
    failure = None
    if text is not None:
        failure = Failure(reason="failed", code="EB4101", type="E", text=text, fingerprint="E@f")
    delay = timedelta(seconds=1)
    return Parked(
        message=MESSAGE, key="k", attempts=attempts, delay=delay, origin="o", failure=failure
    )


def test_a_message_given_twice_is_one_row_with_the_last_failure_and_all_attempts() -> None:
    other = replace(_parked(attempts=0, text=None), message=replace(MESSAGE, id="8"))
    rows = [_parked(attempts=3, text="first"), other, _parked(attempts=1, text="second")]
    columns = parked_columns([*rows, _parked(attempts=0, text=None)])
    assert columns[2] == ["7", "8"]
    assert columns[11] == [3, 0]
    assert columns[15] == ["second", None]


def test_text_is_cleaned_of_what_the_server_refuses_and_cut() -> None:
    assert clean("a\0b\udcffc") == "ab?c"
    assert len(clean("ü" * 8192).encode()) <= 8192
