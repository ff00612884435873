"""The dashboard for Grafana: what is shown, and the JSON that Grafana imports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["short", "ops", "s", "percentunit"]

_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8  # of a grid that is 24 wide
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: lines of one unit."""

    title: str
    unit: Unit
    lines: tuple[tuple[str, str], ...]  # an expression and its legend


def _rate(metric: str, *by: str) -> str:
    total = f"sum by ({', '.join(by)})" if by else "sum"
    return f"{total} (rate(eventbus_{metric}{_RATE}))"


def _most(metric: str, *by: str) -> str:
    """Every worker exports the same value."""
    total = f"max by ({', '.join(by)})" if by else "max"
    return f"{total} (eventbus_{metric})"


def _quantiles(metric: str, *by: str) -> tuple[tuple[str, str], ...]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    buckets = _rate(f"{metric}_bucket", "le", *by)
    return tuple(
        (f"histogram_quantile({part}, {buckets})", f"{name} {legend}".strip())
        for part, name in ((0.5, "p50"), (0.99, "p99"))
    )


_ROWS: Mapping[str, tuple[Panel, ...]] = {
    "Workers": (
        Panel(
            "Probes that fail",
            "short",
            (("sum by (probe) (eventbus_healthy == bool 0)", "{{probe}}"),),
        ),
        Panel("Event loop is late", "s", ((_most("loop_lag_seconds"), "worst worker"),)),
        Panel("Versions", "short", (("count by (version) (eventbus_build_info)", "{{version}}"),)),
    ),
    "Publishing": (
        Panel(
            "Published",
            "ops",
            ((_rate("published_total", "topic", "outcome"), "{{topic}} {{outcome}}"),),
        ),
        Panel("Broker's answer", "s", _quantiles("publish_duration_seconds")),
        Panel(
            "Outbox waits",
            "short",
            (
                (_most("outbox_pending_messages"), "pending"),
                (_most("outbox_failed_messages"), "refused"),
                (_most("outbox_partitions_leased"), "partitions leased"),
            ),
        ),
        Panel("Oldest in the outbox", "s", ((_most("outbox_oldest_age_seconds"), "age"),)),
        Panel("Relayed", "ops", ((_rate("outbox_relayed_total", "outcome"), "{{outcome}}"),)),
        Panel(
            "Unknown outcomes",
            "ops",
            (
                (
                    _rate("unknown_outcomes_total", "operation", "outcome"),
                    "{{operation}} {{outcome}}",
                ),
            ),
        ),
    ),
    "Handling": (
        Panel(
            "Verdicts",
            "ops",
            ((_rate("handled_total", "group", "outcome"), "{{group}} {{outcome}}"),),
        ),
        Panel("Handler", "s", _quantiles("handler_duration_seconds", "group")),
        Panel("From event to verdict", "s", _quantiles("delivery_latency_seconds", "group")),
        Panel(
            "Lag at the broker",
            "short",
            (("sum by (group) (eventbus_consumer_lag_messages)", "{{group}}"),),
        ),
        Panel(
            "Parked",
            "short",
            (
                (_most("parked_messages", "group"), "{{group}} messages"),
                (_most("parked_keys", "group"), "{{group}} keys"),
            ),
        ),
        Panel("Dead letters", "short", ((_most("dead_letters", "group"), "{{group}}"),)),
        Panel("Circuits (2: open)", "short", ((_most("circuit_state", "group"), "{{group}}"),)),
        Panel("Batches", "short", _quantiles("batch_messages", "group")),
        Panel(
            "Conflicts and fenced writes",
            "ops",
            (
                (_rate("storage_conflicts_total", "operation"), "conflict {{operation}}"),
                (_rate("fenced_writes_total", "operation"), "fenced {{operation}}"),
            ),
        ),
    ),
    "Log and read models": (
        Panel("Append", "s", _quantiles("append_duration_seconds")),
        Panel("Log held back", "s", ((_most("log_held_seconds"), "open append"),)),
        Panel(
            "Projections behind",
            "s",
            ((_most("projection_lag_seconds", "projection"), "{{projection}}"),),
        ),
        Panel(
            "Events not seen",
            "short",
            ((_most("projection_lag_events", "projection"), "{{projection}}"),),
        ),
        Panel(
            "Rebuild",
            "percentunit",
            ((_most("projection_rebuild_progress_ratio", "projection"), "{{projection}}"),),
        ),
    ),
    "Sagas": (
        Panel(
            "Open",
            "short",
            ((_most("saga_instances", "saga", "status"), "{{saga}} {{status}}"),),
        ),
        Panel(
            "Transitions",
            "ops",
            ((_rate("saga_transitions_total", "saga", "status"), "{{saga}} {{status}}"),),
        ),
        Panel("Step", "s", _quantiles("saga_step_duration_seconds", "saga", "step")),
        Panel(
            "Undone",
            "ops",
            (
                (
                    _rate("saga_compensations_total", "saga", "step", "outcome"),
                    "{{saga}} {{step}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Need somebody",
            "short",
            (
                (_most("saga_stuck_instances"), "stuck"),
                (_most("saga_stashed_messages"), "stashed"),
            ),
        ),
        Panel(
            "Late and unknown",
            "s",
            (
                (_most("timer_lag_seconds"), "timers late"),
                (_most("saga_oldest_unknown_age_seconds"), "unknown for"),
            ),
        ),
    ),
}


def board() -> dict[str, Any]:
    """What Grafana imports: a title for each row of panels; it asks which Prometheus to read."""
    return {
        "title": "eventbus",
        "uid": "eventbus",
        "tags": ["eventbus"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [{"id": number, **each} for number, each in enumerate(_placed(), start=1)],
    }


def _placed() -> Iterator[dict[str, Any]]:
    top = 0
    for title, panels in _ROWS.items():
        yield {"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}}
        top += 1
        for place, panel in enumerate(panels):
            row, column = divmod(place, _COLUMNS)
            yield _drawn(panel, column * _WIDTH, top + row * _HEIGHT)
        top += -(-len(panels) // _COLUMNS) * _HEIGHT


def _drawn(panel: Panel, x: int, y: int) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.lines)
        ],
    }
