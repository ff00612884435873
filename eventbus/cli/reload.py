"""`eventbus dev --reload`: the same command as a child, again whenever a file changes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

LOOK_SECONDS = 0.4


def reload() -> int:
    """Run this command without --reload until Ctrl-C or SIGTERM; the last child's exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        before = stamps()
        child = _start()
        try:
            while stamps() == before:
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            return _end(child)
        click.echo("  a file changed: starting again", err=True)
        _end(child)


def stamps() -> dict[str, int]:
    """When each Python file below this directory was written last; hidden ones are left out."""
    found = {}
    for path in Path().rglob("*.py"):
        if not any(part.startswith(".") for part in path.parts):
            with suppress(FileNotFoundError):  # an editor that writes by renaming
                found[str(path)] = path.stat().st_mtime_ns
    return found


def _start() -> "subprocess.Popen[Any]":
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    command = [sys.executable, "-m", "eventbus", *arguments]
    environment = {**os.environ, "EVENTBUS_RELOAD": "0"}
    return subprocess.Popen(command, env=environment)  # noqa: S603 - this very command


def _end(child: "subprocess.Popen[Any]") -> int:
    if child.poll() is None:  # after Ctrl-C the terminal has told it already: once is enough
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=LOOK_SECONDS)
        child.terminate()
    return child.wait()
