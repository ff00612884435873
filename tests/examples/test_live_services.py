"""The example for users of the plugin, in a run of its own on the services of this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventbus.testing.services.service import variable

ROOT = Path(__file__).parents[2]
NAMES = ("kafka", "rabbit", "postgres")


@pytest.fixture
def services(request: pytest.FixtureRequest) -> dict[str, str]:
    """Their URLs, as the run of the example finds them; each is in use by this test."""
    for name in NAMES:
        request.getfixturevalue(f"{name}_url")
    from eventbus.testing.services.find import status

    started = {name: entry.running.url for name, entry in status().items()}
    named = {name: os.environ[variable(name)] for name in NAMES if variable(name) in os.environ}
    return {variable(name): url for name, url in {**started, **named}.items() if name in NAMES}


def run(services: dict[str, str], *flags: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "examples/live_services", "-v"),
            *("-p", "no:cacheprovider", "--eventbus-require=kafka,rabbit,postgres", *flags),
        ],
        cwd=ROOT,
        env={**environment, **services},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_example_passes_on_both_brokers_and_postgresql(services: dict[str, str]) -> None:
    out = run(services)
    assert "7 passed" in out
    assert "skipped" not in out
    for pair in ("kafka-postgres", "rabbit-postgres"):
        assert f"test_each_order_is_billed_and_thanked_for_once[{pair}] PASSED" in out
    assert "(environment)" in out


def test_options_choose_the_pairs(services: dict[str, str]) -> None:
    flags = ("--eventbus-transport=rabbit", "--eventbus-storage=postgres,sqlite", "-k", "each")
    out = run(services, *flags)
    assert "2 passed" in out
    assert "[rabbit-sqlite] PASSED" in out
