"""Spans and metrics as the messaging conventions want them, seen by OpenTelemetry's exporters."""

import asyncio
import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from eventbus.event import Rejection
from eventbus.handler import DeadLetter, Invocation, Reject, Retry
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.observability import opentelemetry as ours
from eventbus.observability.opentelemetry import (
    OpenTelemetryInstrumentation,
    tracing,
    tracing_middleware,
)
from eventbus.observability.prometheus import PrometheusInstrumentation
from tests.unit.observability.calls import SPAN, TRACE, TRACEPARENT, invocation, message

PAGE = Path(ours.__file__).parents[2] / "docs/reference/spans.md"


class Sold(Rejection, type="test.sold"):
    pass


class Recorder:
    """What came out: spans by name, metrics by name."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self) -> ReadableSpan:
        (span,) = self.spans()
        return span

    def points(self, name: str) -> list[Any]:
        data: Any = self._reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def reports(recorder: Recorder) -> OpenTelemetryInstrumentation:
    return OpenTelemetryInstrumentation(recorder.tracers, recorder.meters, system="kafka")


async def handled(_: Invocation) -> None:
    pass


def raising(error: BaseException) -> Callable[[Invocation], Any]:
    async def call(_: Invocation) -> None:
        raise error

    return call


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# -- names ------------------------------------------------------------------------------------

AREAS = ("messaging", "cloudevents")
NAMES = {
    name: value
    for name, value in vars(ours).items()
    if name.isupper() and isinstance(value, str) and "." in value and "/" not in value
}


def documented(module: ModuleType) -> dict[str, str]:
    """The names of a module of the conventions, with the text that stands below it."""
    source = Path(module.__file__ or "").read_text("utf-8")
    return dict(re.findall(r'^[A-Z_]+: Final = "([^"]+)"\n"""\n(.*?)"""', source, re.M | re.S))


def conventions() -> dict[str, str]:
    found = documented(error_attributes)
    for area in AREAS:
        found |= documented(
            importlib.import_module(
                f"opentelemetry.semconv._incubating.attributes.{area}_attributes"
            )
        )
    return found | documented(
        importlib.import_module("opentelemetry.semconv._incubating.metrics.messaging_metrics")
    )


def test_every_name_is_one_of_the_conventions_and_none_is_deprecated() -> None:
    known = conventions()
    assert "Deprecated" in known["messaging.operation"]  # the search sees what is deprecated
    assert len(NAMES) > 15
    for name in NAMES.values():
        if not name.startswith("eventbus."):
            assert "Deprecated" not in known[name], name
    assert Schemas.V1_44_0.value == ours.SCHEMA_URL


def test_the_reference_page_names_every_attribute_and_metric() -> None:
    page = PAGE.read_text("utf-8")
    assert [name for name in NAMES.values() if f"`{name}`" not in page] == []
    written = set(re.findall(r"`((?:messaging|cloudevents|eventbus|error)\.[a-z_.]+)`", page))
    assert written - set(NAMES.values()) == set()


# -- making and sending -----------------------------------------------------------------------


def test_creating_yields_the_context_of_its_span(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    with reports.creating("shop.order-placed", "shop") as headers:
        pass
    span = recorder.one()
    context = span.get_span_context()
    assert context is not None
    flags = f"{int(context.trace_flags):02x}"
    trace, parent = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    assert headers == {"traceparent": f"00-{trace}-{parent}-{flags}"}
    assert context.trace_flags.sampled
    assert (span.name, span.kind) == ("create shop", SpanKind.PRODUCER)
    assert attributes(span) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "shop",
        "cloudevents.event_type": "shop.order-placed",
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == ours.SCHEMA_URL


def test_creating_inside_a_span_continues_its_trace(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    with (
        recorder.tracers.get_tracer("app").start_as_current_span("request") as outer,
        reports.creating("shop.order-placed", "shop") as headers,
    ):
        pass
    assert f"{outer.get_span_context().trace_id:032x}" in headers["traceparent"]


def test_what_cannot_be_created_is_an_error_of_its_span(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    with pytest.raises(ZeroDivisionError), reports.creating("shop.order-placed", "shop"):
        raise ZeroDivisionError
    span = recorder.one()
    assert attributes(span)["error.type"] == "ZeroDivisionError"
    assert span.status.status_code is StatusCode.ERROR


def test_sending_links_to_where_the_messages_were_created(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    with reports.sending([message(traceparent=TRACEPARENT), message()]):
        pass
    span = recorder.one()
    assert (span.name, span.kind) == ("send shop", SpanKind.CLIENT)
    assert attributes(span) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop",
        "messaging.batch.message_count": 2,
    }
    assert [f"{link.context.span_id:016x}" for link in span.links] == [SPAN]


def test_sending_one_message_names_it_and_is_no_batch(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    with reports.sending([message()]):
        pass
    assert attributes(recorder.one())["messaging.message.id"] == "m-1"
    assert "messaging.batch.message_count" not in attributes(recorder.one())


def test_a_batch_of_several_topics_has_no_destination(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    other = Message(id="2", type="bank.paid", source="/bank", topic="bank", payload=b"")
    with reports.sending([message(), other]):
        pass
    assert recorder.one().name == "send"
    assert "messaging.destination.name" not in attributes(recorder.one())


def test_sending_is_counted_and_timed_also_when_it_fails(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    with reports.sending([message(), message()]):
        pass
    with pytest.raises(ZeroDivisionError), reports.sending([message()]):
        raise ZeroDivisionError
    sent = {
        point.attributes.get("error.type"): point.value
        for point in recorder.points("messaging.client.sent.messages")
    }
    assert sent == {None: 2, "ZeroDivisionError": 1}
    durations = recorder.points("messaging.client.operation.duration")
    assert [point.count for point in durations] == [1, 1]
    assert durations[0].explicit_bounds == ours.SECONDS


# -- handling ---------------------------------------------------------------------------------


async def test_handling_joins_the_trace_of_the_creation_and_links_to_it(
    recorder: Recorder,
) -> None:
    incoming = message(
        traceparent=TRACEPARENT, tracestate="a=1", correlationid="c-1", subject="order-A-1"
    )
    await tracing(recorder.tracers, system="kafka")(invocation(incoming), handled)
    span = recorder.one()
    assert (span.name, span.kind) == ("process shop", SpanKind.CONSUMER)
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    assert span.parent.trace_state.get("a") == "1"
    assert [f"{link.context.span_id:016x}" for link in span.links] == [SPAN]
    assert attributes(span) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "shop",
        "messaging.consumer.group.name": "billing",
        "messaging.message.id": "m-1",
        "messaging.message.conversation_id": "c-1",
        "messaging.kafka.message.key": "A-1",
        "cloudevents.event_id": "m-1",
        "cloudevents.event_source": "/shop",
        "cloudevents.event_spec_version": "1.0",
        "cloudevents.event_type": "shop.order-placed",
        "cloudevents.event_subject": "order-A-1",
        "eventbus.group": "billing",
        "eventbus.handler": "bill",
        "eventbus.attempt": 3,
        "eventbus.outcome": "done",
    }


async def test_what_a_handler_creates_belongs_to_its_span(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    async def publishes(_: Invocation) -> None:
        with reports.creating("shop.billed", "shop"):
            pass

    await tracing(recorder.tracers)(invocation(message(traceparent=TRACEPARENT)), publishes)
    created, processed = recorder.spans()
    assert created.parent == processed.get_span_context()


async def test_with_links_only_handling_starts_a_trace_of_its_own(recorder: Recorder) -> None:
    middleware = tracing(recorder.tracers, trace="link")
    await middleware(invocation(message(traceparent=TRACEPARENT)), handled)
    span = recorder.one()
    assert span.parent is None
    assert [f"{link.context.span_id:016x}" for link in span.links] == [SPAN]


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
    ],
)
async def test_an_invalid_context_starts_a_new_trace(recorder: Recorder, traceparent: str) -> None:
    incoming = message(traceparent=traceparent, tracestate="a=1")
    await tracing(recorder.tracers)(invocation(incoming), handled)
    span = recorder.one()
    context = span.get_span_context()
    assert span.parent is None
    assert span.links == ()
    assert context is not None
    assert not context.trace_state


async def test_a_higher_version_is_read_by_its_first_four_fields(recorder: Recorder) -> None:
    incoming = message(traceparent=f"01-{TRACE}-{SPAN}-01-more")
    await tracing(recorder.tracers)(invocation(incoming), handled)
    parent = recorder.one().parent
    assert parent is not None
    assert f"{parent.trace_id:032x}" == TRACE


async def test_a_batch_handler_has_links_and_no_parent(recorder: Recorder) -> None:
    incoming = message(traceparent=TRACEPARENT)
    await tracing(recorder.tracers)(invocation(incoming, what=[1, 2, 3]), handled)
    span = recorder.one()
    assert span.parent is None
    assert len(span.links) == 1
    assert attributes(span)["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in attributes(span)


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        (DeadLetter(), "failed", "eventbus.handler.DeadLetter"),
        (asyncio.CancelledError(), "failed", "asyncio.exceptions.CancelledError"),
    ],
)
async def test_a_failed_call_is_an_error_and_passes_on(
    recorder: Recorder, error: BaseException, outcome: str, error_type: str
) -> None:
    with pytest.raises(type(error)) as raised:
        await tracing(recorder.tracers)(invocation(), raising(error))
    assert raised.value is error
    seen = attributes(recorder.one())
    assert (seen["eventbus.outcome"], seen["error.type"]) == (outcome, error_type)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [(Retry(after=timedelta(seconds=1)), "retry"), (Reject(Sold()), "reject")],
)
async def test_an_answer_of_a_handler_is_no_error(
    recorder: Recorder, answer: Exception, outcome: str
) -> None:
    with pytest.raises(type(answer)) as raised:
        await tracing(recorder.tracers)(invocation(), raising(answer))
    assert raised.value is answer
    assert attributes(recorder.one())["eventbus.outcome"] == outcome
    assert recorder.one().status.status_code is StatusCode.UNSET


async def test_without_a_provider_the_middleware_only_calls_the_handler() -> None:
    calls = []

    async def call(called: Invocation) -> None:
        calls.append(called)

    one = invocation()
    await tracing_middleware(one, call)
    assert calls == [one]


async def test_no_payload_is_ever_in_a_span(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    incoming = message(traceparent=TRACEPARENT)
    with reports.sending([incoming]):
        await tracing(recorder.tracers, system="kafka")(invocation(incoming), handled)
    assert "secret" not in "".join(span.to_json() for span in recorder.spans())


# -- metrics ----------------------------------------------------------------------------------


def test_deliveries_and_calls_become_the_metrics_of_the_conventions(
    recorder: Recorder, reports: OpenTelemetryInstrumentation
) -> None:
    reports.count("consumed_total", 7, transport="kafka", topic="shop", group="billing")
    reports.observe("handler_duration_seconds", 0.2, group="billing", handler="bill")
    (consumed,) = recorder.points("messaging.client.consumed.messages")
    assert consumed.value == 7
    assert consumed.attributes["messaging.destination.name"] == "shop"
    (duration,) = recorder.points("messaging.process.duration")
    assert duration.sum == pytest.approx(0.2)
    assert duration.attributes["messaging.consumer.group.name"] == "billing"


def test_everything_is_passed_on_to_the_one_beside_it(recorder: Recorder) -> None:
    beside = PrometheusInstrumentation(strict=True)
    reports: Instrumentation = OpenTelemetryInstrumentation(
        recorder.tracers, recorder.meters, also=beside
    )
    reports.count("consumed_total", 7, transport="kafka", topic="shop", group="billing")
    reports.observe("handler_duration_seconds", 0.2, group="billing", handler="bill")
    reports.gauge("loop_lag_seconds", 0.5)
    text = beside.text().decode()
    assert 'eventbus_consumed_total{group="billing",topic="shop",transport="kafka"} 7.0' in text
    assert "eventbus_handler_duration_seconds_count" in text
    assert "eventbus_loop_lag_seconds 0.5" in text


# -- around it --------------------------------------------------------------------------------


def test_another_instrumentation_of_the_client_is_warned_of(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "opentelemetry.instrumentation.aio_pika"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    OpenTelemetryInstrumentation(recorder.tracers, recorder.meters)
    assert "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=aio_pika" in caplog.text


def test_without_opentelemetry_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
from eventbus.errors import MissingExtraError
from eventbus.observability.opentelemetry import OpenTelemetryInstrumentation, tracing
for make in OpenTelemetryInstrumentation, tracing:
    try:
        make()
    except MissingExtraError as error:
        print(error.code, error.where, error.next)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert run.stdout == (
        'EB1005 OpenTelemetryInstrumentation() pip install "eventbus[otel]"\n'
        'EB1005 tracing() pip install "eventbus[otel]"\n'
    )
