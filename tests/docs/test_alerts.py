"""Rules of alerts go by metrics that something reports, and each has its runbook."""

import re

from eventbus.observability.prometheus import NAMES
from tests.docs.pages import ROOT, anchors

RULES = (ROOT / "docs" / "reference" / "alerts.yml").read_text(encoding="utf-8")
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


def test_rules_name_metrics_that_are_reported_with_their_labels() -> None:
    expressions = re.findall(r"expr: (.+)", RULES)
    assert expressions
    for expression in expressions:
        for name, selector in re.findall(r"eventbus_(\w+)(?:\{(\w+)=)?", expression):
            assert name in NAMES.keys() - not_reported(), expression
            assert not selector or selector in NAMES[name].labels, expression
            for by in re.findall(r"by \((\w+)\)", expression):
                assert by in NAMES[name].labels, expression


def test_each_rule_has_its_runbook_and_each_runbook_its_rule() -> None:
    rules = re.findall(r"alert: (\w+)$.*?#(\S+)$", RULES, re.MULTILINE | re.DOTALL)
    text = RUNBOOKS.read_text(encoding="utf-8")
    assert {place for _, place in rules} <= anchors(RUNBOOKS)
    assert [name for name, _ in rules] == re.findall(r"^`(Eventbus\w+)`\.", text, re.MULTILINE)
    assert len(rules) == RULES.count("alert:") == RULES.count("expr:")
