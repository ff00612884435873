"""The plugin in a project of its own: what a missing service does to a test."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

NOTHING_INSTALLED = """
from eventbus.testing.services import postgres_programs
postgres_programs.PATTERNS = ("/nowhere/*",)
"""
ONE_TEST = """
def test_it(postgres_url):
    assert postgres_url.startswith("postgresql://")

def test_another():
    pass
"""


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> pytest.Pytester:
    """A project on a machine without PostgreSQL, Docker and apt."""
    for name in ("CI", "EVENTBUS_TEST_POSTGRES_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EVENTBUS_TEST_SERVICES_DIR", str(tmp_path / "services"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'no.sock'}")
    monkeypatch.setenv("PATH", str(tmp_path))
    pytester.makeconftest(NOTHING_INSTALLED)
    pytester.makepyfile(ONE_TEST)
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess(
        "-p", "eventbus.testing.services.fixtures", "-p", "no:randomly", "-rs", *arguments
    )


def test_a_missing_service_skips_with_the_reason_and_the_command(project: pytest.Pytester) -> None:
    result = run(project)
    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*EB1302 no PostgreSQL*why*next python -m eventbus.testing.services up postgres*"]
    )


def test_in_ci_a_missing_service_fails(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    result = run(project)
    result.assert_outcomes(failed=0, errors=1, passed=1)
    result.stdout.fnmatch_lines(["*EB1302 no PostgreSQL*"])


def test_a_required_service_that_is_missing_fails_and_the_header_says_so(
    project: pytest.Pytester,
) -> None:
    result = run(project, "--eventbus-require=postgres")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["eventbus services: no postgres: no PostgreSQL for tests"])


def test_a_url_that_does_not_answer_fails_also_where_nothing_is_required(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_POSTGRES_URL", "postgresql://u:s3cret@127.0.0.1:1/x")
    result = run(project)
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*EB1301 PostgreSQL for tests does not answer*"])
    result.stdout.no_fnmatch_line("*s3cret*")


def test_an_unknown_service_is_refused(project: pytest.Pytester) -> None:
    result = run(project, "--eventbus-require=postgres,oracle")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--eventbus-require=oracle: there is postgres*"])


def test_what_uses_a_service_is_marked(project: pytest.Pytester) -> None:
    run(project, "-m", "not postgres").assert_outcomes(passed=1, deselected=1)
    run(project, "-m", "postgres").assert_outcomes(skipped=1, deselected=1)


def test_a_run_that_needs_no_service_prints_and_makes_nothing(
    project: pytest.Pytester, tmp_path: Path
) -> None:
    result = run(project, "-k", "another")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.no_fnmatch_line("eventbus services*")
    assert not (tmp_path / "services").exists()


def test_the_module_imports_pytest_and_the_standard_library_only(
    project: pytest.Pytester,
) -> None:
    result = project.runpython_c(
        "import sys, pytest; before = set(sys.modules);"
        "import eventbus.testing.services.fixtures;"
        "print(sorted(m for m in set(sys.modules) - before if 'eventbus' in m))"
    )
    assert result.outlines == [
        "['eventbus', 'eventbus.testing', 'eventbus.testing.services', "
        "'eventbus.testing.services.fixtures']"
    ]


ELSEWHERE = """
import pytest

@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTBUS_TEST_SERVICES_DIR", str(tmp_path / "other"))

def test_it(elsewhere, postgres_url):
    pass
"""
TELLS_WHERE = """
import os
from eventbus.errors import EventBusError
from eventbus.testing.services import find
def acquire(name, user, *, install):
    state = os.environ["EVENTBUS_TEST_SERVICES_DIR"]
    raise EventBusError("EB1302", state, where=os.getcwd(), why="w", next="n")
find.acquire = acquire
"""


def test_a_service_is_looked_for_where_the_run_began_though_a_test_went_elsewhere(
    project: pytest.Pytester, tmp_path: Path
) -> None:
    project.makeconftest(TELLS_WHERE)
    project.makepyfile(ELSEWHERE)
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [f"*EB1302 {tmp_path / 'services'}", f"*where {project.path}"], consecutive=True
    )
