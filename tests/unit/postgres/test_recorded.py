"""Events between messages and rows."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from eventbus.message import Message, identity_of, new_id
from eventbus.postgres.recorded import (
    columns,
    event_columns,
    event_values,
    message_of,
    time_of,
)
from eventbus.storage.verdicts import schema_version_of

SCHEMA = "urn:eventbus:schema:a.b:"


def some_event(id: str = "", **headers: str) -> Message:
    return Message(
        id=id or new_id(),
        type="a.b",
        source="s",
        topic="a",
        payload=b"{}",
        key="k",
        headers=headers,
    )


def test_a_row_is_the_message_that_was_appended() -> None:
    for message in (some_event(tenant="t"), some_event("foreign")):
        kind, identity, data, meta, *_ = event_values(message)
        assert message_of(kind, UUID(str(identity)).bytes, data, meta) == message


@pytest.mark.parametrize("year", [1999, 2026, 2199])
def test_the_time_of_an_event_is_told_to_the_microsecond(year: int) -> None:
    for microsecond in range(0, 1_000_000, 997):
        moment = datetime(year, 12, 31, 23, 59, 59, microsecond, tzinfo=UTC)
        since = (moment - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        assert time_of(since.to_bytes(8, "big", signed=True)) == moment


def test_columns_that_say_the_usual_everywhere_are_left_out() -> None:
    *_, versions, correlations, causations = event_columns([some_event(), some_event()])
    assert (versions, correlations, causations) == ((), (), ())
    second = some_event(dataschema=f"{SCHEMA}2", correlationid="flow", causationid=new_id())
    *_, versions, correlations, causations = event_columns([some_event(), second])
    assert tuple(versions) == (1, 2)
    assert tuple(causations) == (None, second.headers["causationid"])
    assert correlations[0] is None
    assert correlations[1] == identity_of("s", "flow")


@pytest.mark.parametrize(
    ("schema", "version"),
    [
        ("", 1),
        (f"{SCHEMA}3", 3),
        (f"{SCHEMA}32767", 32767),
        (f"{SCHEMA}32768", 0),  # only the header says it
        (f"{SCHEMA}x", 1),
        ("https://example.com/schemas:3", 1),  # not ours, as decoding takes it
    ],
)
def test_the_schema_version_of_a_row(schema: str, version: int) -> None:
    assert schema_version_of(schema) == version


def test_columns_of_a_table_are_named_by_it() -> None:
    assert columns("e").startswith("e.position, e.version, e.type, uuid_send(e.event_id), ")
    assert "timestamptz_send(e.recorded_at)" in columns("e")
