"""Every metric has a name, labels and a text; what the framework reports is in the table."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import eventbus.observability
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.observability.prometheus import NAMES, PrometheusInstrumentation

PACKAGE = Path(eventbus.observability.__file__).parents[1]
LABELS = {
    *("transport", "topic", "event_type", "group", "handler", "outcome", "saga", "step"),
    *("status", "projection", "error", "operation", "probe", "version"),
}


@pytest.fixture
def metrics() -> PrometheusInstrumentation:
    return PrometheusInstrumentation(strict=True)


def samples(metrics: PrometheusInstrumentation) -> dict[str, float]:
    """By name and labels as they stand in the text."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_counters_histograms_and_gauges_come_out_with_their_labels(
    metrics: PrometheusInstrumentation,
) -> None:
    metrics.count("redriven_total", group="billing", outcome="done")
    metrics.count("redriven_total", 4, outcome="done", group="billing")
    metrics.observe("append_duration_seconds", 0.2)
    metrics.observe("append_duration_seconds", 0.3)
    metrics.gauge("circuit_state", 1, group="billing")
    metrics.gauge("circuit_state", 2, group="billing")
    seen = samples(metrics)
    assert seen["eventbus_redriven_total[('group', 'billing'), ('outcome', 'done')]"] == 5
    assert seen["eventbus_append_duration_seconds_sum[]"] == pytest.approx(0.5)
    assert seen["eventbus_append_duration_seconds_bucket[('le', '0.25')]"] == 1
    assert seen["eventbus_circuit_state[('group', 'billing')]"] == 2


def test_it_is_an_instrumentation_and_leaves_spans_to_others(
    metrics: PrometheusInstrumentation,
) -> None:
    reports: Instrumentation = metrics
    message = Message(id="1", type="shop.sold", source="/shop", topic="shop", payload=b"")
    with reports.creating("shop.sold", "shop") as headers, reports.sending([message]):
        assert headers == {}


def test_every_name_can_be_reported_with_its_labels(metrics: PrometheusInstrumentation) -> None:
    for name, metric in NAMES.items():
        labels = dict.fromkeys(metric.labels, "x")
        if metric.kind == "count":
            metrics.count(name, 1, **labels)
        else:
            (metrics.observe if metric.kind == "observe" else metrics.gauge)(name, 1.0, **labels)
    text = metrics.text().decode()
    for name, metric in NAMES.items():
        assert f"# HELP eventbus_{name} {metric.help}\n" in text


def test_names_and_labels_keep_the_conventions() -> None:
    for name, metric in NAMES.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert (metric.kind == "count") == name.endswith("_total")
        assert set(metric.labels) <= LABELS
        assert metric.help.endswith(".")


def test_what_is_not_in_the_table_raises_when_strict(metrics: PrometheusInstrumentation) -> None:
    with pytest.raises(LookupError, match="no_such_total"):
        metrics.count("no_such_total")
    with pytest.raises(LookupError, match="wrong"):
        metrics.gauge("circuit_state", 1, wrong="billing")
    with pytest.raises(LookupError, match="observe"):
        metrics.observe("circuit_state", 1, group="billing")


def test_what_is_not_in_the_table_is_logged_once_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = PrometheusInstrumentation()
    for _ in range(3):
        metrics.count("no_such_total", group="billing")
        metrics.observe("no_such_seconds", 1)
        metrics.gauge("no_such", 1)
    assert len(caplog.records) == 3
    assert "no_such_total" in caplog.text


def test_each_instrumentation_has_a_registry_of_its_own_or_the_one_given() -> None:
    registry = CollectorRegistry()
    given, own = PrometheusInstrumentation(registry), PrometheusInstrumentation()
    given.count("rebalances_total", group="billing")
    assert registry.get_sample_value("eventbus_rebalances_total", {"group": "billing"}) == 1
    assert b"billing" not in own.text()


def test_without_prometheus_client_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["prometheus_client"] = None
from eventbus.errors import MissingExtraError
from eventbus.observability.prometheus import PrometheusInstrumentation
try:
    PrometheusInstrumentation()
except MissingExtraError as error:
    print(error.code, error.next)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert run.stdout == 'EB1005 pip install "eventbus[prometheus]"\n'


# -- what the framework reports -----------------------------------------------------------------


def reports_in(
    source: str, place: str = ""
) -> Iterator[tuple[str, str, str, frozenset[str] | None]]:
    """Where, kind, name and labels of each report; labels None: not written out (`**labels`).

    `.count("x")` is also what texts and lists have: it counts as a report if it looks like one.
    """
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        kind, name = node.func.attr, node.args[0]
        if kind not in {"count", "observe", "gauge"} or not isinstance(name, ast.Constant):
            continue
        if kind == "count" and not str(name.value).endswith("_total") and not node.keywords:
            continue
        labels = [keyword.arg for keyword in node.keywords]
        given = None if None in labels else frozenset(label for label in labels if label)
        yield f"{place}:{node.lineno}", kind, str(name.value), given


def faults_in(source: str, place: str = "") -> list[str]:
    faults = []
    for where, kind, name, labels in reports_in(source, place):
        metric = NAMES.get(name)
        if metric is None or metric.kind != kind:
            faults.append(f"{where} {kind} {name}: not in the table")
        elif labels is not None and labels != set(metric.labels):
            faults.append(f"{where} {name}: labels {sorted(labels)}, not {metric.labels}")
    return faults


@pytest.mark.parametrize(
    "wrong",
    [
        'x.count("handled_totl", group=g)',
        'x.count("rebalance_total", 3)',
        'x.count("rebalances_total", topic=t)',
        'x.gauge("append_duration_seconds", 1)',
        'x.observe("handler_duration", 1)',
    ],
)
def test_the_search_finds_a_wrong_report(wrong: str) -> None:
    assert faults_in(wrong)


def test_the_search_takes_counting_letters_for_no_report() -> None:
    assert faults_in('"banana".count("a")') == []


def test_everything_the_framework_reports_is_in_the_table() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    assert [
        fault
        for path in files
        for fault in faults_in(path.read_text("utf-8"), str(path.relative_to(PACKAGE)))
    ] == []


def test_the_reference_page_says_what_the_table_says() -> None:
    page = (PACKAGE.parent / "docs/reference/metrics.md").read_text("utf-8")
    kinds = {"count": "counter", "observe": "histogram", "gauge": "gauge"}
    rows = dict(re.findall(r"^\| `eventbus_(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert rows == {
        name: " | ".join(
            (kinds[metric.kind], " ".join(f"`{label}`" for label in metric.labels), metric.help)
        )
        for name, metric in NAMES.items()
    }
