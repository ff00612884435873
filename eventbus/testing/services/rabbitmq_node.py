"""A RabbitMQ node of our own: its directory, ports, epmd and cookie. Blocking calls."""

import os
import shutil
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from eventbus.errors import ConfigurationError
from eventbus.testing.services.directories import new_directory
from eventbus.testing.services.processes import (
    BESIDE,
    Process,
    as_user,
    family,
    free_port,
    identified,
    kill,
    send,
    spawn,
    stop,
    wait_until,
)

PLUGINS = ("rabbitmq_management", "rabbitmq_consistent_hash_exchange")
USER = PASSWORD = "eventbus"  # noqa: S105  # of a throw-away node on loopback
START_SECONDS = 60.0
STOP_SECONDS = 60.0
_PATTERNS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/sbin")
_OWNER = "rabbitmq"  # who runs it if we are root


class Node:
    """One node; its data, its name and its ports stay over restarts.

    Calls from several threads take turns: nothing is started after `remove`.
    """

    def __init__(self, scripts: Path, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.settings: dict[str, str] = dict(settings)
        self.port: int = free_port()
        self._scripts = scripts
        self._epmd_port = free_port()
        self._distribution_port = free_port()
        self._name = f"eventbus-{uuid.uuid4().hex[:12]}@localhost"
        self._epmd: Process | None = None
        self._shell: Process | None = None  # waits for the server, and ends after it
        self._server: Process | None = None
        self._turn = threading.RLock()

    @property
    def url(self) -> str:
        """Of the vhost `/`."""
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"

    @property
    def processes(self) -> tuple[Process, ...]:
        """The virtual machine first, the script that waits for it, epmd; only what is alive."""
        ours = (self._server, self._shell, self._epmd)
        return tuple(each for each in ours if each is not None and each.alive)

    @property
    def pid(self) -> int:
        """That of the virtual machine; 0 if it does not run."""
        return self._server.pid if self._server is not None and self._server.alive else 0

    def start(self, ready: Callable[[], bool]) -> None:
        """Start it, and wait until it is ready; nothing if it runs.

        Raises:
            ConfigurationError: EB1303, it was not ready within 60 s; with the end of its log.
        """
        with self._turn:
            if not self.pid:
                self._wait(self._begin(), ready)

    def stop(self) -> None:
        """SIGTERM: clients are told, data are written; thawed before. Nothing if it is down.

        Raises:
            ConfigurationError: EB1303, it still runs after 60 s.
        """
        with self._turn:
            server = self._server
            if server is None or not server.alive:
                return
            self.thaw()
            send(server.pid, signal.SIGTERM)
            if not wait_until(lambda: not server.alive, STOP_SECONDS):
                raise self._failed("does not stop", f"{STOP_SECONDS:.0f} s after SIGTERM")

    def kill(self) -> None:
        """SIGKILL to the virtual machine and its helpers: nobody says goodbye to any client."""
        with self._turn:
            if self._server is not None and not kill([self._server]):
                raise self._failed("does not die", "SIGKILL")

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, nothing is answered."""
        with self._turn:
            if self.pid:
                stop(self.pid)

    def thaw(self) -> None:
        """SIGCONT; what waited is worked off."""
        with self._turn:
            if self.pid:
                send(self.pid, signal.SIGCONT)

    def remembers(self, queue: str, vhost: str) -> bool:
        """That quorum queue is in the file by which the next start finds it.

        It is written about once a second. A queue that a kill keeps out of it never works again:
        RabbitMQ 3.10 knows it, and answers nothing about it (measured).
        """
        name = f"{'%2F' if vhost == '/' else vhost}_{queue}".encode()
        size = len(name).to_bytes(2, "big")
        as_term = (b"d" + size + name, b"w" + size[1:] + name)  # an atom, of Erlang 25 and of 26
        for file in self.directory.glob("mnesia/*/quorum/*/names.dets"):
            content = file.read_bytes()
            if any(term in content for term in as_term):
                return True
        return False

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says.

        Raises:
            ConfigurationError: EB1303, it fails, or does not end within 60 s.
        """
        command = [str(self._scripts / "rabbitmqctl"), "-n", self._name, *arguments]
        try:
            done = subprocess.run(  # noqa: S603  # our own words
                command,
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=STOP_SECONDS,
                check=True,
                **as_user(_OWNER),
            )
        except subprocess.SubprocessError as error:
            raise self._failed(f"refuses {' '.join(arguments)}", str(error)) from error
        return str(done.stdout)

    def remove(self) -> None:
        """End it and its epmd, and delete its data."""
        with self._turn:
            remove(self.processes, self.directory)

    def _begin(self) -> Process:
        self._configure()
        environment = self._environment()
        self._file("pid").unlink(missing_ok=True)
        if self._epmd is None or not self._epmd.alive:
            command = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = self._spawn(command, environment)
        self._shell = shell = self._spawn([str(self._scripts / "rabbitmq-server")], environment)
        return shell

    def _wait(self, shell: Process, ready: Callable[[], bool]) -> None:
        if not wait_until(lambda: self._runs(shell) or not shell.alive, START_SECONDS):
            raise self._failed("does not start", f"no pid after {START_SECONDS:.0f} s")
        if not wait_until(lambda: not self.pid or ready(), START_SECONDS):
            raise self._failed("is not ready", f"{START_SECONDS:.0f} s after its start")
        if not self.pid:
            raise self._failed("ends while it starts", "see its log")

    def _runs(self, shell: Process) -> bool:
        """The virtual machine has written its number, and descends from what was started."""
        try:
            pid = int(self._file("pid").read_text())
        except (FileNotFoundError, ValueError):
            return False
        if pid not in family(shell):
            return False
        self._server = identified(pid)
        return True

    def _spawn(self, command: list[str], environment: Mapping[str, str]) -> Process:
        return spawn(command, directory=self.directory, environment=environment, user=_OWNER)

    def _configure(self) -> None:
        fixed = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self.port + BESIDE),
            "default_user": USER,
            "default_pass": PASSWORD,
            "disk_free_limit.absolute": "50MB",  # or publishers block on a small disk
        }
        settings = {**self.settings, **fixed}.items()
        lines = "".join(f"{name} = {value}\n" for name, value in settings)
        self._write("rabbitmq.conf", lines)
        self._write("enabled_plugins", f"[{','.join(PLUGINS)}].\n")
        self._write("advanced.config", "[].\n")

    def _write(self, name: str, text: str) -> None:
        file = self._file(name)
        file.write_text(text, encoding="utf-8")
        if as_user(_OWNER):
            shutil.chown(file, _OWNER, _OWNER)
        file.chmod(0o644)  # we may be root, with a strict umask

    def _environment(self) -> dict[str, str]:
        """Nothing of the system's own RabbitMQ is read or written: not its files, not its epmd."""
        home = self.directory
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(home),  # Erlang's cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "logs"),
            "RABBITMQ_LOGS": "-",  # to its output, and so into the file `log`
            "RABBITMQ_PID_FILE": str(self._file("pid")),
            "RABBITMQ_SCHEMA_DIR": str(home / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._file("enabled_plugins")),
            "RABBITMQ_CONFIG_FILE": str(self._file("rabbitmq.conf")),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._file("advanced.config")),
            "RABBITMQ_CONF_ENV_FILE": str(self._file("none")),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _file(self, name: str) -> Path:
        return self.directory / name

    def _failed(self, what: str, why: str) -> ConfigurationError:
        return failed(what, self.directory, why)


def find_scripts() -> Path | None:
    """The folder of `rabbitmq-server` itself, not that of a wrapper that changes the user."""
    for folder in map(Path, _PATTERNS):
        if os.access(folder / "rabbitmq-server", os.X_OK) and shutil.which("epmd"):
            return folder
    return None


def new_node(scripts: Path, parent: Path, settings: Mapping[str, str]) -> Node:
    """A node with a directory of its own, not started.

    Raises:
        ConfigurationError: EB1303, we are root and there is no user `rabbitmq`.
    """
    try:
        directory = new_directory(parent, "rabbit", _OWNER)
    except LookupError as error:
        raise failed("cannot run as root", parent, f"no user {_OWNER!r} here") from error
    return Node(scripts, directory, settings)


def remove(processes: tuple[Process, ...], directory: Path) -> None:
    """End what was started, if it still is that, and delete the directory.

    A polite stop takes seconds, for data that is thrown away.

    Raises:
        ConfigurationError: EB1303, one of them does not die within 30 s.
    """
    if not kill(processes):
        raise failed("does not die", directory, "SIGKILL")
    shutil.rmtree(directory, ignore_errors=True)


def failed(what: str, directory: Path, why: str) -> ConfigurationError:
    """The error of a node that does not do as it is told, with the end of its log."""
    log = directory / "log"
    lines = log.read_text(errors="replace").splitlines()[-3:] if log.is_file() else []
    return ConfigurationError(
        "EB1303",
        f"RabbitMQ for tests {what}",
        where=str(directory),
        why="; ".join([why, *lines]),
        next="look at its log, if there is one; or set EVENTBUS_TEST_RABBIT_URL",
    )
