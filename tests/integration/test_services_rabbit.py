"""The launcher with a real RabbitMQ, started natively: shared by vhosts, broken on purpose."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import aiormq
import psutil
import pytest

from eventbus.errors import ConfigurationError
from eventbus.testing.services import RabbitServer, private_rabbit, running
from eventbus.testing.services.directories import new_directory
from eventbus.testing.services.find import down, status, up
from eventbus.testing.services.processes import born, wait_until
from eventbus.testing.services.rabbitmq import create_vhost, delete_vhost, scripts_or_reason
from eventbus.testing.services.rabbitmq_node import Node
from eventbus.testing.services.service import Running
from eventbus.testing.services.state import DIRECTORY

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module", autouse=True)
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state of this module's own; these tests are about native processes."""
    ci = os.environ.get("CI", "").lower() in ("true", "1")
    scripts = scripts_or_reason(install=ci, say=lambda text: None)
    if isinstance(scripts, str) and ci:
        pytest.fail(scripts)
    if isinstance(scripts, str):
        pytest.skip(f"capability native-rabbit: {scripts}")
    directory = tmp_path_factory.mktemp("services")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY, str(directory))
        patch.setenv("DOCKER_HOST", f"unix://{directory / 'no.sock'}")
        for name in ("CI", "EVENTBUS_TEST_RABBIT_URL", "EVENTBUS_TEST_RABBIT_MANAGEMENT_URL"):
            patch.delenv(name, raising=False)
        yield directory
        down()


@pytest.fixture
def shared() -> Running:
    """One node for this module; it stays until the end."""
    return up("rabbit")


async def connect(url: str) -> aio_pika.abc.AbstractConnection:
    async with asyncio.timeout(20):
        return await aio_pika.connect(url)


async def declare(channel: aio_pika.abc.AbstractChannel) -> aio_pika.abc.AbstractQueue:
    return await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})


async def send(url: str, text: bytes) -> None:
    """Confirmed, into a quorum queue: it must survive everything here."""
    connection = await connect(url)
    async with connection, asyncio.timeout(20):
        channel = await connection.channel(publisher_confirms=True)
        await declare(channel)
        message = aio_pika.Message(text, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, routing_key="q")


async def receive(url: str) -> bytes:
    connection = await connect(url)
    async with connection, asyncio.timeout(30):
        queue = await declare(await connection.channel())
        message = await queue.get(timeout=20)
        assert message is not None
        await message.ack()
        return message.body


async def exists(url: str) -> bool:
    try:
        connection = await connect(url)
    except aiormq.exceptions.AMQPError:
        return False
    await connection.close()
    return True


class TestShared:
    def test_all_its_ports_are_on_loopback(self, shared: Running) -> None:
        addresses = {
            connection.laddr.ip
            for process in shared.processes
            for connection in psutil.Process(process.pid).net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert addresses
        assert addresses <= {"127.0.0.1", "::1"}

    async def test_a_vhost_is_empty_of_its_own_and_deleted_though_it_is_in_use(
        self, shared: Running
    ) -> None:
        one, other = create_vhost(shared.url), create_vhost(shared.url)
        await send(one, b"mine")
        connection = await connect(other)
        channel = await connection.channel()
        with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
            await channel.declare_queue("q", passive=True)
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        await asyncio.to_thread(delete_vhost, other)
        async with asyncio.timeout(20):
            await closed.wait()
        assert not await exists(other)
        assert await receive(one) == b"mine"
        await asyncio.to_thread(delete_vhost, one)
        await asyncio.to_thread(delete_vhost, one)  # gone already: no error

    async def test_the_plugin_of_the_consistent_hash_is_enabled(self, rabbit_url: str) -> None:
        async with await connect(rabbit_url) as connection, asyncio.timeout(20):
            channel = await connection.channel()
            await channel.declare_exchange("shards", "x-consistent-hash", durable=True)

    def test_a_run_uses_it_with_a_vhost_for_each_test_and_leaves_nothing(
        self, shared: Running, pytester: pytest.Pytester
    ) -> None:
        pytester.makepyfile(
            """
            import pathlib, pytest

            @pytest.mark.parametrize("n", [1, 2])
            def test_each_test_has_a_vhost(rabbit_url, n):
                with pathlib.Path("urls").open("a") as file:
                    file.write(rabbit_url + "\\n")
            """
        )
        plugin = ("-p", "eventbus.testing.services.fixtures", "-m", "rabbit")
        result = pytester.runpytest_subprocess(*plugin, timeout=100)
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(
            ["eventbus services: rabbit 3.* (native) amqp://eventbus:[*][*][*]@*, runs already"]
        )
        urls = pytester.path.joinpath("urls").read_text().split()
        assert len(set(urls)) == 2
        assert [asyncio.run(exists(url)) for url in urls] == [False, False]
        assert status()["rabbit"].running == shared


async def refuses(server: RabbitServer) -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2][:-1]))


class TestPrivate:
    async def test_what_was_confirmed_is_there_after_a_kill_and_after_a_restart(self) -> None:
        async with private_rabbit({"channel_max": "100"}) as server:
            pid, url, directory = server.pid, server.url, server.directory
            epmd = status_of(server).processes[-1]
            await send(url, b"first")
            await server.wait_for_queue("q")
            await server.kill()
            assert (server.pid, born(pid)) == (0, None)
            await refuses(server)
            await server.start()
            assert server.url == url
            assert server.pid not in (0, pid)
            assert await receive(url) == b"first"
            await send(url, b"second")
            await server.restart()
            assert await receive(url) == b"second"
            assert "channel_max" in (directory / "rabbitmq.conf").read_text()
        assert not directory.exists()
        assert not epmd.alive

    async def test_frozen_it_answers_nothing_and_its_application_can_be_stopped(self) -> None:
        async with private_rabbit() as server:
            await server.freeze()
            question = asyncio.create_task(connect(server.url), name="test:question")
            answered, _ = await asyncio.wait({question}, timeout=0.3)
            assert not answered
            await server.thaw()
            connection = await question
            closed = asyncio.Event()
            connection.close_callbacks.add(lambda *_: closed.set())
            await server.control("stop_app")
            async with asyncio.timeout(20):
                await closed.wait()
            await refuses(server)
            await server.control("start_app")
            assert await exists(server.url)
            with pytest.raises(ConfigurationError, match="refuses no_such_command"):
                await server.control("no_such_command")
            pid = server.pid
            await server.freeze()
        assert born(pid) is None

    async def test_a_start_that_is_cancelled_leaves_nothing(self) -> None:
        server = await asyncio.to_thread(RabbitServer.create, {})
        start = asyncio.create_task(server.start(), name="test:start")
        file = server.directory / "pid"
        assert await asyncio.to_thread(wait_until, file.exists, 60)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await server.remove()
        assert server.pid == 0
        assert not server.directory.exists()
        assert str(server.directory) not in {entry.running.directory for entry in status().values()}

    def test_that_of_a_killed_process_is_ended_by_the_next_who_looks(self) -> None:
        program = (
            "import asyncio, sys\n"
            "from eventbus.testing.services import private_rabbit\n"
            "async def main():\n"
            "    async with private_rabbit() as server:\n"
            "        print(server.pid, server.directory, flush=True)\n"
            "        await asyncio.Event().wait()\n"
            "asyncio.run(main())\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        ) as owner:
            assert owner.stdout is not None
            pid, directory = owner.stdout.readline().split()
            owner.kill()
        assert born(int(pid)) is not None
        with running("rabbit"):
            assert born(int(pid)) is None
            assert not Path(directory).exists()

    def test_one_that_ends_at_once_is_told_with_its_last_words(self, services: Path) -> None:
        home = new_directory(services, "rabbit", "rabbitmq")
        script = home / "rabbitmq-server"
        script.write_text("#!/bin/sh\necho erlang is too old\nexit 3\n")
        script.chmod(0o755)
        node = Node(home, home, {})
        try:
            with pytest.raises(ConfigurationError, match=r"EB1303.* ends while it st") as caught:
                node.start(lambda: True)
        finally:
            node.remove()
        assert caught.value.why == "see its log; erlang is too old"
        assert node.processes == ()
        assert not home.exists()


def status_of(server: RabbitServer) -> Running:
    return next(
        entry.running
        for entry in status().values()
        if entry.running.directory == str(server.directory)
    )
