"""Metrics, spans, logs and probes; what needs an extra is imported when it is made."""

from eventbus.observability.figures import DatabaseFigures as DatabaseFigures
from eventbus.observability.logging import JsonFormatter as JsonFormatter
from eventbus.observability.logging import LineFormatter as LineFormatter
from eventbus.observability.logging import LogContext as LogContext
from eventbus.observability.logging import logging_middleware as logging_middleware
from eventbus.observability.loop_watch import LoopWatch as LoopWatch
from eventbus.observability.opentelemetry import (
    OpenTelemetryInstrumentation as OpenTelemetryInstrumentation,
)
from eventbus.observability.opentelemetry import tracing as tracing
from eventbus.observability.opentelemetry import tracing_middleware as tracing_middleware
from eventbus.observability.probes import LoopTick as LoopTick
from eventbus.observability.probes import Probes as Probes
from eventbus.observability.prometheus import (
    PrometheusInstrumentation as PrometheusInstrumentation,
)
