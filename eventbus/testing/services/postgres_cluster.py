"""A PostgreSQL of our own: a new directory, loopback only, stopped by pid. Blocking calls."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from eventbus.errors import ConfigurationError
from eventbus.testing.services.directories import new_directory
from eventbus.testing.services.postgres_programs import Programs
from eventbus.testing.services.processes import (
    as_user,
    born,
    children,
    command_line,
    free_port,
    send,
    stop,
    wait_until,
)

Mode = Literal["fast", "immediate"]
SYNCFS = 14  # the first PostgreSQL that knows it
START_SECONDS = 60.0
STOP_SECONDS = 30.0
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_OWNER = "postgres"  # who runs it if we are root: the server refuses to be root


class Cluster:
    """One data directory and the server on it; calls from several threads take turns."""

    def __init__(self, programs: Programs, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.settings: dict[str, str] = dict(settings)
        self.port: int = free_port()
        self._programs = programs
        self._turn = threading.RLock()

    @property
    def url(self) -> str:
        """Of the database `postgres`; the port stays over restarts."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The postmaster's; 0 if it does not run."""
        return _postmaster(self.directory) or 0

    def start(self) -> None:
        """Start and wait until it takes connections.

        Raises:
            ConfigurationError: EB1303, it did not start within 60 s; with the end of its log.
        """
        with self._turn:
            self._configure()
            data, log = str(self.directory / "data"), str(self.directory / "log")
            wait = f"{START_SECONDS:.0f}"
            self._run("pg_ctl", "-D", data, "-l", log, "-w", "-t", wait, "start")

    def stop(self, mode: Mode = "fast") -> None:
        """End it and wait until it is gone; thawed before. Nothing if it does not run.

        Args:
            mode: `fast` rolls back what is open and writes a checkpoint; `immediate` does neither,
                and the next start recovers from the log, as after a crash.

        Raises:
            ConfigurationError: EB1303, it still runs after 30 s.
        """
        with self._turn:
            pid = _postmaster(self.directory)
            if pid is None:
                return
            self.thaw()
            send(pid, _SIGNALS[mode])
            if not wait_until(lambda: born(pid) is None, STOP_SECONDS):
                raise _failed("does not stop", self.directory, f"{STOP_SECONDS:.0f} s after {mode}")

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory is out: nobody says goodbye to any client.

        Its children go with it: left alone, they would keep the next start from the directory.
        """
        with self._turn:
            pid = _postmaster(self.directory)
            if pid is None:
                return
            send(pid, signal.SIGSTOP)  # no new children from here on
            family = [pid, *children(pid)]
            for each in family:
                send(each, signal.SIGKILL)
            if not wait_until(lambda: all(born(each) is None for each in family), STOP_SECONDS):
                raise _failed("does not die", self.directory, f"SIGKILL to {family}")
            # Where nobody reaps orphans the pid stays, and the next start would believe in it.
            self._data("postmaster.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """SIGSTOP to all of it: connections are accepted by the kernel, nothing is answered."""
        with self._turn:
            pid = _postmaster(self.directory)
            if pid is not None:
                stop(pid)
                for each in children(pid):
                    stop(each)

    def thaw(self) -> None:
        """SIGCONT to all of it; what waited is worked off."""
        with self._turn:
            pid = _postmaster(self.directory)
            if pid is not None:
                for each in (*children(pid), pid):
                    send(each, signal.SIGCONT)

    def initialise(self) -> None:
        """Make the data directory: trust on loopback, UTF-8, sorted by code points."""
        locale = "C.UTF-8" if sys.platform == "linux" else "C"
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", f"--locale={locale}", "-N"]
        self._run("initdb", "-D", str(self.directory / "data"), *options)
        with self._data("postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("include 'eventbus.conf'\n")

    def _configure(self) -> None:
        fixed = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",  # their paths end at 103 characters
        }
        settings = {**self._defaults(), **self.settings, **fixed}.items()
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings]
        file = self._data("eventbus.conf")
        file.write_text("".join(lines), encoding="utf-8")
        file.chmod(0o644)  # we may be root, with a strict umask; the server reads it

    def _defaults(self) -> dict[str, str]:
        """After a kill a server flushes its directory: in one call, where there is one for it."""
        if sys.platform != "linux" or self._programs.major < SYNCFS:
            return {}
        return {"recovery_init_sync_method": "syncfs"}

    def _data(self, name: str) -> Path:
        return self.directory / "data" / name

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs.folder / program), *arguments]
        try:
            done = subprocess.run(  # noqa: S603  # our own words
                command,
                cwd=self.directory,  # the owner may not enter ours
                env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_SECONDS + 5,
                check=False,
                **as_user(_OWNER),
            )
        except subprocess.TimeoutExpired as error:
            raise _failed(f"hangs in {program}", self.directory, f"{error.timeout} s") from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())
            raise _failed(f"fails in {program}", self.directory, said[-300:])


def new_cluster(programs: Programs, parent: Path, settings: Mapping[str, str]) -> Cluster:
    """A new cluster, not started; its directory is removed again if it cannot be made.

    Raises:
        ConfigurationError: EB1303, `initdb` fails.
    """
    try:
        directory = new_directory(parent, "postgres", _OWNER)
    except LookupError as error:
        raise _failed("cannot run as root", parent, f"no user {_OWNER!r} here") from error
    cluster = Cluster(programs, directory, settings)
    try:
        cluster.initialise()
    except BaseException:
        shutil.rmtree(cluster.directory, ignore_errors=True)
        raise
    return cluster


def stop_cluster_in(directory: Path) -> None:
    """End the server of that directory, whatever it takes, and remove the directory.

    Immediately: a checkpoint would take seconds on a busy disk, for data that is thrown away.
    """
    cluster = Cluster(Programs(directory, "0"), directory, {})
    try:
        cluster.stop("immediate")
    except ConfigurationError:
        cluster.kill()
    shutil.rmtree(directory, ignore_errors=True)


def _postmaster(directory: Path) -> int | None:
    """The pid in `postmaster.pid`, if that process was started on this very directory.

    A pid may belong to somebody else by now; a command line that names our directory does not.
    """
    data = directory / "data"
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    running = born(pid) is not None and str(data) in command_line(pid)
    return pid if running else None


def _failed(what: str, directory: Path, why: str) -> ConfigurationError:
    log = directory / "log"
    lines = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
    return ConfigurationError(
        "EB1303",
        f"PostgreSQL for tests {what}",
        where=str(directory),
        why="; ".join([why, *lines]),
        next="look at its log, if there is one; or set EVENTBUS_TEST_POSTGRES_URL",
    )
