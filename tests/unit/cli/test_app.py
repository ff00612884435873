"""describe, guarantees, doctor, init: what is said of an app without running it."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

JSON = ("-o", "json")


def test_describe_tells_groups_handlers_and_types(run: Run) -> None:
    facts = run("describe", "shop_app:bus", *JSON).fits("describe").result
    assert [group["name"] for group in facts["groups"]] == ["dying", "retrying", "fine"]
    assert facts["groups"][0]["handlers"][0]["types"] == ["shop.ordered"]
    assert facts["types"][0]["class"] == "shop_app.Ordered"
    assert "shop.ordered -> die   shop_app.die (line" in run("describe", "shop_app:bus").out


def test_describe_of_a_route_leaves_the_rest_out(run: Run) -> None:
    ran = run("describe", "shop_app:bus", "--route", "shop.ordered", *JSON)
    assert len(ran.fits("describe").result["groups"]) == 3


def test_no_password_of_a_url_is_shown(run: Run, project: Path) -> None:
    (project / "secret_app.py").write_text(
        "from eventbus import EventBus\n"
        "bus = EventBus('memory://', storage='sqlite:///hunter2.db', service='shop')\n"
    )
    for command in ("describe", "guarantees"):
        ran = run(command, "secret_app:bus", *JSON)
        assert "hunter2" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("app", "flags", "code"),
    [
        ("bus", (), 0),
        ("unsafe", (), 1),
        ("warned", (), 0),
        ("warned", ("--strict",), 1),
    ],
)
def test_guarantees_fail_where_the_bus_would_not_start(
    run: Run, app: str, flags: tuple[str, ...], code: int
) -> None:
    ran = run("guarantees", f"shop_app:{app}", *flags, *JSON)
    assert ran.code == code
    assert ran.fits("guarantees").result["safe"] is (code == 0)


def test_a_refusal_is_printed_with_what_to_do(run: Run) -> None:
    lines = run("guarantees", "shop_app:unsafe").out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("refuse  EB1110"))
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["why", "next"]


def test_doctor_is_content_with_a_sound_app(run: Run, filled: Path) -> None:
    ran = run("doctor", "shop_app:bus", *JSON).fits("doctor")
    assert ran.code == 0
    assert {row["check"]: row["status"] for row in ran.result} == {
        "versions": "ok",
        "app": "ok",
        "transport": "ok",
        "storage": "warn",
    }
    assert "dead letters 2" in ran.result[-1]["what"]


@pytest.mark.parametrize(
    "args", [("shop_app:bsu",), ("shop_app:unsafe",), ("--storage", "sqlite:///nowhere.db")]
)
def test_doctor_finds_what_is_wrong(run: Run, args: tuple[str, ...]) -> None:
    ran = run("doctor", *args, *JSON).fits("doctor")
    assert ran.code == 1
    assert "fail" in {row["status"] for row in ran.result}


def test_doctor_looks_at_a_storage_alone(run: Run, filled: Path) -> None:
    assert run("doctor", "--storage", "sqlite:///shop.db").code == 0


@pytest.mark.parametrize("storage", [(), ("--storage", "sqlite")])
def test_the_test_of_a_new_project_passes(
    run: Run, project: Path, storage: tuple[str, ...]
) -> None:
    ran = run("init", "demo", *storage, *JSON).fits("init")
    assert set(ran.result["files"]) >= {"app.py", "test_app.py", "pyproject.toml"}
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:eventbus", "-p", "no:asyncio"]
    tested = subprocess.run(
        [*pytest_run, "-W", "error"], cwd=project / "demo", check=False, capture_output=True
    )
    assert tested.returncode == 0, tested.stdout


def test_init_overwrites_nothing(run: Run, project: Path) -> None:
    (project / "demo").mkdir()
    (project / "demo" / "notes.txt").write_text("mine")
    ran = run("init", "demo")
    assert (ran.code, ran.err[:6]) == (5, "EB8005")
    assert [path.name for path in (project / "demo").iterdir()] == ["notes.txt"]
    assert run("init", "Demo!").code == 2
    assert run("init", "other", "--dry-run").code == 0
    assert not (project / "other").exists()
