"""Every metric of the framework, and reporting them with prometheus_client (extra `prometheus`)."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from eventbus.errors import MissingExtraError
from eventbus.message import NO_HEADERS, Message

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log: logging.Logger = logging.getLogger("eventbus.observability")

Kind = Literal["count", "observe", "gauge"]

# No bucket stands for "slow": a handler may run 30 s, a message may wait for hours.
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
MESSAGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True, slots=True)
class Metric:
    """What a name means; `kind` is the method of `Instrumentation` that reports it."""

    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = SECONDS


def _metric(kind: Kind, labels: str, help: str, buckets: tuple[float, ...] = SECONDS) -> Metric:
    return Metric(kind, tuple(labels.split()), help, buckets)


NAMES: Mapping[str, Metric] = MappingProxyType(
    {
        "published_total": _metric(
            "count",
            "transport topic event_type outcome",
            "Messages that were to be published, by what became of them.",
        ),
        "consumed_total": _metric(
            "count", "transport topic group", "Deliveries taken from the broker, repeats included."
        ),
        "handled_total": _metric(
            "count",
            "group handler event_type outcome",
            "Verdicts: done, retried, parked, dead, quarantined, duplicate.",
        ),
        "dead_lettered_total": _metric(
            "count", "group event_type error", "Messages given up, by error code."
        ),
        "redriven_total": _metric(
            "count", "group outcome", "Parked messages that ran, by what became of them."
        ),
        "outbox_relayed_total": _metric(
            "count", "transport outcome", "Messages that the relay handed to the broker."
        ),
        "storage_conflicts_total": _metric(
            "count", "operation", "Transactions repeated after a conflict or a deadlock."
        ),
        "fenced_writes_total": _metric(
            "count", "operation", "Writes under a lease that somebody else owns by now; no effect."
        ),
        "unknown_outcomes_total": _metric(
            "count",
            "operation outcome",
            "Commits and publishes without an answer, and how they were resolved.",
        ),
        "client_rebuilds_total": _metric(
            "count", "transport", "Client objects thrown away and built anew."
        ),
        "rebalances_total": _metric("count", "group", "Times the group divided its work anew."),
        "saga_transitions_total": _metric("count", "saga status", "Sagas that took a new status."),
        "saga_compensations_total": _metric(
            "count", "saga step outcome", "Steps that were undone, or could not be."
        ),
        "saga_ignored_inputs_total": _metric(
            "count", "saga outcome", "Inputs without effect: late, duplicate, stray, missing."
        ),
        "saga_fence_hits_total": _metric(
            "count", "group outcome", "Commands that the effect fence answered or refused."
        ),
        "saga_definition_missing_total": _metric(
            "count", "", "Sagas whose definition this process does not have."
        ),
        "saga_tripwire_total": _metric(
            "count", "saga", "Invariants of the saga engine found broken; alert above 0."
        ),
        "publish_duration_seconds": _metric(
            "observe", "transport", "From handing messages to the broker until its answer."
        ),
        "handler_duration_seconds": _metric("observe", "group handler", "One call of a handler."),
        "batch_messages": _metric(
            "observe", "group", "Messages in one transaction of a lane.", MESSAGES
        ),
        "delivery_latency_seconds": _metric(
            "observe",
            "group",
            "From the time in a message's id to its verdict; the first message of each batch.",
            LATENCY_SECONDS,
        ),
        "append_duration_seconds": _metric(
            "observe", "", "One append to a stream; in a transaction, without its commit."
        ),
        "saga_step_duration_seconds": _metric(
            "observe", "saga step", "From sending a step's command to its reply.", LATENCY_SECONDS
        ),
        "saga_transition_duration_seconds": _metric(
            "observe", "saga", "From the input's consumption to the commit of what follows."
        ),
        "handlers_in_progress": _metric("gauge", "group", "Handlers that run now."),
        "consumer_lag_messages": _metric(
            "gauge", "topic group", "Messages that wait for the group at the broker."
        ),
        "circuit_state": _metric(
            "gauge", "group", "The group's circuit breaker: 0 closed, 1 half-open, 2 open."
        ),
        "loop_lag_seconds": _metric(
            "gauge", "", "How much later than asked for the event loop woke up."
        ),
        "healthy": _metric("gauge", "probe", "1 if the probe answers 200, else 0."),
        "build_info": _metric("gauge", "version", "1; the version is the label."),
        "outbox_pending_messages": _metric("gauge", "", "Rows that wait for the relay."),
        "outbox_oldest_age_seconds": _metric("gauge", "", "Age of the oldest row that waits."),
        "outbox_failed_messages": _metric("gauge", "", "Rows that the broker refused."),
        "outbox_partitions_leased": _metric("gauge", "", "Outbox partitions that have an owner."),
        "parked_messages": _metric("gauge", "group", "Messages parked, dead letters not counted."),
        "parked_keys": _metric("gauge", "group", "Keys held by a parked message."),
        "dead_letters": _metric("gauge", "group", "Messages given up and not yet put right."),
        "log_held_seconds": _metric(
            "gauge", "", "How long an append that has not ended has held the log back."
        ),
        "projection_lag_events": _metric(
            "gauge", "projection", "Events that the projection has not seen."
        ),
        "projection_lag_seconds": _metric(
            "gauge", "projection", "Age of the oldest event that the projection has not seen."
        ),
        "projection_rebuild_progress_ratio": _metric(
            "gauge", "projection", "How much of a rebuild is done, from 0 to 1."
        ),
        "saga_instances": _metric("gauge", "saga status", "Open sagas by status."),
        "saga_stuck_instances": _metric("gauge", "", "Sagas that need a person."),
        "saga_oldest_unknown_age_seconds": _metric(
            "gauge", "", "How long the oldest saga has been asking what became of a step."
        ),
        "saga_stashed_messages": _metric(
            "gauge", "", "Inputs that wait until their saga can take them."
        ),
        "timer_lag_seconds": _metric("gauge", "", "How much too late the oldest due timer is."),
    }
)
"""By name without the prefix `eventbus_`; `docs/reference/metrics.md` is tested against it."""


class PrometheusInstrumentation:
    """Reports to a registry, by default one of its own; `text()` is the answer to a scrape.

    A name or label outside `NAMES` is logged once and then dropped, for reporting must not break
    what it reports on; with `strict` it raises, for tests. May be called from any thread.

    Args:
        registry: where the metrics are registered; each name once, so one instrumentation for each.
        strict: raise `LookupError` for what is not in `NAMES`.

    Raises:
        MissingExtraError: EB1005, prometheus_client is not installed.
    """

    def __init__(
        self, registry: "CollectorRegistry | None" = None, *, strict: bool = False
    ) -> None:
        client = _client()
        self._registry = client.CollectorRegistry() if registry is None else registry
        self._strict = strict
        self._metrics = {
            name: _collector(client, name, metric, self._registry) for name, metric in NAMES.items()
        }
        self._children: dict[tuple[object, ...], Any] = {}
        self._generate = client.generate_latest
        self.gauge("build_info", 1, version=_version())

    def count(self, name: str, amount: int = 1, /, **labels: str) -> None:
        """Add to a counter."""
        child = self._children.get((name, *labels.items()))
        (child or self._child("count", name, labels)).inc(amount)

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Add to a histogram."""
        child = self._children.get((name, *labels.items()))
        (child or self._child("observe", name, labels)).observe(seconds)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        child = self._children.get((name, *labels.items()))
        (child or self._child("gauge", name, labels)).set(value)

    def creating(self, type: str, topic: str) -> AbstractContextManager[Mapping[str, str]]:
        """No headers: spans are OpenTelemetry's."""
        return nullcontext(NO_HEADERS)

    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def text(self) -> bytes:
        """All metrics in the text format 0.0.4 that Prometheus scrapes."""
        text: bytes = self._generate(self._registry)
        return text

    def _child(self, kind: Kind, name: str, labels: Mapping[str, str]) -> Any:
        """The time series, kept by name and labels as they were given: finding it costs 1 µs."""
        metric = NAMES.get(name)
        if metric is None or metric.kind != kind or set(metric.labels) != set(labels):
            child = self._unknown(f"{kind}({name!r}, {', '.join(labels)})")
        elif labels:
            child = self._metrics[name].labels(**labels)
        else:
            child = self._metrics[name]
        self._children[(name, *labels.items())] = child
        return child

    def _unknown(self, what: str) -> "_Dropped":
        if self._strict:
            raise LookupError(f"no such metric: {what}")
        log.error("%s is not in the table of metrics and is dropped", what)
        return _Dropped()


class _Dropped:
    def inc(self, amount: int) -> None:
        pass

    def observe(self, seconds: float) -> None:
        pass

    def set(self, value: float) -> None:
        pass


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise MissingExtraError(
            "EB1005",
            "prometheus_client is not installed",
            where="PrometheusInstrumentation()",
            why="metrics for Prometheus are an extra",
            next='pip install "eventbus[prometheus]"',
        ) from error
    return prometheus_client


def _collector(client: Any, name: str, metric: Metric, registry: Any) -> Any:
    full_name = f"eventbus_{name}"
    match metric.kind:
        case "count":
            return client.Counter(full_name, metric.help, metric.labels, registry=registry)
        case "observe":
            return client.Histogram(
                full_name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
            )
        case "gauge":
            return client.Gauge(full_name, metric.help, metric.labels, registry=registry)


def _version() -> str:
    try:
        return version("eventbus")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
