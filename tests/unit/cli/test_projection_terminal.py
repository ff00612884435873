"""eventbus projection rebuild on a terminal: a bar with rate and time left, then a question."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.test_projection import APP, app

__all__ = ["app"]  # the fixture
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="capability: pseudo terminals")

# As `python -m eventbus`, with a bar that is drawn often: the log is short.
OFTEN = """
import sys

from eventbus.cli import rebuilding
from eventbus.cli.main import main
from eventbus.sourcing.rebuild import parts

rebuilding.BAR_SECONDS = rebuilding.ETA_AFTER_SECONDS = 0.0
parts.BEAT_SECONDS = 0.02
sys.exit(main())
"""
SLOWLY = ("--batch", "1", "--rate", "5/s")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo terminal: ours, and what the command has."""
    ours, theirs = os.openpty()
    yield ours, theirs
    for end in (ours, theirs):
        os.close(end)


def test_the_bar_moves_and_the_switch_is_asked_for(
    app: object, project: Path, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    command = [sys.executable, "-c", OFTEN, "projection", "rebuild", "revenue", APP, *SLOWLY]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(project), *sys.path])}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
    )
    try:
        screen = _read_until(ours, "switch? 0 rows differ")
        os.write(ours, b"y\n")
        out, _ = process.communicate(timeout=110)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "switched" in out
    first, *drawn = screen.split("\r\x1b[K")
    assert first == ""
    bars = [one for one in drawn if one.startswith("  replay") and " ev/s" in one]
    assert len(bars) > 2
    assert all("[" in one and "/ 4" in one for one in bars)
    assert any("[====" in one and "   ETA 0:0" in one for one in bars)
    assert "revenue  v1 -> v2   shadow table revenue__v2   1 shards" in screen
    assert "undo: eventbus projection rollback revenue APP" in screen


def _read_until(terminal: int, text: str) -> str:
    """What stands on the screen once the text does; a command that hangs is ended by the test's."""
    screen = ""
    while text not in screen:
        screen += os.read(terminal, 4096).decode()
    return screen
