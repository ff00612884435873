"""Which message a line of the log belongs to, and lines as JSON."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from eventbus.errors import EventBusError
from eventbus.handler import Invocation
from eventbus.resilience import redact

_call: ContextVar[Invocation | None] = ContextVar("eventbus_call", default=None)


async def logging_middleware(
    invocation: Invocation, call_next: Callable[[Invocation], Awaitable[None]]
) -> None:
    """Let `LogContext` know which message is handled, for every line logged meanwhile."""
    token = _call.set(invocation)
    try:
        await call_next(invocation)
    finally:
        _call.reset(token)


class LogContext(logging.Filter):
    """Puts the message that is handled on every record, as `record.eventbus`; drops none.

    Add it to a handler of the log, not to a logger: loggers do not filter what their children log.
    Fields that a line was given itself, `extra={"eventbus": {…}}`, win. `JsonFormatter` and
    `LineFormatter` add the fields without it too, unless they format in another thread.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        record.eventbus = fields_of(record)
        return True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Message id, type, topic, group, handler, attempt, correlation and trace id, error code."""
    given: Mapping[str, Any] = getattr(record, "eventbus", None) or {}
    call = _call.get()
    error = record.exc_info[1] if record.exc_info else None
    code = {"code": error.code} if isinstance(error, EventBusError) else {}
    return {**(_fields_of_call(call) if call else {}), **code, **given}


def _fields_of_call(call: Invocation) -> dict[str, Any]:
    context = call.context
    message, handler = context.message, call.handler
    fields = {
        "event_id": message.id,
        "event_type": message.type,
        "topic": message.topic,
        "group": context.group,
        "handler": getattr(handler, "__qualname__", type(handler).__qualname__),
        "attempt": context.attempt,
        "correlation_id": message.headers.get("correlationid"),
        "trace_id": _trace_id(message.headers.get("traceparent", "")),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _trace_id(traceparent: str) -> str | None:
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else None


class JsonFormatter(logging.Formatter):
    """One JSON object in one line of ASCII: time, level, logger, message, fields, a traceback.

    Line breaks and control characters in the text are escaped, passwords are redacted.
    """

    def format(self, record: logging.LogRecord) -> str:
        """A line without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        # what a line says of itself must not pass for the time or the level
        line |= {name: value for name, value in fields_of(record).items() if name not in line}
        if record.exc_info and record.exc_info[1]:
            line["exception"] = redact(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str)


_PARTS = re.compile(r"\n  (where|why|next) +")  # of one of our errors; the rest is escaped


class LineFormatter(logging.Formatter):
    """A line for people, the fields behind it as `name=value`.

    What is logged cannot pass for a second line: its line breaks are escaped, tracebacks indented.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The first line; a traceback follows below it."""
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        said = _PARTS.sub(r" · \1: ", f"{super().formatMessage(record)} {fields}".rstrip())
        return one_line(redact(said))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The traceback, redacted and indented."""
        lines = redact(super().formatException(ei)).split("\n")
        return "\n".join(f"  {one_line(line)}" for line in lines)


def one_line(text: str) -> str:
    r"""Text with its line breaks and control characters escaped: nobody can forge a line (`\n`)."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
