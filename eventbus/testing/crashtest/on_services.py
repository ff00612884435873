"""A world of real services: a database and a place at a broker for each trial, and processes."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import orjson

from eventbus.testing.crashtest.explorer import Report, Trial, explored
from eventbus.testing.crashtest.ledger import Violation
from eventbus.testing.crashtest.letters import Letter, life_of
from eventbus.testing.crashtest.life import Life, Orders
from eventbus.testing.live import kafka_for_tests
from eventbus.testing.services import kafka, postgres, rabbitmq
from eventbus.testing.services.find import running

LONGEST_SECONDS = 180.0  # of a process: it has 30 for each of its parts
Broker = Literal["kafka", "rabbit"]


class ProcessError(Exception):
    """A process of a crash test failed by itself; what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where trials make what is theirs."""

    broker: Broker
    broker_url: str
    postgres_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """How a process is started, and what it imports."""

    command: Sequence[str]  # reads a letter from its input
    environment: Mapping[str, str]
    app: str  # module:attribute
    scenario: str  # FILE:SCENARIO
    loud: bool = False  # its log is shown


@contextmanager
def services(
    broker: Broker, *, broker_url: str | None, postgres_url: str | None
) -> Iterator[Services]:
    """Those given, else as tests find them: from the environment, by Docker, native.

    Raises:
        ConfigurationError: EB1301 to EB1303, there is none, or it does not answer.
    """
    with ExitStack() as stack:
        yield Services(
            broker=broker,
            broker_url=broker_url or stack.enter_context(running(broker)).url,
            postgres_url=postgres_url or stack.enter_context(running("postgres")).url,
        )


async def crashtest_on(
    there: Services,
    process: Process,
    *,
    points: Sequence[str] = ("*",),
    depth: int = 1,
    told: Callable[[Trial], None] = lambda _: None,
) -> Report:
    """As `crashtest`, with processes that are killed by SIGKILL, on PostgreSQL and a broker.

    Each trial has a database of its own, and a vhost, or topics with a prefix of their own, which
    are deleted after it.

    Args:
        there: the services.
        process: what is started.
        points: patterns of crash points.
        depth: so many crashes in a row.
        told: of every run.

    Raises:
        ProcessError: a process failed by itself.
        ConfigurationError: EB1303, a service refuses a place for a trial.
    """
    with TemporaryDirectory(prefix="eventbus-crashtest-") as directory:
        answer = Path(directory, "answer.json")
        return await explored(
            lambda: OnServices(there, process, answer), points=points, depth=depth, told=told
        )


class OnServices:
    """Database and broker of one trial.

    Args:
        there: the services.
        process: what is started.
        answer: the file that processes write.
    """

    def __init__(self, there: Services, process: Process, answer: Path) -> None:
        self._there = there
        self._process = process
        self._answer = answer
        self._fresh = True
        self._storage = self._vhost = self._prefix = ""

    async def prepare(self) -> None:
        """An empty database and an empty place at the broker; the first process fills them."""
        there = self._there
        self._storage = await asyncio.to_thread(postgres.create_database, there.postgres_url)
        if there.broker == "rabbit":
            self._vhost = await asyncio.to_thread(rabbitmq.create_vhost, there.broker_url)
        else:
            self._prefix = kafka.new_prefix()

    async def live(self, orders: Orders) -> Life:
        """A process; one that says nothing for three minutes is ended, and told as PROGRESS.

        Raises:
            ProcessError: it failed by itself.
        """
        self._answer.unlink(missing_ok=True)
        shown = None if self._process.loud else asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *self._process.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=shown,
            stderr=shown,
            env=dict(self._process.environment),
        )
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await process.communicate(self._letter(orders).written())
        except TimeoutError:
            return Life(
                killed=False, violations=[Violation("PROGRESS", "the process does not end")]
            )
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._fresh = False
        return self._told(process.returncode)

    async def close(self) -> None:
        """Drop the database, delete what is at the broker."""
        if self._vhost:
            await asyncio.to_thread(rabbitmq.delete_vhost, self._vhost)
        if self._prefix:
            await asyncio.to_thread(kafka.delete_topics, self._there.broker_url, self._prefix)
        if self._storage:
            await asyncio.to_thread(postgres.drop_database, self._storage)

    def _letter(self, orders: Orders) -> Letter:
        return Letter(
            app=self._process.app,
            scenario=self._process.scenario,
            transport=self._vhost or self._cluster(),
            prefix=self._prefix,
            storage=self._storage,
            fresh=self._fresh,
            answer=str(self._answer),
            orders=orders,
        )

    def _cluster(self) -> str:
        """A static member: whoever follows a dead one has its partitions at once."""
        return f"{kafka_for_tests(self._there.broker_url)}&group_instance_id={self._prefix}alone"

    def _told(self, code: int | None) -> Life:
        if not self._answer.is_file():
            raise ProcessError(f"it ended with {code} and told nothing")
        told: Mapping[str, Any] = orjson.loads(self._answer.read_bytes())
        if "failed" in told:
            raise ProcessError(told["failed"])
        return life_of(told)
