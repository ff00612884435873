"""Every code that the source raises has its page, and every page its code."""

import json
import re
from pathlib import Path

import pytest

import eventbus

from .conftest import Run

GROUPS = {"outbox", "parked", "dead-letter", "db"}
PACKAGE = Path(eventbus.__file__).parent
PAGES = {page.stem: page for page in (PACKAGE / "cli" / "explain").glob("*.md")}
CODE = re.compile(r"""["'](EB\d{4})["']""")


def raised() -> set[str]:
    return {
        code
        for package in ("eventbus", "eventbus_kafka", "eventbus_rabbit")
        for source in PACKAGE.with_name(package).rglob("*.py")
        for code in CODE.findall(source.read_text(encoding="utf-8"))
    }


def test_each_code_has_a_page_and_each_page_a_code() -> None:
    assert raised() == set(PAGES)


@pytest.mark.parametrize("code", sorted(PAGES))
def test_a_page_says_what_why_and_what_to_do(code: str) -> None:
    text = PAGES[code].read_text(encoding="utf-8")
    assert re.match(rf"# {code}: .+\n\n.+", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Why", "What to do"]
    assert max(map(len, text.splitlines())) <= 100


def test_commands_on_the_pages_exist() -> None:
    from click.testing import CliRunner

    from eventbus.cli.main import COMMANDS, eventbus

    called = {
        tuple(words)
        for page in PAGES.values()
        for words in re.findall(r"`eventbus ([a-z-]+)(?: ([a-z]+))?", page.read_text())
    }
    for command, verb in called:
        assert command in COMMANDS
        args = [command, verb] if verb and command in GROUPS else [command]
        assert CliRunner().invoke(eventbus, [*args, "--help"]).exit_code == 0, args


def test_a_page_is_printed(run: Run) -> None:
    assert run("explain", "eb5303").out.startswith("# EB5303: another bus has this SQLite file\n")
    assert run("explain", "EB5303", "-o", "json").fits("explain").result["code"] == "EB5303"


def test_rules_and_the_dashboard_are_printed_as_they_are_read(run: Run) -> None:
    assert run("export", "alerts").out.rstrip().endswith("#a-definition-is-missing")
    assert json.loads(run("export", "grafana").out)["uid"] == "eventbus"
    told = run("export", "grafana", "-o", "json").fits("export").result
    assert json.loads(told["text"])["uid"] == "eventbus"
