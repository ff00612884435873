"""`docker-compose.test.yml` by the word of compose itself; what stands in it, by test_docker.py."""

import shutil
import subprocess
from pathlib import Path

import pytest

FILE = Path(__file__).parents[4] / "docker-compose.test.yml"


def compose() -> list[str]:
    """The command: the plugin of Docker, else the program of its own; neither asks an engine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            asked = subprocess.run([*command, "version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return command
    pytest.skip("capability docker-compose: neither the plugin of Docker nor docker-compose")


def judged(file: Path) -> subprocess.CompletedProcess[str]:
    command = [*compose(), "--file", str(file), "config", "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_for_compose_is_valid() -> None:
    ran = judged(FILE)
    assert ran.returncode == 0, ran.stderr


def test_a_file_that_is_not_is_found_out(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text("utf-8").replace("healthcheck:", "health_check:"), "utf-8")
    assert judged(wrong).returncode != 0
