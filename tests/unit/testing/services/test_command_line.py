"""The launcher at a shell: exit codes, and what stdout is for."""

import json
from pathlib import Path

import pytest

from eventbus.testing.services.__main__ import main
from eventbus.testing.services.state import DIRECTORY


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    return tmp_path


def test_an_unknown_service_is_a_mistake_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["up", "oracle"])
    assert caught.value.code == 2
    assert "no service oracle: there is postgres" in capsys.readouterr().err


def test_status_of_nothing_is_an_empty_answer(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "eventbus.testing.services/1",
        "directory": str(directory),
        "services": {},
    }


def test_status_of_a_service_that_does_not_run_is_told_by_the_exit_code() -> None:
    assert main(["status", "postgres"]) == 3


def test_down_of_nothing_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert capsys.readouterr().out == ""


def test_a_url_that_does_not_answer_is_a_failure_with_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_POSTGRES_URL", "postgresql://127.0.0.1:1/x")
    assert main(["up", "postgres"]) == 1
    assert "EB1301" in capsys.readouterr().err
