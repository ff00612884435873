"""What is wrong with a broker or its URL is told in six lines, with cause and next step."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aio_pika
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pamqp.common import FieldTable

from eventbus import Event, EventBus, subscribe
from eventbus.errors import EventBusError, PublishError, Rejected
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import a_message, an_interest
from eventbus.testing.services import (
    KafkaServer,
    RabbitServer,
    kafka_broker,
    private_kafka,
    private_rabbit,
)
from eventbus.testing.services.processes import free_port
from eventbus.transport import open_transport

LOCAL = "127.0.0.1"


class Placed(Event, type="shop.placed", key="order"):
    order: str


@subscribe(Placed, group="billing")
async def bill(event: Placed) -> None:
    """Nothing to do."""


def a_bus(url: str) -> EventBus:
    return EventBus(url, handlers=[bill], service="shop")


async def told(url: str) -> EventBusError:
    """What entering a bus there says, within a minute."""
    with pytest.raises(EventBusError) as refused:
        async with asyncio.timeout(60), a_bus(url):
            pass
    return checked(refused.value)


def checked(error: EventBusError) -> EventBusError:
    """Four parts on at most six lines; no client's class is all there is to read."""
    text = str(error)
    assert len(text.splitlines()) <= 6, text
    assert "Traceback" not in text
    for part in (error.what, error.where, error.why, error.next):
        assert part.strip(), text
    return error


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("kafak://localhost:9092", "EB1003"),
        ("localhost:9092", "EB1003"),
        ("kafka://localhost:port", "EB1006"),
        ("kafka://localhost:9092?partition=3", "EB1006"),
        ("amqp://localhost:port/", "EB1006"),
        ("amqp://localhost/?heartbeats=5", "EB1006"),
    ],
)
def test_a_wrong_url_is_told(url: str, code: str) -> None:
    with pytest.raises(EventBusError) as refused:
        a_bus(url)
    assert checked(refused.value).code == code


@pytest.mark.parametrize("scheme", ["kafka", "amqp"])
async def test_a_broker_that_is_down_is_told(scheme: str) -> None:
    error = await told(f"{scheme}://{LOCAL}:{free_port()}")
    assert error.code == "EB2001"
    assert LOCAL in error.what


@pytest.mark.parametrize("scheme", ["kafka", "amqp"])
def test_the_command_line_prints_the_same_lines_and_leaves_with_3(
    scheme: str, tmp_path: Path
) -> None:
    app = tmp_path / "shop_app.py"
    app.write_text(
        f"from eventbus import EventBus\nbus = EventBus('{scheme}://{LOCAL}:1', service='a')\n"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "eventbus", "run", "shop_app:bus"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    lines = ran.stderr.splitlines()
    assert ran.returncode == 3, ran.stderr
    assert any(line.startswith("EB2001") for line in lines)
    assert len(lines) <= 6, ran.stderr


async def test_a_kafka_that_goes_down_later_is_told_with_what_became_of_it() -> None:
    async with private_kafka() as server:
        query = "provision=true&partitions=1&replication=1&publish_seconds=2"
        async with open_transport(f"{server.url}?{query}", "shop") as transport:
            await transport.publish([a_message("shop")])
            await server.kill()
            with pytest.raises(PublishError) as refused:
                await transport.publish([a_message("shop", number=1)])
    assert checked(refused.value).code in {"EB2104", "EB2106"}


async def test_a_rabbitmq_that_goes_down_later_is_told_with_what_became_of_it() -> None:
    async with private_rabbit() as server:
        url = f"{server.url}?publish_timeout=2"
        async with open_transport(url, "shop") as transport:
            await transport.examine([an_interest("shop", group="billing")])
            await transport.publish([a_message("shop")])
            await server.kill()
            with pytest.raises(PublishError) as refused:
                await transport.publish([a_message("shop", number=1)])
    assert checked(refused.value).code in {"EB2104", "EB2106"}


async def test_a_missing_topic_is_told_where_none_is_made(
    kafka_url: str, kafka_prefix: str
) -> None:
    class Elsewhere(Event, type="shop.placed", key="order", topic=f"{kafka_prefix}shop"):
        order: str

    @subscribe(Elsewhere, group=f"{kafka_prefix}billing")
    async def handle(event: Elsewhere) -> None:
        """Nothing to do."""

    with pytest.raises(EventBusError) as refused:
        async with EventBus(kafka_url, handlers=[handle], service="shop"):
            pass
    assert f"{kafka_prefix}shop" in checked(refused.value).what
    async with open_transport(kafka_url, "shop") as transport:
        with pytest.raises(PublishError) as rejected:
            await transport.publish([a_message(f"{kafka_prefix}shop")])
    assert checked(rejected.value).code == "EB2101"
    assert "does not exist" in rejected.value.why


async def test_a_listener_of_kafka_without_password_or_tls_is_told(kafka_url: str) -> None:
    servers = kafka_url.partition("?")[0]
    error = await told(f"{servers.replace('://', '://shop:secret@')}?connect_seconds=3")
    assert (error.code, "takes no password here" in error.what) == ("EB2302", True)
    error = await told(f"{servers}?tls=true&connect_seconds=3")
    assert (error.code, "speaks no TLS" in error.why) == ("EB2001", True)


async def test_too_few_partitions_are_told(kafka_url: str, kafka_prefix: str) -> None:
    topic = f"{kafka_prefix}shop"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    await admin.create_topics([NewTopic(topic, 2, 1)])
    await admin.close()

    class Keyed(Event, type="shop.placed", key="order", topic=topic):
        order: str

    @subscribe(Keyed, group=f"{kafka_prefix}billing")
    async def handle(event: Keyed) -> None:
        """Nothing to do."""

    with pytest.raises(EventBusError) as refused:
        async with EventBus(f"{kafka_url}?partitions=6", handlers=[handle], service="shop"):
            pass
    assert "2 partitions, declared are 6" in checked(refused.value).what


async def test_a_queue_with_other_arguments_is_told(rabbit_url: str) -> None:
    async with await aio_pika.connect(rabbit_url) as connection:
        channel = await connection.channel()
        arguments: FieldTable = {"x-max-length": 10}
        await channel.declare_queue("billing", durable=True, arguments=arguments)
    error = await told(rabbit_url)
    assert "billing" in str(error)
    assert "PRECONDITION" in str(error)


@pytest.mark.parametrize("change", [("eventbus:", "nobody:"), (":eventbus@", ":wrong@")])
async def test_wrong_credentials_of_rabbitmq_are_told(
    rabbit_url: str, change: tuple[str, str]
) -> None:
    assert change[0] in rabbit_url, "the test's own broker has the user eventbus"
    error = await told(rabbit_url.replace(*change, 1))
    assert error.code == "EB2201"
    assert "wrong" not in str(error)


@pytest.fixture
def authorities(tmp_path: Path) -> Callable[[str], Path]:
    """One that signed itself, for 127.0.0.1: certificate, `<name>.key` and both in one file."""

    def make(name: str) -> Path:
        signed, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{LOCAL}"),
                *("-keyout", str(key), "-out", str(signed)),
            ],
            check=True,
            capture_output=True,
        )
        (tmp_path / f"{name}-both.pem").write_text(key.read_text() + signed.read_text())
        return signed

    return make


@pytest.fixture
async def secured_kafka(
    authorities: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KafkaServer]:
    signed = authorities("right")
    listeners = "PLAINTEXT:PLAINTEXT,PROXIED:SASL_SSL,CONTROLLER:PLAINTEXT"
    fixed = vars(kafka_broker)["_FIXED"]
    monkeypatch.setitem(fixed, "listener.security.protocol.map", listeners)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    settings = {
        "listener.name.proxied.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.proxied.plain.sasl.jaas.config": f'{module} required user_shop="secret";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(signed.with_name("right-both.pem")),
    }
    async with private_kafka(settings=settings) as server:
        yield server


async def test_wrong_credentials_and_a_wrong_authority_of_kafka_are_told(
    secured_kafka: KafkaServer, authorities: Callable[[str], Path], tmp_path: Path
) -> None:
    at = secured_kafka.proxied_url.replace("kafka://", "kafka://shop:{}@")
    query = "?tls=true&sasl_mechanism=plain&ca_file={}"
    error = await told(at.format("not-the-secret") + query.format(tmp_path / "right.pem"))
    assert error.code == "EB2302"
    assert "not-the-secret" not in str(error)
    error = await told(at.format("secret") + query.format(authorities("wrong")))
    assert "certificate" in error.why.lower()


@pytest.fixture
async def secured_rabbit(
    authorities: Callable[[str], Path], rabbit_url: str
) -> AsyncIterator[tuple[RabbitServer, int]]:
    """With a listener of TLS too, and its port; `rabbit_url` says whether it can be had."""
    signed, port = authorities("right"), free_port()
    server = await asyncio.to_thread(RabbitServer.create, {})
    certificate, key = server.directory / "certificate.pem", server.directory / "key.pem"
    certificate.write_text(signed.read_text())
    key.write_text(signed.with_suffix(".key").read_text())
    for file in (certificate, key):
        file.chmod(0o644)  # as root the broker runs as a user of its own
    server.settings.update(
        {
            "listeners.ssl.default": f"{LOCAL}:{port}",
            "ssl_options.certfile": str(certificate),
            "ssl_options.cacertfile": str(certificate),
            "ssl_options.keyfile": str(key),
            "ssl_options.verify": "verify_none",
            "ssl_options.fail_if_no_peer_cert": "false",
        }
    )
    try:
        await server.start()
        yield server, port
    finally:
        await server.remove()


async def test_a_wrong_authority_of_rabbitmq_is_told_and_the_right_one_works(
    secured_rabbit: tuple[RabbitServer, int], authorities: Callable[[str], Path], tmp_path: Path
) -> None:
    server, port = secured_rabbit
    plain = server.url.rpartition("@")[0].replace("amqp://", "amqps://")
    url = f"{plain}@{LOCAL}:{port}/"
    async with a_bus(f"{url}?ca_file={tmp_path / 'right.pem'}") as bus:
        await bus.publish(Placed(order="A-1"))
    error = await told(f"{url}?ca_file={authorities('wrong')}")
    assert error.code == "EB2001"
    assert "certificate" in error.why.lower()


async def test_a_message_over_the_limit_is_told_before_it_is_sent(
    kafka_url: str, rabbit_url: str, kafka_prefix: str
) -> None:
    big = a_large_message(f"{kafka_prefix}shop", 2000)
    made = "provision=true&partitions=1&replication=1"
    for url in (f"{kafka_url}?max_body=1000&{made}", f"{rabbit_url}?max_body=1000"):
        async with open_transport(url, "shop") as transport:
            with pytest.raises(PublishError) as refused:
                await transport.publish([big])
        assert checked(refused.value).code == "EB2102"


async def test_a_message_over_the_limit_of_kafka_itself_is_told(
    kafka_url: str, kafka_prefix: str
) -> None:
    topic = f"{kafka_prefix}shop"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    settings = {"max.message.bytes": "1000"}
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=settings)])
    await admin.close()
    async with open_transport(kafka_url, "shop") as transport:
        with pytest.raises(PublishError) as refused:
            await transport.publish([a_large_message(topic, 2000)])
    assert checked(refused.value).code == "EB2101"
    assert "TooLarge" in refused.value.why


async def test_a_message_over_the_limit_of_rabbitmq_itself_is_told_and_stops_nobody() -> None:
    async with private_rabbit({"max_message_size": "10000"}) as server:
        async with open_transport(f"{server.url}?publish_timeout=5", "shop") as transport:
            await transport.examine([an_interest("shop", group="billing")])
            with pytest.raises(PublishError) as refused:
                await transport.publish([a_large_message("shop", 20_000)])
            error = checked(refused.value)
            assert (error.code, refused.value.results) == ("EB2101", [Rejected(error.why)])
            assert "10000" in error.why
            assert "max_message_size" in error.next
            mixed = [a_message("shop"), a_large_message("shop", 20_000), a_message("shop")]
            with pytest.raises(PublishError) as some:
                await transport.publish(mixed)
            assert isinstance(some.value.results[1], Rejected)
            assert not any(isinstance(some.value.results[place], Rejected) for place in (0, 2))
            await transport.publish([a_message("shop")])


def a_large_message(topic: str, size: int) -> Message:
    return replace(a_message(topic), payload=bytes(size))
