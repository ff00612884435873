"""Apache Kafka for tests: how it is asked, where it comes from, a prefix for each test."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eventbus.errors import ConfigurationError, MissingExtraError
from eventbus.testing.services.asking import apart
from eventbus.testing.services.kafka_broker import Broker, Cluster, new_cluster, remove
from eventbus.testing.services.kafka_maven import Programs, find_programs, install_programs
from eventbus.testing.services.service import (
    Absent,
    Container,
    ProbeError,
    Running,
    Say,
    without_password,
)

IMAGE = "apache/kafka:4.1.2"
PROBE_TOPIC = "eventbus.probe"
_PORT, _PROBE_SECONDS, _TOPICS_SECONDS = 9092, 5.0, 40.0
_EXISTS = 36  # TOPIC_ALREADY_EXISTS
_UNKNOWN = 3  # UNKNOWN_TOPIC_OR_PARTITION
_BUSY = 7  # REQUEST_TIMED_OUT


class Kafka:
    """The row `kafka` of the table of services."""

    name = "kafka"
    title = "Kafka"
    enabled_by = (
        "python -m eventbus.testing.services up kafka | EVENTBUS_TEST_KAFKA_URL=kafka://host:9092"
    )

    def probe(self, url: str) -> str:
        """How many brokers there are, after a record was written and read back.

        The port is open before the cluster works, and no broker tells its version. The record is
        in the topic `eventbus.probe`.
        """
        return apart(_probe(url))

    def container(self, host_port: int) -> Container:
        """The official image; it listens on the very port that it advertises to clients."""
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": "1@localhost:9093",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://:{host_port},CONTROLLER://:9093",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{host_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "500",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
        }
        names = {f"KAFKA_{name.upper().replace('.', '_')}": v for name, v in settings.items()}
        return Container(image=IMAGE, port=host_port, environment=names)

    def container_url(self, host: str, host_port: int) -> str:
        """Where that container answers."""
        return f"kafka://{host}:{host_port}"

    def start(self, parent: Path, *, install: bool, say: Say) -> Running | Absent:
        """A new broker on free ports of 127.0.0.1."""
        programs = programs_or_reason(install=install, say=say)
        if isinstance(programs, str):
            return Absent("native", programs)
        began = time.monotonic()
        cluster = new_cluster(programs, parent, brokers=1, settings={})
        try:
            return start_cluster(cluster, programs, began=began)
        except BaseException:
            cluster.remove()
            raise

    def stop(self, running: Running) -> None:
        """Only the processes that were started are ended."""
        if running.directory is not None:
            remove(running.processes, Path(running.directory))


def programs_or_reason(*, install: bool, say: Say) -> Programs | str:
    """A Java and Kafka's jars, fetched now if that is asked for; or what is missing."""
    found = find_programs()
    return install_programs(say) if isinstance(found, str) and install else found


def start_cluster(
    cluster: Cluster,
    programs: Programs,
    *,
    brokers: Sequence[Broker] = (),
    began: float | None = None,
) -> Running:
    """Start these brokers, or all, until a record can be written and read; what is written down.

    Raises:
        ConfigurationError: EB1303, it was not ready within 60 s.
    """
    began = time.monotonic() if began is None else began
    cluster.start(lambda: _answers(cluster), brokers)
    return Running(
        service="kafka",
        url=cluster.url,
        lane="native",
        version=programs.version,
        start_seconds=round(time.monotonic() - began, 3),
        processes=cluster.processes,
        directory=str(cluster.directory),
    )


def new_prefix() -> str:
    """How the names of one test's topics and groups begin."""
    return f"t-{uuid.uuid4().hex[:12]}."


def delete_topics(url: str, prefix: str) -> None:
    """Delete the topics whose names begin so; groups without members end by themselves.

    A broker knows of changes a moment later: a topic created just before may escape.

    Raises:
        ConfigurationError: EB1303, the brokers refuse, or do not answer within 40 s.
    """
    try:
        apart(_delete_topics(url, prefix))
    except ProbeError as error:
        raise ConfigurationError(
            "EB1303",
            "Kafka for tests does not delete the topics of a test",
            where=f"{without_password(url)}: {prefix}*",
            why=str(error),
            next="look at the broker's log; the test left it frozen or stopped, perhaps",
        ) from error


def bootstrap_servers(url: str) -> list[str]:
    """The hosts and ports in a URL."""
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    return [host if ":" in host else f"{host}:{_PORT}" for host in hosts]


def _answers(cluster: Cluster) -> bool:
    """All that run take part, and a record goes through."""
    running = [f"127.0.0.1:{b.port}" for b in cluster.brokers if b.process is not None]
    try:
        apart(_probe(f"kafka://{','.join(running)}"))
    except ProbeError:
        time.sleep(0.05)
        return False
    return True


async def _probe(url: str) -> str:
    servers = bootstrap_servers(url)
    async with _deadline(_PROBE_SECONDS):
        await _reachable(servers)
        async with _started(_aiokafka().admin.AIOKafkaAdminClient(**_options(servers))) as admin:
            count = len((await admin.describe_cluster())["brokers"])
            if count < len(servers):
                raise ProbeError(f"{count} of {len(servers)} brokers take part")
            await _create_probe_topic(admin, replicas=min(3, count))
        offset = await _write(servers)
        await _read_back(servers, offset)
    return f"of {count} broker{'s' if count > 1 else ''}"


async def _create_probe_topic(admin: Any, replicas: int) -> None:
    topic = _aiokafka().admin.NewTopic(PROBE_TOPIC, 1, replicas)
    for name, code, *said in (await admin.create_topics([topic])).topic_errors:
        if code not in (0, _EXISTS):
            raise ProbeError(f"topic {name} is refused: error {code} {said}")


async def _write(servers: list[str]) -> int:
    producer = _aiokafka().AIOKafkaProducer(acks="all", **_options(servers))
    async with _started(producer):
        written = await producer.send_and_wait(PROBE_TOPIC, b"probe", partition=0)
        return int(written.offset)


async def _read_back(servers: list[str], offset: int) -> None:
    kafka = _aiokafka()
    consumer = kafka.AIOKafkaConsumer(
        enable_auto_commit=False, auto_offset_reset="none", **_options(servers)
    )
    async with _started(consumer):
        partition = kafka.TopicPartition(PROBE_TOPIC, 0)
        consumer.assign([partition])
        consumer.seek(partition, offset)
        await consumer.getone(partition)


async def _delete_topics(url: str, prefix: str) -> None:
    async with _deadline(_TOPICS_SECONDS):
        options = _options(bootstrap_servers(url), _TOPICS_SECONDS)  # who is busy is asked once
        async with _started(_aiokafka().admin.AIOKafkaAdminClient(**options)) as admin:
            mine = [name for name in await admin.list_topics() if name.startswith(prefix)]
            while mine:
                codes = dict((await admin.delete_topics(mine)).topic_error_codes)
                mine = [name for name, code in codes.items() if code == _BUSY]
                left = {n: code for n, code in codes.items() if code not in (0, _UNKNOWN, _BUSY)}
                if left:
                    raise ProbeError(f"refused, by error code: {left}")


def _options(servers: list[str], request_seconds: float = 4.0) -> dict[str, Any]:
    return {
        "bootstrap_servers": servers,
        "client_id": "eventbus-services",
        "request_timeout_ms": int(request_seconds * 1000),
        "retry_backoff_ms": 50,
    }


async def _reachable(servers: list[str]) -> None:
    """Ask each port first: the client tries again and again, and complains loudly."""
    for server in servers:
        host, _, port = server.rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()


@asynccontextmanager
async def _started(client: Any) -> AsyncIterator[Any]:
    """Started, and closed also if it could not be started: it opens connections before."""
    close = client.close if hasattr(client, "close") else client.stop
    try:
        await client.start()
        yield client
    finally:
        await close()


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """Within that time, and every failure as a `ProbeError`."""
    try:
        with _quiet():
            async with asyncio.timeout(seconds):
                yield
    except TimeoutError as error:
        raise ProbeError(f"no answer within {seconds:.0f} s") from error
    except (_aiokafka().errors.KafkaError, OSError, ValueError) as error:
        raise ProbeError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The client logs what we raise."""
    logger = logging.getLogger("aiokafka")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _aiokafka() -> Any:
    try:
        import aiokafka
        import aiokafka.admin
        import aiokafka.errors
    except ImportError as error:
        raise MissingExtraError(
            "EB1005",
            "Kafka for tests needs aiokafka",
            where="eventbus.testing.services",
            why="it is not installed here",
            next="pip install 'eventbus[kafka]'",
        ) from error
    return aiokafka
