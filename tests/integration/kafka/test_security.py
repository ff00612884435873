"""TLS and SASL on a real listener, with and without the right password."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventbus.errors import TransportError
from eventbus.testing.conformance.transport.member import an_interest, counted, joined, of_key
from eventbus.testing.services import KafkaServer, kafka_broker, private_kafka
from tests.integration.kafka.conftest import on


@pytest.fixture
async def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself; the file holds the key too, as Kafka wants it."""
    key, signed, both = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "both.pem"
    await asyncio.to_thread(
        subprocess.run,
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(signed)),
        ],
        check=True,
        capture_output=True,
    )
    both.write_text(key.read_text() + signed.read_text())
    return signed


@pytest.fixture
async def secured(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KafkaServer]:
    """Its second listener speaks TLS and wants a password; the launcher knows plaintext only."""
    monkeypatch.setitem(
        vars(kafka_broker)["_FIXED"],
        "listener.security.protocol.map",
        "PLAINTEXT:PLAINTEXT,PROXIED:SASL_SSL,CONTROLLER:PLAINTEXT",
    )
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    settings = {
        "listener.name.proxied.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.proxied.plain.sasl.jaas.config": f'{module} required user_shop="secret";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate.parent / "both.pem"),
    }
    async with private_kafka(settings=settings) as server:
        yield server


async def test_a_bus_with_the_right_password_works_over_tls(
    secured: KafkaServer, certificate: Path
) -> None:
    url = secured.proxied_url.replace("kafka://", "kafka://shop:secret@")
    interest = an_interest("shop")
    async with on(f"{url}?tls=true&sasl_mechanism=plain&ca_file={certificate}") as transport:
        await transport.publish(counted("shop", count=5))
        async with joined(transport, interest) as member:
            assert of_key(await member.receive(5, ack=True), "k") == list(range(5))
        assert transport.trouble is None


async def test_what_is_wrong_with_the_login_or_the_certificate_is_said(
    secured: KafkaServer, certificate: Path
) -> None:
    url = secured.proxied_url.replace("kafka://", "kafka://shop:wrong@")
    password = on(f"{url}?tls=true&sasl_mechanism=plain&ca_file={certificate}")
    with pytest.raises(TransportError) as refused:
        await password.__aenter__()
    assert refused.value.code == "EB2302"
    assert "wrong" not in str(refused.value)
    url = secured.proxied_url.replace("kafka://", "kafka://shop:secret@")
    with pytest.raises(TransportError) as untrusted:
        await on(f"{url}?tls=true&sasl_mechanism=plain").__aenter__()
    assert untrusted.value.code == "EB2001"
    assert "certificate" in untrusted.value.why.lower()
    unlocked = on(f"{secured.proxied_url}?tls=true&ca_file={certificate}", connect_seconds=3)
    with pytest.raises(TransportError):
        await unlocked.__aenter__()
