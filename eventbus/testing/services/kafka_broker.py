"""Kafka brokers of our own, each its own controller as well. Blocking calls."""

import base64
import shutil
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from eventbus.errors import ConfigurationError
from eventbus.testing.services.directories import new_directory
from eventbus.testing.services.kafka_maven import Programs
from eventbus.testing.services.processes import (
    Process,
    free_port,
    kill,
    send,
    spawn,
    stop,
    wait_until,
)

START_SECONDS = 60.0
STOP_SECONDS = 60.0
_JAVA = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_FIXED = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
}
_DEFAULTS = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "broker.session.timeout.ms": "2000",  # who was killed is noticed, and followed, in 2.4 s
    "broker.heartbeat.interval.ms": "300",
}


class Broker:
    """One broker; its number, its data and its ports stay over restarts.

    Clients are sent to the address that a listener *advertises*. What comes in by `proxied` is
    sent to `advertised`: the port of a proxy, which connects to `proxied` in turn.
    """

    def __init__(self, number: int, programs: Programs, directory: Path) -> None:
        self.number = number
        self.directory = directory
        self.port: int = free_port()
        self.proxied: int = free_port()
        self.controller: int = free_port()
        self.advertised: int = self.proxied
        self._programs = programs
        self._process: Process | None = None

    @property
    def process(self) -> Process | None:
        """The process, while it is alive."""
        return self._process if self._process is not None and self._process.alive else None

    def format(self, cluster: str, settings: Mapping[str, str]) -> "subprocess.Popen[str]":
        """Begin to make its data directory; the caller waits for it."""
        self.directory.mkdir()
        self.configure(settings)
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c")
        return subprocess.Popen(  # noqa: S603  # our own words, no shell
            [*command, "server.properties"],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write `server.properties`; counts from the next start."""
        own = {
            "node.id": str(self.number),
            "log.dirs": str(self.directory / "data"),
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},PROXIED://127.0.0.1:{self.proxied},"
            f"CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port},"
            f"PROXIED://127.0.0.1:{self.advertised}",
        }
        lines = "".join(f"{name}={value}\n" for name, value in {**settings, **own}.items())
        (self.directory / "server.properties").write_text(lines, encoding="utf-8")

    def start(self) -> None:
        """Start it and do not wait; nothing if it runs."""
        if self.process is None:
            self._process = spawn(
                self._java("kafka.Kafka", "server.properties"),
                directory=self.directory,
                environment={"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing if it is down."""
        process = self.process
        if process is not None:
            send(process.pid, number)

    def _java(self, program: str, *arguments: str) -> list[str]:
        jars = f"{self._programs.jars}/*"
        return [str(self._programs.java), *_JAVA, "-cp", jars, program, *arguments]


class Cluster:
    """One broker or three, and the directory with their data.

    Calls from several threads take turns: nothing is started after `remove`.
    """

    def __init__(
        self, programs: Programs, directory: Path, count: int, settings: Mapping[str, str]
    ) -> None:
        self.directory = directory
        self.settings: dict[str, str] = dict(settings)
        self.brokers: tuple[Broker, ...] = tuple(
            Broker(number, programs, directory / f"broker-{number}")
            for number in range(1, count + 1)
        )
        self._turn = threading.RLock()

    @property
    def url(self) -> str:
        """All brokers, each by its plain listener; it stays over restarts."""
        return "kafka://" + ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)

    @property
    def processes(self) -> tuple[Process, ...]:
        """Those of the brokers that run."""
        return tuple(b.process for b in self.brokers if b.process is not None)

    def initialise(self) -> None:
        """Make the data directories, all for one cluster.

        Raises:
            ConfigurationError: EB1303, the tool fails, or takes longer than 60 s.
        """
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        name = f"e{name[1:]}"  # a leading dash would be an option
        settings = self._settings()
        tools = [broker.format(name, settings) for broker in self.brokers]
        try:
            for tool in tools:
                said = tool.communicate(timeout=START_SECONDS)[0]
                if tool.returncode != 0:
                    why = f"it ended with {tool.returncode}: {'; '.join(_words(said)[-3:])}"
                    raise self._failed("cannot be formatted", why)
        except subprocess.TimeoutExpired as error:
            raise self._failed("cannot be formatted", f"{error.timeout:.0f} s passed") from error
        finally:
            for tool in tools:
                if tool.poll() is None:
                    tool.kill()
                    tool.communicate()

    def start(self, ready: Callable[[], bool], brokers: Sequence[Broker] = ()) -> None:
        """Start these brokers, or all, and wait until the cluster works.

        Raises:
            ConfigurationError: EB1303, it was not ready within 60 s; with the end of a log.
        """
        with self._turn:
            chosen = brokers or self.brokers
            settings = self._settings()
            for broker in chosen:
                broker.configure(settings)
                broker.start()
            self._wait(ready, chosen)

    def stop(self, brokers: Sequence[Broker] = ()) -> None:
        """SIGTERM to these brokers, or all, and wait until they are gone; thawed before.

        Three at once take some 6 s: who is left without a quorum cannot hand over.

        Raises:
            ConfigurationError: EB1303, one still runs after 60 s.
        """
        with self._turn:
            chosen = brokers or self.brokers
            for broker in chosen:
                broker.signal(signal.SIGCONT)
                broker.signal(signal.SIGTERM)
            if not wait_until(lambda: all(b.process is None for b in chosen), STOP_SECONDS):
                raise self._failed("does not stop", f"{STOP_SECONDS:.0f} s after SIGTERM")

    def kill(self, brokers: Sequence[Broker] = ()) -> None:
        """SIGKILL to these brokers, or all: nobody says goodbye to any client."""
        with self._turn:
            if not kill(b.process for b in brokers or self.brokers if b.process is not None):
                raise self._failed("does not die", "SIGKILL")

    def freeze(self, brokers: Sequence[Broker] = ()) -> None:
        """SIGSTOP: connections are accepted by the kernel, nothing is answered."""
        with self._turn:
            for broker in brokers or self.brokers:
                if broker.process is not None:
                    stop(broker.process.pid)

    def thaw(self, brokers: Sequence[Broker] = ()) -> None:
        """SIGCONT; what waited is worked off."""
        with self._turn:
            for broker in brokers or self.brokers:
                broker.signal(signal.SIGCONT)

    def remove(self) -> None:
        """End all brokers, and delete their data."""
        with self._turn:
            remove(self.processes, self.directory)

    def _wait(self, ready: Callable[[], bool], chosen: Sequence[Broker]) -> None:
        ended: list[Broker] = []

        def done() -> bool:
            ended.extend(broker for broker in chosen if broker.process is None)
            return bool(ended) or ready()

        if not wait_until(done, START_SECONDS):
            raise self._failed("is not ready", f"{START_SECONDS:.0f} s after its start")
        if ended:
            raise self._failed(f"ends while it starts: broker {ended[0].number}", "see its log")

    def _settings(self) -> dict[str, str]:
        count = len(self.brokers)
        voters = ",".join(f"{b.number}@127.0.0.1:{b.controller}" for b in self.brokers)
        replicas = {
            "controller.quorum.voters": voters,
            "default.replication.factor": str(count),
            "offsets.topic.replication.factor": str(count),
            "transaction.state.log.replication.factor": str(count),
            "min.insync.replicas": str(min(2, count)),
            "transaction.state.log.min.isr": str(min(2, count)),
        }
        return {**_DEFAULTS, **replicas, **self.settings, **_FIXED}

    def _failed(self, what: str, why: str) -> ConfigurationError:
        return failed(what, self.directory, why)


def new_cluster(
    programs: Programs, parent: Path, *, brokers: int, settings: Mapping[str, str]
) -> Cluster:
    """A cluster, not started; its directory is removed again if it cannot be made.

    Raises:
        ConfigurationError: EB1303, the data directories cannot be made.
    """
    cluster = Cluster(programs, new_directory(parent, "kafka", None), brokers, settings)
    try:
        cluster.initialise()
    except BaseException:
        shutil.rmtree(cluster.directory, ignore_errors=True)
        raise
    return cluster


def remove(processes: Iterable[Process], directory: Path) -> None:
    """End what was started, if it still is that, and delete the directory.

    Raises:
        ConfigurationError: EB1303, one of them does not die within 30 s.
    """
    if not kill(processes):
        raise failed("does not die", directory, "SIGKILL")
    shutil.rmtree(directory, ignore_errors=True)


def failed(what: str, directory: Path, why: str) -> ConfigurationError:
    """The error of a cluster that does not do as it is told, with the end of its logs."""
    lines = [
        line
        for log in sorted(directory.glob("broker-*/log"))
        for line in _words(log.read_text(errors="replace"))[-2:]
    ]
    return ConfigurationError(
        "EB1303",
        f"Kafka for tests {what}",
        where=str(directory),
        why="; ".join([why, *lines]),
        next="look at the logs, if there are any; or set EVENTBUS_TEST_KAFKA_URL",
    )


def _words(text: str) -> list[str]:
    """Its lines without Java's stack frames, each cut to 200 characters."""
    lines = (line.strip()[:200] for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("at ")]
