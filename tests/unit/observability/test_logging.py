"""Every line says which message it belongs to, and nobody can forge one."""

import io
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.errors import DecodeError, StorageError
from eventbus.handler import Invocation
from eventbus.observability.logging import (
    JsonFormatter,
    LineFormatter,
    LogContext,
    logging_middleware,
    one_line,
)
from tests.unit.observability.calls import TRACE, TRACEPARENT, invocation, message


class Out:
    """A logger of its own, and what it wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(formatter)
        self.log = logging.Logger("shop.app", logging.DEBUG)
        self.log.addHandler(self.handler)

    def text(self) -> str:
        return self._stream.getvalue()

    def one(self) -> dict[str, Any]:
        (line,) = self.text().splitlines()
        fields: dict[str, Any] = json.loads(line)
        return fields


@pytest.fixture
def out() -> Out:
    return Out(JsonFormatter())


@pytest.fixture
def lines() -> Out:
    return Out(LineFormatter())


def fail(text: str) -> None:
    raise ValueError(text)


def fail_to_decode() -> None:
    raise DecodeError("EB3102", "does not validate", where="x", why="y", next="z")


HANDLED = {
    "event_id": "m-1",
    "event_type": "shop.order-placed",
    "topic": "shop",
    "group": "billing",
    "handler": "bill",
    "attempt": 3,
    "correlation_id": "c-1",
    "trace_id": TRACE,
}


def test_a_line_is_one_object_with_time_level_and_logger(out: Out) -> None:
    out.log.warning("hello %s", "world")
    fields = out.one()
    assert fields.pop("time").endswith("+00:00")
    assert fields == {"level": "WARNING", "logger": "shop.app", "message": "hello world"}


async def test_what_a_handler_logs_says_which_message_it_handles(out: Out) -> None:
    async def call(_: Invocation) -> None:
        out.log.info("billed")

    incoming = message(traceparent=TRACEPARENT, correlationid="c-1")
    await logging_middleware(invocation(incoming), call)
    assert out.one().items() >= HANDLED.items()


async def test_after_the_call_lines_belong_to_no_message(out: Out) -> None:
    async def call(_: Invocation) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await logging_middleware(invocation(), call)
    out.log.info("idle")
    assert "event_id" not in out.one()


async def test_what_is_not_known_is_left_out(out: Out) -> None:
    async def call(_: Invocation) -> None:
        out.log.info("billed")

    await logging_middleware(invocation(message(traceparent="nonsense")), call)
    assert out.one().keys().isdisjoint({"trace_id", "correlation_id", "code"})


async def test_fields_that_a_line_is_given_win(out: Out) -> None:
    async def call(_: Invocation) -> None:
        out.log.info("parked", extra={"eventbus": {"attempt": 4, "code": "EB4101"}})

    await logging_middleware(invocation(), call)
    assert (out.one()["attempt"], out.one()["code"]) == (4, "EB4101")
    assert out.one()["group"] == "billing"


def test_a_field_cannot_pass_for_the_level(out: Out) -> None:
    out.log.info("x", extra={"eventbus": {"level": "ERROR"}})
    assert out.one()["level"] == "INFO"


async def test_the_context_goes_with_a_record_to_another_thread(out: Out) -> None:
    records: list[logging.LogRecord] = []

    class Later(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    later = Later()
    later.addFilter(LogContext())
    out.log.addHandler(later)

    async def call(_: Invocation) -> None:
        out.log.info("billed")

    await logging_middleware(invocation(), call)
    assert json.loads(JsonFormatter().format(records[0]))["event_id"] == "m-1"


def test_an_error_of_ours_brings_its_code_and_a_traceback(out: Out) -> None:
    try:
        fail_to_decode()
    except DecodeError:
        out.log.exception("quarantined")
    assert out.one()["code"] == "EB3102"
    assert "Traceback" in out.one()["exception"]


def test_the_code_that_a_line_is_given_wins_over_the_error_s(out: Out) -> None:
    try:
        fail_to_decode()
    except DecodeError:
        out.log.exception("parked", extra={"eventbus": {"code": "EB4101"}})
    assert out.one()["code"] == "EB4101"


def test_the_stack_is_kept_if_asked_for(out: Out) -> None:
    out.log.info("slow", stack_info=True)
    assert "test_logging" in out.one()["stack"]


def test_passwords_are_redacted_in_message_and_traceback(out: Out, lines: Out) -> None:
    for each in (out, lines):
        try:
            fail("amqp://shop:s3cret@host")
        except ValueError:
            each.log.exception("at amqp://shop:s3cret@host")
        assert "s3cret" not in each.text()
        assert each.text().count("amqp://shop:***@host") >= 2


@given(st.text(st.characters()))
def test_whatever_is_logged_stays_one_line_of_json(text: str) -> None:
    out = Out(JsonFormatter())
    out.log.info("%s", text, extra={"eventbus": {"group": text}})
    assert out.text().isascii()
    assert out.one()["group"] == text


def test_what_json_does_not_know_is_written_as_text(out: Out) -> None:
    out.log.info("x", extra={"eventbus": {"group": {1, 2}}})
    assert out.one()["group"] == "{1, 2}"


async def test_a_line_for_people_has_the_fields_behind_it(lines: Out) -> None:
    async def call(_: Invocation) -> None:
        lines.log.info("billed")

    await logging_middleware(invocation(), call)
    assert " INFO shop.app billed event_id=m-1 event_type=shop.order-placed" in lines.text()


def test_a_line_break_cannot_forge_a_line(lines: Out) -> None:
    lines.log.info("a\r\nb\x1b[31m", extra={"eventbus": {"group": "c\nd"}})
    assert lines.text().endswith(r" INFO shop.app a\r\nb\x1b[31m group=c\nd" + "\n")


def test_a_traceback_cannot_forge_a_line(lines: Out) -> None:
    try:
        fail("x\n2026-01-01 00:00:00,000 INFO shop.app forged\ry")
    except ValueError:
        lines.log.exception("failed")
    first, *rest = lines.text().splitlines()
    assert first.endswith("ERROR shop.app failed")
    assert len(rest) > 3
    assert all(line.startswith("  ") for line in rest)


@given(st.text(st.characters()))
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1
    assert one_line(one_line(text)) == one_line(text)


def test_an_error_of_ours_is_one_line_that_can_be_read(lines: Out) -> None:
    error = StorageError("EB5013", "read-only", where="leases", why="25006 no", next="the primary")
    lines.log.warning("the relay waits: %s", error)
    assert lines.text().endswith(
        "the relay waits: EB5013 read-only · where: leases · why: 25006 no · next: the primary\n"
    )
