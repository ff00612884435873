"""Tables and JSON: aligned, cut where a terminal is narrow, safe to look at."""

import json

import pytest

from eventbus.cli.output import cell, table, to_json
from eventbus.errors import StorageError

ROWS: list[dict[str, str | None]] = [
    {"id": "0199a0c2", "key": "A-1", "error": "card refused"},
    {"id": "0199a0c3", "key": None, "error": "mail server is away, and will be for a while"},
]
COLUMNS = ("id", "key", "error")


@pytest.mark.parametrize(
    ("width", "last"),
    [
        (40, "0199a0c3  -    mail server is away, and…"),
        (80, "0199a0c3  -    mail server is away, and will be for a while"),
        (200, "0199a0c3  -    mail server is away, and will be for a while"),
    ],
)
def test_a_table_keeps_to_the_width(width: int, last: str) -> None:
    lines = table(ROWS, COLUMNS, width=width)
    assert lines[:2] == ["ID        KEY  ERROR", "0199a0c2  A-1  card refused"]
    assert lines[2] == last
    assert max(map(len, lines)) <= width


def test_a_table_without_rows_is_its_headings() -> None:
    assert table([], ("id", "age_seconds")) == ["ID  AGE SECONDS"]


def test_a_message_cannot_steer_the_terminal() -> None:
    assert cell("\x1b[2Jgone\n") == "\\x1b[2Jgone\\x0a"


def test_an_error_of_ours_is_one_line_that_can_be_read() -> None:
    error = StorageError("EB5009", "a value does not fit", where="SELECT", why="22012", next="mend")
    assert cell(str(error)) == (
        "EB5009 a value does not fit · where: SELECT · why: 22012 · next: mend"
    )


def test_bytes_are_text_or_base64() -> None:
    assert json.loads(to_json({"a": b'{"x": 1}', "b": b"\xff"})) == {
        "a": '{"x": 1}',
        "b": {"base64": "/w=="},
    }
