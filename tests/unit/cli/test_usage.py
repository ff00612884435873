"""Finding the command, the flag, the app; what is said where something is mistyped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from eventbus.cli import main as cli
from eventbus.cli.flags import Duration, Rate

from .conftest import Run

HELP = Path(__file__).with_name("help_80.txt")


def test_the_help_at_width_80_is_the_golden_one() -> None:
    shown = CliRunner().invoke(cli.eventbus, ["--help"], prog_name="eventbus", terminal_width=80)
    assert shown.output == HELP.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 80, 100])
def test_the_help_keeps_to_the_width(width: int) -> None:
    shown = CliRunner().invoke(cli.eventbus, ["--help"], terminal_width=width)
    wide = [line for line in shown.output.splitlines() if len(line) > width]
    assert wide == []


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_of_the_table_has_help(run: Run, command: str) -> None:
    assert "Usage: eventbus" in run(command, "--help").out


def test_help_imports_neither_asyncio_nor_pydantic_nor_a_command() -> None:
    code = (
        "import sys; from eventbus.cli.main import main; main(['--help']);"
        "bad = {'asyncio', 'pydantic', 'sqlite3', 'rich', 'eventbus.bus', 'eventbus.cli.run'};"
        "print('bad:', *(bad & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "bad:"


def test_the_module_runs_as_the_command_does() -> None:
    command = [sys.executable, "-m", "eventbus", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=110)
    assert ran.stdout.startswith("eventbus, version ")


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["parkd"], "eventbus parked"),
        (["outbox", "listt"], "eventbus outbox list"),
        (["--storge", "x"], "--storage"),
        (["describe", "shop_ap:bus"], "shop_app:bus"),
        (["describe", "shop_app:bsu"], "shop_app:bus"),
        (["run", "shop_app:bus", "--group", "dyingg"], "--group dying"),
        (["describe", "shop_app:bus", "--route", "shop.orderedd"], "--route shop.ordered"),
        (["explain", "EB41022"], "eventbus explain EB4102"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_one_that_was_meant(
    run: Run, args: list[str], meant: str
) -> None:
    ran = run(*args)
    assert ran.code == 2
    assert meant in ran.err.splitlines()[-1]
    assert len(ran.err.splitlines()) <= 6
    assert ran.out == ""


def test_a_missing_attribute_is_answered_with_what_the_module_has(run: Run) -> None:
    assert run("describe", "shop_app:nothing").err.splitlines() == [
        "EB1002 shop_app.py has no attribute 'nothing'",
        "  where eventbus describe shop_app:nothing",
        "  why   the module defines 3 of EventBus: bus, unsafe, warned",
        "  next  shop_app:bus | shop_app:unsafe | shop_app:warned",
    ]


@pytest.mark.parametrize("target", ["shop_app", "shop_app:number"])
def test_what_is_no_bus_is_refused(run: Run, target: str) -> None:
    ran = run("describe", target)
    assert (ran.code, ran.err[:6]) == (2, "EB1002")


def test_a_module_that_fails_names_its_own_line(run: Run, project: Path) -> None:
    (project / "broken_app.py").write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    ran = run("describe", "broken_app:bus")
    assert ran.code == 2
    assert ran.err.splitlines()[:2] == [
        "EB1001 importing 'broken_app' failed: ZeroDivisionError: division by zero",
        "  where broken_app.py:2 in <module>",
    ]
    assert "Traceback" not in ran.err
    assert "Traceback" in run("-v", "describe", "broken_app:bus").err


def test_a_module_missing_inside_the_app_is_not_taken_for_the_app(run: Run, project: Path) -> None:
    (project / "needy_app.py").write_text("import not_installed_at_all\n", encoding="utf-8")
    ran = run("describe", "needy_app:bus")
    assert "importing 'needy_app' failed: ModuleNotFoundError" in ran.err


def test_the_app_comes_from_argument_flag_environment_and_project_in_this_order(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def types(*args: str) -> int:
        return len(run("-o", "json", "describe", *args).result["groups"])

    (project / "pyproject.toml").write_text('[tool.eventbus]\napp = "shop_app:bus"\n')
    assert types() == 3
    monkeypatch.setenv("EVENTBUS_APP", "shop_app:unsafe")
    assert types() == 0
    assert types("--app", "shop_app:warned") == 1
    assert types("--app", "shop_app:warned", "shop_app:bus") == 3


def test_no_app_at_all_is_said(run: Run) -> None:
    assert run("describe").err.startswith("EB8001 no app was named")


def test_transport_and_storage_replace_what_the_bus_was_built_with(run: Run) -> None:
    ran = run("describe", "shop_app:warned", "--storage", "sqlite://", "-o", "json")
    assert ran.result["storage"] == "sqlite"
    assert run("describe", "shop_app:bus", "--transport", "kafak://x").err.startswith("EB1003")


def test_a_flag_wins_over_the_environment_and_a_later_one_over_an_earlier(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_OUTPUT", "table")
    assert run("-o", "jsonl", "explain", "EB1001", "-o", "json").out.startswith('{"schema"')
    assert run("-o", "json", "explain", "EB1001").out.startswith('{"schema"')
    assert run("explain", "EB1001").out.startswith("# EB1001")


def test_an_env_file_sets_what_is_not_set(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (project / "my.env").write_text('# mine\nexport EVENTBUS_OUTPUT="json"\nEVENTBUS_APP=x:y\n')
    monkeypatch.setenv("EVENTBUS_APP", "shop_app:bus")
    ran = run("describe", "--env-file", "my.env")
    assert ran.result["service"] == "shop"
    assert run("--env-file=nowhere.env", "describe").code == 2


def test_an_error_in_json_mode_is_one_line_with_its_fields(run: Run) -> None:
    ran = run("-o", "json", "describe", "shop_app:bsu").fits("error")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("25s", 25), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7", 7)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["soon", "-1s", "1w"])
def test_what_is_no_duration_is_refused(run: Run, text: str) -> None:
    ran = run("run", "shop_app:bus", f"--grace={text}")
    assert (ran.code, ran.err[:6]) == (2, "EB8001")


@pytest.mark.parametrize(
    ("argv", "first", "last"),
    [
        (("schema", "upcast"), "EB8001 Missing ", "  next  eventbus schema upcast --help"),
        (
            ("saga", "resolve", "--key", "A-1"),
            "EB8001 Missing option '--as'. Choose from: done, undone",
            "  next  eventbus saga resolve --help",
        ),
        (
            ("schema", "list", "shop_app:bus"),
            "EB8001 Got unexpected extra argument (shop_app:bus)",
            "  next  eventbus schema list -A shop_app:bus … | eventbus schema list --help",
        ),
    ],
)
def test_what_is_missing_or_too_much_is_said(
    run: Run, argv: tuple[str, ...], first: str, last: str
) -> None:
    lines = run(*argv).err.splitlines()
    assert lines[0].startswith(first)
    assert lines[-1] == last


def test_rates_are_read() -> None:
    assert Rate().convert("50/s", None, None) == 50
    assert Rate().convert("0.5", None, None) == 0.5


def test_a_bug_prints_what_to_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("doctor:not_there", ""))
    ran = run("doctor")
    assert ran.code == 70
    assert ran.err.startswith("EB9001 a bug in eventbus: AttributeError")
    assert "Traceback" in ran.err


def test_ctrl_c_where_nothing_runs_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("eventbus.cli.output.envelope", interrupted)
    assert run("-o", "json", "explain", "EB1001").code == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_us_back(run: Run, shell: str) -> None:
    assert f"_EVENTBUS_COMPLETE={shell}_complete" in run("completion", shell).out


def test_bash_completes_commands(project: Path) -> None:
    environment = {**os.environ, "_EVENTBUS_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "eventbus dea", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "import sys; from eventbus.cli.main import main; main([])"]
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout == "plain,dead-letter\n"
