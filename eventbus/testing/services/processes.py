"""Processes by identity, not by number alone; ports that nobody else takes."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

STOP_SECONDS = 5.0
BESIDE = 10_000  # from a port to its companion, as 15672 stands beside 5672 by convention
_PROC = Path("/proc")
_PORTS = cycle(random.SystemRandom().sample(range(15_000, 22_701), 7_701))


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be taken for a later one of the same number."""

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        """It runs; a zombie does not."""
        return born(self.pid) == self.born


def this_process() -> Process:
    """Who asks."""
    return identified(os.getpid())


def identified(pid: int) -> Process:
    """The process that has this number now; one that is gone is never `alive`."""
    return Process(pid, born(pid) or "gone")


def born(pid: int) -> str | None:
    """When the process started, in units of the platform; None if it is gone or a zombie."""
    if _PROC.joinpath("self/stat").exists():
        try:
            fields = _PROC.joinpath(str(pid), "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        # A leader turns into a zombie first; its sockets are open until its last thread has ended.
        ended = fields[0] in "ZX" and int(fields[17]) <= 1
        return None if ended else fields[19]
    state, _, started = _ps("-p", str(pid), "-o", "stat=,lstart=").strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def command_line(pid: int) -> str:
    """What it was started with, parted by blanks; empty if it is gone."""
    if _PROC.joinpath("self/stat").exists():
        try:
            return _PROC.joinpath(str(pid), "cmdline").read_text().replace("\0", " ")
        except OSError:
            return ""
    return _ps("-p", str(pid), "-o", "command=")


def children(pid: int) -> list[int]:
    """Its direct children."""
    if not _PROC.joinpath("self/stat").exists():
        rows = (line.split() for line in _ps("-A", "-o", "pid=,ppid=").splitlines())
        return [int(child) for child, parent in rows if int(parent) == pid]
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = entry.joinpath("stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def spawn(
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    user: str | None = None,
) -> Process:
    """Start a server in a session of its own, so that it outlives us; its output goes to `log`.

    Args:
        command: the program and its arguments; it starts in `directory`, where `log` is, too.
        directory: writable by the user who runs it.
        environment: all of it: nothing of ours is passed on.
        user: who runs it, if we are root; None: we.
    """
    # A shell between us: nobody has to wait for the child, whoever started it may end first.
    script = '"$@" </dev/null >>log 2>&1 & echo $!'
    shell = ["/bin/sh", "-c", script, "sh", *command]
    done = subprocess.run(  # noqa: S603  # our own words
        shell,
        cwd=directory,
        env=dict(environment),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        **as_user(user),
    )
    return identified(int(done.stdout))


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess.run`: that user, if we are root and there is one to be."""
    if user is None or os.geteuid() != 0:
        return {}
    return {"user": user, "group": user, "extra_groups": []}


def family(process: Process) -> list[int]:
    """The process and what descends from it, while it is alive; empty if it is gone."""
    if not process.alive:
        return []
    pids = [process.pid]
    for pid in pids:  # grows while it is read
        pids.extend(children(pid))
    return pids


def kill(processes: Iterable[Process], seconds: float = 30.0) -> bool:
    """SIGKILL to each, if it is still the one that was started, and to what descends from it.

    Returns:
        Whether all of them were gone in time.
    """
    pids: list[int] = []
    for process in processes:
        if process.alive:
            send(process.pid, signal.SIGSTOP)  # no new children from here on
            pids.extend(family(process))
    for pid in pids:
        send(pid, signal.SIGKILL)
    return wait_until(lambda: all(born(pid) is None for pid in pids), seconds)


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process; nothing if it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def stop(pid: int) -> None:
    """SIGSTOP, and wait until no thread runs any more: one may answer a request meanwhile."""
    send(pid, signal.SIGSTOP)
    threads = _PROC / str(pid) / "task"
    wait_until(lambda: all(map(_is_stopped, threads.glob("*/stat"))), STOP_SECONDS)


def _is_stopped(stat: Path) -> bool:
    try:
        return stat.read_text(encoding="latin-1").rpartition(") ")[2][:1] in "TtZX"
    except OSError:
        return True  # it has ended


def wait_until(fact: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and no outgoing connection will be given.

    Below the ranges that Linux (32768) and macOS (49152) hand out: a client that connects to a
    stopped server on such a port may be connected to itself, and a server that starts again may
    find its port taken. The same holds of its companion, `BESIDE` above. None is given again
    before all were: who was given it may not listen yet, or may be stopped for a while.
    """
    return next(port for port in _PORTS if _is_free(port) and _is_free(port + BESIDE))


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _ps(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603  # our own words, no shell
        ["/bin/ps", *arguments], capture_output=True, text=True, timeout=10, check=False
    )
    return done.stdout
