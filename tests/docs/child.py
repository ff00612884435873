"""A command of a page as a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT


def printed_by(
    command: str,
    folder: Path,
    *,
    count: int,
    python: Path = Path(sys.executable),
    path: Path | None = ROOT,
) -> list[str]:
    """The first lines of its stdout; then it is asked to end, and must end well.

    Args:
        command: `eventbus …`, run as a module.
        folder: where it runs.
        count: of lines.
        python: the interpreter.
        path: where it finds eventbus; None: it is installed there.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("EVENTBUS_") and name != "PYTHONPATH"
    }
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    child = subprocess.Popen(
        [str(python), "-m", *shlex.split(command)],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    with child:
        try:
            lines = [child.stdout.readline().rstrip("\n") for _ in range(count)]
        finally:
            child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0
        assert child.stdout.read() == ""
    return lines
