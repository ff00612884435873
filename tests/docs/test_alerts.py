"""Rules of alerts and the dashboard go by metrics that are reported; each rule has its runbook."""

import re
from collections import Counter

from eventbus.cli.board import board
from eventbus.observability.prometheus import NAMES
from tests.docs.pages import ROOT, anchors

RULES = (ROOT / "eventbus" / "cli" / "shipped" / "alerts.yml").read_text(encoding="utf-8")
RUNBOOKS = ROOT / "docs" / "how-to" / "runbooks.md"
METRICS = ROOT / "docs" / "reference" / "metrics.md"


def not_reported() -> set[str]:
    """Names of the table that no other line of the source gives to an instrumentation."""
    source = "".join(
        file.read_text(encoding="utf-8")
        for package in ("eventbus", "eventbus_kafka", "eventbus_rabbit")
        for file in (ROOT / package).rglob("*.py")
        if "testing" not in file.parts
    )
    return {name for name in NAMES if not re.search(rf'"{name}(?:"(?!: _metric)|\{{)', source)}


def test_the_page_of_metrics_says_which_ones_nothing_reports() -> None:
    section = METRICS.read_text(encoding="utf-8").partition("## Not reported yet")[2]
    named = re.findall(r"`eventbus_(\w+)`", section.partition("\n## ")[0])
    assert sorted(named) == sorted(not_reported())


def asks_for_what_is_reported(expression: str) -> None:
    found = re.findall(r"eventbus_(\w+?)(_bucket|_count)?\b(?:\{(\w+)=)?", expression)
    assert found, expression
    for name, _, selector in found:
        assert name in NAMES.keys() - not_reported(), expression
        assert not selector or selector in NAMES[name].labels, expression
        for by in re.findall(r"by \(([\w, ]+)\)", expression):
            assert set(by.split(", ")) - {"le"} <= set(NAMES[name].labels), expression


def test_rules_name_metrics_that_are_reported_with_their_labels() -> None:
    expressions = re.findall(r"expr: (.+)", RULES)
    assert len(expressions) > 10
    for expression in expressions:
        asks_for_what_is_reported(expression)


def test_the_dashboard_shows_metrics_that_are_reported_with_their_labels() -> None:
    targets = [each for panel in board()["panels"] for each in panel.get("targets", ())]
    assert len(targets) > 20
    for target in targets:
        asks_for_what_is_reported(target["expr"])
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        (by,) = re.findall(r"by \(([\w, ]+)\)", target["expr"]) or [""]
        assert shown == set(by.split(", ")) - {"le", ""}, target


def test_panels_of_the_dashboard_do_not_cover_one_another() -> None:
    panels = board()["panels"]
    cells = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert set(cells.values()) == {1}
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_each_rule_has_its_runbook_and_each_runbook_its_rule() -> None:
    rules = re.findall(r"alert: (\w+)$.*?#(\S+)$", RULES, re.MULTILINE | re.DOTALL)
    text = RUNBOOKS.read_text(encoding="utf-8")
    assert {place for _, place in rules} <= anchors(RUNBOOKS)
    assert [name for name, _ in rules] == re.findall(r"^`(Eventbus\w+)`\.", text, re.MULTILINE)
    assert len(rules) == RULES.count("alert:") == RULES.count("expr:")
