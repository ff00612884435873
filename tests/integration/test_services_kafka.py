"""The launcher with a real Kafka, started natively: shared by prefixes, broken on purpose."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    TopicPartition,
)
from aiokafka.admin import (
    AIOKafkaAdminClient,
    NewTopic,
)
from aiokafka.errors import KafkaError

from eventbus.errors import ConfigurationError
from eventbus.testing.services import private_kafka
from eventbus.testing.services.find import down, status, up
from eventbus.testing.services.kafka import bootstrap_servers, new_prefix, programs_or_reason
from eventbus.testing.services.processes import born, wait_until
from eventbus.testing.services.service import Running
from eventbus.testing.services.state import DIRECTORY
from tests.faults.proxy import FaultProxy, kafka

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module", autouse=True)
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state of this module's own; these tests are about native processes."""
    ci = os.environ.get("CI", "").lower() in ("true", "1")
    programs = programs_or_reason(install=ci, say=lambda text: None)
    if isinstance(programs, str) and ci:
        pytest.fail(programs)
    if isinstance(programs, str):
        pytest.skip(f"capability native-kafka: {programs}")
    directory = tmp_path_factory.mktemp("services")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY, str(directory))
        patch.setenv("DOCKER_HOST", f"unix://{directory / 'no.sock'}")
        for name in ("CI", "EVENTBUS_TEST_KAFKA_URL"):
            patch.delenv(name, raising=False)
        yield directory
        down()


@pytest.fixture
def shared() -> Running:
    """One broker for this module; it stays until the end."""
    return up("kafka")


@asynccontextmanager
async def started(client: Any) -> AsyncIterator[Any]:
    async with asyncio.timeout(30):
        try:
            await client.start()
            yield client
        finally:
            await (client.close() if hasattr(client, "close") else client.stop())


async def create(url: str, topic: str, replicas: int = 1) -> None:
    async with started(AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers(url))) as admin:
        answer = await admin.create_topics([NewTopic(topic, 1, replicas)])
        assert [error[1] for error in answer.topic_errors] == [0]


async def topics(url: str) -> set[str]:
    async with started(AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers(url))) as admin:
        return set(await admin.list_topics())


async def send(url: str, topic: str, *texts: bytes) -> None:
    servers = bootstrap_servers(url)
    async with started(AIOKafkaProducer(bootstrap_servers=servers, acks="all")) as producer:
        for text in texts:
            await producer.send_and_wait(topic, text, partition=0)


async def receive(url: str, topic: str, count: int) -> list[bytes]:
    servers = bootstrap_servers(url)
    async with started(AIOKafkaConsumer(bootstrap_servers=servers)) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        return [(await consumer.getone()).value for _ in range(count)]


class TestShared:
    def test_all_its_ports_are_on_loopback(self, shared: Running) -> None:
        addresses = {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in shared.processes
            for connection in psutil.Process(process.pid).net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert addresses == {"127.0.0.1"}

    async def test_records_go_through_and_topics_are_not_made_by_themselves(
        self, shared: Running
    ) -> None:
        kafka_url, topic = shared.url, f"{new_prefix()}orders"
        servers = bootstrap_servers(kafka_url)
        async with started(
            AIOKafkaProducer(bootstrap_servers=servers, request_timeout_ms=1000)
        ) as producer:
            with pytest.raises(KafkaError):
                await producer.send_and_wait(topic, b"0")
        assert topic not in await topics(kafka_url)
        await create(kafka_url, topic)
        await send(kafka_url, topic, b"1", b"2")
        assert await receive(kafka_url, topic, 2) == [b"1", b"2"]

    def test_a_run_uses_it_and_its_topics_are_deleted(
        self, shared: Running, pytester: pytest.Pytester
    ) -> None:
        pytester.makepyfile(
            """
            import asyncio, pathlib, pytest
            from aiokafka.admin import AIOKafkaAdminClient, NewTopic

            async def create(url, topic):
                admin = AIOKafkaAdminClient(bootstrap_servers=url.removeprefix("kafka://"))
                await admin.start()
                await admin.create_topics([NewTopic(topic, 1, 1)])
                while topic not in await admin.list_topics():
                    pass
                await admin.close()

            @pytest.mark.parametrize("n", [1, 2])
            def test_each_test_has_a_prefix(kafka_url, kafka_prefix, n):
                asyncio.run(create(kafka_url, kafka_prefix + "t"))
                with pathlib.Path("prefixes").open("a") as file:
                    file.write(kafka_prefix + "\\n")
            """
        )
        plugin = ("-p", "eventbus.testing.services.fixtures", "-m", "kafka")
        result = pytester.runpytest_subprocess(*plugin, timeout=100)
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(
            [f"eventbus services: kafka 4.* (native) {shared.url}, runs already"]
        )
        prefixes = set(pytester.path.joinpath("prefixes").read_text().split())
        assert len(prefixes) == 2

        def gone() -> bool:
            left = asyncio.run(topics(shared.url))
            return not [name for name in left if name.startswith(tuple(prefixes))]

        assert wait_until(gone, 20)
        assert status()["kafka"].running == shared

    async def test_a_url_of_the_environment_is_asked_for_a_record(
        self, shared: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EVENTBUS_TEST_KAFKA_URL", shared.url)
        found = up("kafka")
        assert (found.lane, found.version) == ("environment", "of 1 broker")
        assert "eventbus.probe" in await topics(shared.url)


class TestPrivate:
    async def test_three_brokers_confirm_while_one_is_dead_and_lose_nothing(self) -> None:
        async with private_kafka(brokers=3) as server:
            await create(server.url, "t", replicas=3)
            await send(server.url, "t", b"1")
            pid = server.pid(2)
            await server.kill(2)
            assert (server.pid(2), born(pid)) == (0, None)
            await send(server.url, "t", b"2")
            await server.start(2)
            assert server.pid(2) not in (0, pid)
            await server.kill()
            assert [server.pid(number) for number in (1, 2, 3)] == [0, 0, 0]
            await server.start()
            assert await receive(server.url, "t", 2) == [b"1", b"2"]
            directory = server.directory
        assert not directory.exists()

    async def test_what_was_confirmed_is_there_after_a_restart_and_a_frozen_one_is_removed(
        self,
    ) -> None:
        async with private_kafka(settings={"message.max.bytes": "5000"}) as server:
            url = server.url
            await create(url, "t")
            await send(url, "t", b"1")
            await server.restart()
            assert server.url == url
            await server.freeze()
            question = asyncio.create_task(receive(url, "t", 1), name="test:question")
            answered, _ = await asyncio.wait({question}, timeout=0.3)
            assert not answered
            await server.thaw()
            assert await question == [b"1"]
            file = server.directory / "broker-1" / "server.properties"
            assert "message.max.bytes=5000\n" in file.read_text()
            pid = server.pid()
            await server.freeze()
        assert born(pid) is None

    async def test_who_comes_by_the_proxy_is_sent_back_to_the_proxy(self) -> None:
        async with private_kafka(start=False) as server:
            proxy = FaultProxy(server.upstream(), framing=kafka)
            async with proxy:
                server.proxy(proxy.port)
                await server.start()
                assert server.proxied_url == f"kafka://127.0.0.1:{proxy.port}"
                async with started(
                    AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{proxy.port}")
                ) as admin:
                    brokers = (await admin.describe_cluster())["brokers"]
                assert [broker["port"] for broker in brokers] == [proxy.port]
                await create(server.proxied_url, "t")
                await send(server.proxied_url, "t", b"1")
                assert await receive(server.proxied_url, "t", 1) == [b"1"]

    async def test_one_that_ends_at_once_is_told_with_its_last_words(self) -> None:
        broken = {"log.retention.ms": "many"}
        with pytest.raises(ConfigurationError, match="EB1303 Kafka for tests") as caught:
            async with private_kafka(settings=broken):
                pass
        assert "log.retention.ms" in caught.value.why
