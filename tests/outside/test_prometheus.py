"""What Prometheus itself says of the rules and of what the dashboard asks: `promtool`."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventbus.cli.board import board
from tests.docs.test_alerts import RULES
from tests.outside.programs import run, tool

ALERTS = {
    name: {"severity": severity, "summary": summary, "runbook": runbook}
    for name, severity, summary, runbook in re.findall(
        r"alert: (\w+)$.*?severity: (\w+).*?summary: \"([^\"]+)\".*?runbook: (\S+)$",
        RULES,
        re.MULTILINE | re.DOTALL,
    )
}


@dataclass(frozen=True, slots=True)
class Case:
    """A series that fires an alert within half an hour, and one that does not."""

    series: str
    fires: str
    rests: str
    labels: dict[str, str] = field(default_factory=dict[str, str])
    beside: tuple[str, str] | None = None  # another series, and its values in both


BILLING = {"group": "billing"}
CASES = {
    "EventbusWorkersGone": Case("eventbus_build_info", "_x60", "1x60"),
    "EventbusWorkerStuck": Case(
        'eventbus_healthy{probe="livez"}', "0x60", "1x60", {"probe": "livez"}
    ),
    "EventbusWorkerNotReady": Case(
        'eventbus_healthy{probe="readyz"}', "0x60", "1x25 0x35", {"probe": "readyz"}
    ),
    "EventbusLoopLag": Case("eventbus_loop_lag_seconds", "2x60", "0.1x60"),
    "EventbusOutboxOld": Case("eventbus_outbox_oldest_age_seconds", "90x60", "30x60"),
    "EventbusOutboxFailed": Case("eventbus_outbox_failed_messages", "1x60", "0x60"),
    "EventbusRelayMissing": Case("eventbus_outbox_partitions_leased", "0x60", "64x60"),
    "EventbusDeadLetters": Case(
        'eventbus_dead_letters{group="billing"}', "0x25 3x35", "3x60", BILLING
    ),
    "EventbusParkedKeys": Case(
        'eventbus_parked_keys{group="billing"}', "200x60", "100x60", BILLING
    ),
    "EventbusConsumerLag": Case(
        'eventbus_consumer_lag_messages{group="billing",topic="a"}', "0+200x60", "9000x60", BILLING
    ),
    "EventbusCircuitOpen": Case(
        'eventbus_circuit_state{group="billing"}', "2x60", "2x22 0x38", BILLING
    ),
    "EventbusProjectionLag": Case(
        'eventbus_projection_lag_seconds{projection="stock"}',
        "400x60",
        "200x60",
        {"projection": "stock"},
    ),
    "EventbusLogHeld": Case("eventbus_log_held_seconds", "60x60", "20x60"),
    "EventbusSagaStuck": Case("eventbus_saga_stuck_instances", "1x60", "0x60"),
    "EventbusSagaUnknown": Case("eventbus_saga_oldest_unknown_age_seconds", "400x60", "200x60"),
    "EventbusSagaUndos": Case(  # of 100 steps a minute a fifth is undone, or a twentieth
        'eventbus_saga_compensations_total{saga="order",step="charge",outcome="undone"}',
        "0+20x60",
        "0+5x60",
        {"saga": "order", "step": "charge"},
        ('eventbus_saga_step_duration_seconds_count{saga="order",step="charge"}', "0+100x60"),
    ),
    "EventbusTimerLag": Case("eventbus_timer_lag_seconds", "20x60", "5x60"),
    "EventbusSagaTripwire": Case(
        'eventbus_saga_tripwire_total{saga="order"}', "1x60", "0x60", {"saga": "order"}
    ),
    "EventbusSagaDefinitionMissing": Case(
        "eventbus_saga_definition_missing_total", "0+1x60", "7x60"
    ),
}


@pytest.fixture
def promtool() -> str:
    return tool("promtool", "prometheus")


def test_each_rule_has_a_case() -> None:
    assert list(CASES) == list(ALERTS)
    assert len(CASES) == RULES.count("alert:")


async def test_the_rules_are_understood(promtool: str, tmp_path: Path) -> None:
    file = tmp_path / "alerts.yml"
    file.write_text(RULES, encoding="utf-8")
    said = await run(promtool, "check", "rules", str(file))
    assert f"{len(CASES)} rules found" in said.decode()


async def test_what_the_dashboard_asks_is_understood(promtool: str, tmp_path: Path) -> None:
    asked = [each["expr"] for panel in board()["panels"] for each in panel.get("targets", ())]
    rules = [
        {"record": f"asked:{place}", "expr": one.replace("$__rate_interval", "5m")}
        for place, one in enumerate(asked)
    ]
    file = tmp_path / "board.yml"
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    said = await run(promtool, "check", "rules", str(file))
    assert f"{len(asked)} rules found" in said.decode()


async def test_an_alert_fires_for_its_trouble_and_rests_without(
    promtool: str, tmp_path: Path
) -> None:
    (tmp_path / "alerts.yml").write_text(RULES, encoding="utf-8")
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {"series": series, "values": points}
                for series, points in ((case.series, values), *filter(None, [case.beside]))
            ],
            "alert_rule_test": [
                {"eval_time": "30m", "alertname": name, "exp_alerts": [_fired(name)] * fires}
            ],
        }
        for name, case in CASES.items()
        for values, fires in ((case.fires, True), (case.rests, False))
    ]
    given = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    file = tmp_path / "cases.yml"
    file.write_text(json.dumps(given), encoding="utf-8")
    said = await run(promtool, "test", "rules", str(file))
    assert b"SUCCESS" in said


def _fired(name: str) -> dict[str, dict[str, str]]:
    told = dict(ALERTS[name])
    return {
        "exp_labels": {"severity": told.pop("severity"), **CASES[name].labels},
        "exp_annotations": told,
    }
