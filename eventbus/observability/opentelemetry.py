"""Spans around making, sending and handling messages; the one file that owns OpenTelemetry's names.

Source: OpenTelemetry semantic conventions for messaging 1.44.0 (development) and CloudEvents; W3C
Trace Context. A test compares the names with `opentelemetry.semconv`.
"""

import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from eventbus.errors import MissingExtraError
from eventbus.handler import Invocation, Middleware, Reject, Retry
from eventbus.instrumentation import Instrumentation, NoInstrumentation
from eventbus.message import Message

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Link, Span, TracerProvider

log: logging.Logger = logging.getLogger("eventbus.observability")

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION_NAME = "messaging.destination.name"
BATCH_MESSAGE_COUNT = "messaging.batch.message_count"
CONSUMER_GROUP_NAME = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
KAFKA_MESSAGE_KEY = "messaging.kafka.message.key"
ERROR_TYPE = "error.type"
EVENT_ID = "cloudevents.event_id"
EVENT_SOURCE = "cloudevents.event_source"
EVENT_SPEC_VERSION = "cloudevents.event_spec_version"
EVENT_SUBJECT = "cloudevents.event_subject"
EVENT_TYPE = "cloudevents.event_type"
OPERATION_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"
SENT_MESSAGES = "messaging.client.sent.messages"
CONSUMED_MESSAGES = "messaging.client.consumed.messages"

# Ours: no convention has them.
GROUP, HANDLER = "eventbus.group", "eventbus.handler"
ATTEMPT, OUTCOME = "eventbus.attempt", "eventbus.outcome"

# The boundaries that the conventions ask for.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

DOUBLES = ("opentelemetry.instrumentation.aiokafka", "opentelemetry.instrumentation.aio_pika")


class OpenTelemetryInstrumentation:
    """Spans and the four messaging metrics, by providers given or global; never a payload.

    Args:
        tracer_provider: whose spans; the global one if None, even if it is set later.
        meter_provider: whose metrics; likewise.
        system: `messaging.system`: "kafka", "rabbitmq".
        also: gets every count, duration and gauge too: a `PrometheusInstrumentation`.

    Raises:
        MissingExtraError: EB1005, opentelemetry-api is not installed.
    """

    def __init__(
        self,
        tracer_provider: "TracerProvider | None" = None,
        meter_provider: "MeterProvider | None" = None,
        *,
        system: str = "eventbus",
        also: Instrumentation | None = None,
    ) -> None:
        self._spans = _Spans(tracer_provider, system, where="OpenTelemetryInstrumentation()")
        from opentelemetry.metrics import get_meter

        self._system = system
        self._also: Instrumentation = NoInstrumentation() if also is None else also
        meter = get_meter("eventbus", meter_provider=meter_provider, schema_url=SCHEMA_URL)
        self._sent = meter.create_counter(
            SENT_MESSAGES,
            "{message}",
            "Number of messages producer attempted to send to the broker.",
        )
        self._consumed = meter.create_counter(
            CONSUMED_MESSAGES,
            "{message}",
            "Number of messages that were delivered to the application.",
        )
        self._send_seconds = meter.create_histogram(
            OPERATION_DURATION,
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._process_seconds = meter.create_histogram(
            PROCESS_DURATION,
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        _warn_of_doubles()

    def count(self, name: str, amount: int = 1, /, **labels: str) -> None:
        """Deliveries become `messaging.client.consumed.messages`."""
        self._also.count(name, amount, **labels)
        if name == "consumed_total":
            self._consumed.add(
                amount,
                {
                    OPERATION_NAME: "receive",
                    SYSTEM: self._system,
                    DESTINATION_NAME: labels.get("topic", ""),
                    CONSUMER_GROUP_NAME: labels.get("group", ""),
                },
            )

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Calls of handlers become `messaging.process.duration`."""
        self._also.observe(name, seconds, **labels)
        if name == "handler_duration_seconds":
            self._process_seconds.record(
                seconds,
                {
                    OPERATION_NAME: "process",
                    SYSTEM: self._system,
                    CONSUMER_GROUP_NAME: labels.get("group", ""),
                },
            )

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """For `also` only: the conventions have no gauge."""
        self._also.gauge(name, value, **labels)

    def creating(self, type: str, topic: str) -> AbstractContextManager[Mapping[str, str]]:
        """A span `create <topic>`; the headers make it the parent of who handles the message."""
        return self._spans.create(type, topic)

    @contextmanager
    def sending(self, messages: Sequence[Message]) -> Iterator[None]:
        """A span `send <topic>` with links to where the messages were created."""
        attributes: dict[str, Any] = {OPERATION_NAME: "send", SYSTEM: self._system}
        if (topic := _one_topic(messages)) is not None:
            attributes[DESTINATION_NAME] = topic
        began = time.perf_counter()
        try:
            with self._also.sending(messages), self._spans.send(messages, topic):
                yield
        except BaseException as error:
            attributes[ERROR_TYPE] = _name_of(type(error))
            raise
        finally:
            self._sent.add(len(messages), attributes)
            self._send_seconds.record(time.perf_counter() - began, attributes)


def tracing(
    tracer_provider: "TracerProvider | None" = None,
    *,
    system: str = "eventbus",
    trace: Literal["parent", "link"] = "parent",
) -> Middleware:
    """A middleware that wraps each call of a handler in a span `process <topic>`.

    Its parent is the context in which the message was created, and it has a link to it; an invalid
    `traceparent` starts a new trace.

    Args:
        tracer_provider: whose spans; the global one if None, even if it is set later.
        system: `messaging.system`: "kafka", "rabbitmq".
        trace: "link": a trace of its own that only links to the creation context.

    Raises:
        MissingExtraError: EB1005, opentelemetry-api is not installed.
    """
    spans = _Spans(tracer_provider, system, where="tracing()")

    async def middleware(
        invocation: Invocation, call_next: Callable[[Invocation], Awaitable[None]]
    ) -> None:
        with spans.process(invocation, joins=trace == "parent") as span:
            try:
                await call_next(invocation)
            except (Retry, Reject) as answer:  # no errors: the span must not turn red
                span.set_attribute(OUTCOME, type(answer).__name__.lower())
                answered: Exception = answer
            except BaseException as error:
                span.set_attribute(OUTCOME, "failed")
                span.set_attribute(ERROR_TYPE, _name_of(type(error)))
                raise
            else:
                span.set_attribute(OUTCOME, "done")
                return
        raise answered

    return middleware


async def tracing_middleware(
    invocation: Invocation, call_next: Callable[[Invocation], Awaitable[None]]
) -> None:
    """`tracing()` with the global tracer provider."""
    await _default_tracing()(invocation, call_next)


@cache
def _default_tracing() -> Middleware:
    return tracing()


class _Spans:
    """Makes the spans: names, kinds, parents, links and attributes are decided here."""

    def __init__(self, provider: "TracerProvider | None", system: str, *, where: str) -> None:
        trace = _trace_api(where)
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._new_context = Context
        self._w3c = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("eventbus", tracer_provider=provider, schema_url=SCHEMA_URL)
        self._system = system

    @contextmanager
    def create(self, type: str, topic: str) -> Iterator[Mapping[str, str]]:
        attributes = {**self._operation("create", topic), EVENT_TYPE: type}
        headers: dict[str, str] = {}
        with self._tracer.start_as_current_span(
            f"create {topic}", kind=self._api.SpanKind.PRODUCER, attributes=attributes
        ) as span:
            self._w3c.inject(headers)
            with _error_type_on(span):
                yield headers

    @contextmanager
    def send(self, messages: Sequence[Message], topic: str | None) -> Iterator[None]:
        attributes = self._operation("send", topic)
        if len(messages) == 1:
            attributes[MESSAGE_ID] = messages[0].id
        else:
            attributes[BATCH_MESSAGE_COUNT] = len(messages)
        with (
            self._tracer.start_as_current_span(
                "send" if topic is None else f"send {topic}",
                kind=self._api.SpanKind.CLIENT,
                attributes=attributes,
                links=[link for message in messages for link in self._links(message)],
            ) as span,
            _error_type_on(span),
        ):
            yield

    def process(self, invocation: Invocation, *, joins: bool) -> "AbstractContextManager[Span]":
        message = invocation.context.message
        batch = len(invocation.what) if isinstance(invocation.what, Sequence) else None
        attributes = {
            **self._operation("process", message.topic),
            **_of_call(invocation),
            **(_of_message(message, self._system) if batch is None else {}),
        }
        if batch is not None:
            attributes[BATCH_MESSAGE_COUNT] = batch
        joins = joins and batch is None
        span: AbstractContextManager[Span] = self._tracer.start_as_current_span(
            f"process {message.topic}",
            context=self._created_in(message) if joins else self._new_context(),
            kind=self._api.SpanKind.CONSUMER,
            attributes=attributes,
            links=self._links(message),
        )
        return span

    def _operation(self, name: str, topic: str | None) -> dict[str, Any]:
        attributes = {SYSTEM: self._system, OPERATION_NAME: name, OPERATION_TYPE: name}
        return attributes if topic is None else {**attributes, DESTINATION_NAME: topic}

    def _links(self, message: Message) -> "list[Link]":
        created = self._api.get_current_span(self._created_in(message)).get_span_context()
        if not created.is_valid:
            return []
        return [self._api.Link(created, {MESSAGE_ID: message.id})]

    def _created_in(self, message: Message) -> Any:
        """The context of the attribute `traceparent`; an empty one if it is absent or invalid."""
        return self._w3c.extract(message.headers, context=self._new_context())


def _of_message(message: Message, system: str) -> dict[str, Any]:
    attributes = {
        MESSAGE_ID: message.id,
        EVENT_ID: message.id,
        EVENT_SOURCE: message.source,
        EVENT_SPEC_VERSION: "1.0",
        EVENT_TYPE: message.type,
    }
    if correlation := message.headers.get("correlationid"):
        attributes[CONVERSATION_ID] = correlation
    if subject := message.headers.get("subject"):
        attributes[EVENT_SUBJECT] = subject
    if system == "kafka" and message.key is not None:
        attributes[KAFKA_MESSAGE_KEY] = message.key
    return attributes


def _of_call(invocation: Invocation) -> dict[str, Any]:
    context, handler = invocation.context, invocation.handler
    return {
        CONSUMER_GROUP_NAME: context.group,
        GROUP: context.group,
        HANDLER: getattr(handler, "__qualname__", type(handler).__qualname__),
        ATTEMPT: context.attempt,
    }


def _one_topic(messages: Sequence[Message]) -> str | None:
    topics = {message.topic for message in messages}
    return topics.pop() if len(topics) == 1 else None


@contextmanager
def _error_type_on(span: "Span") -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        span.set_attribute(ERROR_TYPE, _name_of(type(error)))
        raise


def _name_of(error: type[BaseException]) -> str:
    if error.__module__ == "builtins":
        return error.__qualname__
    return f"{error.__module__}.{error.__qualname__}"


def _trace_api(where: str) -> Any:
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise MissingExtraError(
            "EB1005",
            "opentelemetry-api is not installed",
            where=where,
            why="spans are an extra",
            next='pip install "eventbus[otel]"',
        ) from error
    return trace


def _warn_of_doubles() -> None:
    active = [name.rpartition(".")[2] for name in DOUBLES if name in sys.modules]
    if active:
        log.warning(
            "the OpenTelemetry instrumentation of %s is active: each message will have two spans; "
            "set OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=%s",
            " and ".join(active),
            ",".join(active),
        )
