"""A Kafka for one test, to be broken on purpose: one broker or three."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from eventbus.testing.services.kafka import Kafka, programs_or_reason, start_cluster
from eventbus.testing.services.kafka_broker import Broker, Cluster, new_cluster
from eventbus.testing.services.kafka_maven import Programs
from eventbus.testing.services.service import ServiceMissingError
from eventbus.testing.services.state import forget_private, note_private, state_of_this_checkout


@asynccontextmanager
async def private_kafka(
    *, brokers: int = 1, settings: Mapping[str, str] | None = None, start: bool = True
) -> AsyncIterator["KafkaServer"]:
    """A native cluster of the caller's own; gone with its data after the block.

    If this process is killed, the next one that looks for services ends it.

    Args:
        brokers: three replicate everything, and work on while one is down.
        settings: lines of `server.properties` of each broker.
        start: False for who puts proxies between clients and brokers first (`KafkaServer.proxy`).

    Raises:
        ServiceMissingError: EB1302, Java or Kafka's jars are missing; a container is no help here.
        ConfigurationError: EB1303, it does not start.
    """
    server = await asyncio.to_thread(KafkaServer.create, brokers, settings or {})
    try:
        if start:
            await server.start()
        yield server
    finally:
        await asyncio.shield(asyncio.create_task(server.remove(), name="kafka:remove"))


class KafkaServer:
    """A cluster and what may happen to its brokers; on return of a call, it has happened.

    Brokers have the numbers 1, 2, 3; without a number a call means all of them. Calls take turns.
    The loop goes on meanwhile: clients under test see each step.
    """

    def __init__(self, cluster: Cluster, programs: Programs) -> None:
        self._cluster = cluster
        self._programs = programs
        self._name = f"kafka:private:{uuid.uuid4().hex[:8]}"

    @classmethod
    def create(cls, brokers: int, settings: Mapping[str, str]) -> Self:
        """Data directories, no broker yet; blocks 1 to 3 s. Raises as `private_kafka` does."""
        programs = programs_or_reason(install=False, say=lambda text: None)
        if isinstance(programs, str):
            raise ServiceMissingError(
                "EB1302",
                "no Kafka that a test may break",
                where="private_kafka",
                why=programs,
                next=Kafka.enabled_by.rpartition(" | ")[0],
            )
        parent = state_of_this_checkout().directory
        return cls(new_cluster(programs, parent, brokers=brokers, settings=settings), programs)

    @property
    def url(self) -> str:
        """All brokers, past any proxy; it stays the same over restarts."""
        return self._cluster.url

    @property
    def proxied_url(self) -> str:
        """All brokers, each by the port that `proxy` named."""
        return "kafka://" + ",".join(f"127.0.0.1:{b.advertised}" for b in self._cluster.brokers)

    @property
    def directory(self) -> Path:
        """Holds `broker-1` and so on, each with `log`, `server.properties` and the data."""
        return self._cluster.directory

    @property
    def settings(self) -> dict[str, str]:
        """Lines of `server.properties`; what is changed here counts from the next start."""
        return self._cluster.settings

    def pid(self, broker: int = 1) -> int:
        """The process of a broker; 0 if it does not run."""
        process = self._broker(broker).process
        return 0 if process is None else process.pid

    def upstream(self, broker: int = 1) -> tuple[str, int]:
        """Where a proxy for that broker connects to; who comes this way is sent to the proxy."""
        return ("127.0.0.1", self._broker(broker).proxied)

    def proxy(self, port: int, broker: int = 1) -> None:
        """That broker is advertised on this port of 127.0.0.1; counts from the next start."""
        self._broker(broker).advertised = port

    async def start(self, broker: int | None = None) -> None:
        """Start it, and wait until a record can be written and read and all that run take part.

        Raises:
            ConfigurationError: EB1303, it was not ready within 60 s.
        """
        await asyncio.to_thread(self._start, broker)

    async def stop(self, broker: int | None = None) -> None:
        """SIGTERM, and wait until it is gone. Nothing if it is down.

        Raises:
            ConfigurationError: EB1303, it still runs after 60 s.
        """
        await asyncio.to_thread(self._cluster.stop, self._chosen(broker))

    async def restart(self, broker: int | None = None) -> None:
        """Stop and start; raises as they do."""
        await self.stop(broker)
        await self.start(broker)

    async def kill(self, broker: int | None = None) -> None:
        """SIGKILL: nobody says goodbye to any client."""
        await asyncio.to_thread(self._cluster.kill, self._chosen(broker))

    async def freeze(self, broker: int | None = None) -> None:
        """SIGSTOP: nothing is answered, no connection breaks."""
        await asyncio.to_thread(self._cluster.freeze, self._chosen(broker))

    async def thaw(self, broker: int | None = None) -> None:
        """SIGCONT."""
        await asyncio.to_thread(self._cluster.thaw, self._chosen(broker))

    async def remove(self) -> None:
        """End it and delete its data."""
        await asyncio.to_thread(self._remove)

    def _broker(self, number: int) -> Broker:
        return self._cluster.brokers[number - 1]

    def _chosen(self, number: int | None) -> tuple[Broker, ...]:
        return self._cluster.brokers if number is None else (self._broker(number),)

    def _start(self, number: int | None) -> None:
        running = start_cluster(self._cluster, self._programs, brokers=self._chosen(number))
        note_private(self._name, running)

    def _remove(self) -> None:
        self._cluster.remove()
        forget_private(self._name)
