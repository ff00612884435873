"""A password that is changed while a bus runs: row 51."""

import logging

import pytest

from eventbus.testing.conformance.transport.member import an_interest, counted, joined
from eventbus.testing.services import private_rabbit
from eventbus.transport import open_transport
from tests.integration.brokers.conftest import long
from tests.integration.brokers.waiting import until

ATTEMPTS = 40  # of two connections, far more than the back-off makes of ten seconds


@long
async def test_credentials_that_are_revoked_are_told_without_a_tight_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 51, on RabbitMQ: Kafka asks for a password when a connection is made only."""
    caplog.set_level(logging.INFO)
    interest = an_interest("shop", group="billing")
    async with private_rabbit() as server:
        await server.control("add_user", "shop", "first-secret")
        await server.control("set_permissions", "shop", ".*", ".*", ".*")
        host = server.url.rpartition("@")[2]
        async with open_transport(f"amqp://shop:first-secret@{host}", "shop") as transport:
            await transport.examine([interest])
            async with joined(transport, interest) as member:
                await transport.publish(counted("shop", count=3))
                await member.receive(3, ack=True)
                await server.control("change_password", "shop", "second-secret")
                await server.control("close_all_connections", "revoked")
                await until(lambda: transport.trouble is not None)
                await until(lambda: "refuse" in (transport.trouble or "").lower())
                tried = len(caplog.records)
                for _ in range(3):  # each of them takes longer than the first waits together
                    await server.control("status")
                assert len(caplog.records) < tried + ATTEMPTS
                await server.control("change_password", "shop", "first-secret")
                await until(lambda: transport.trouble is None)
                await transport.publish(counted("shop", first=3, count=3))
                await member.receive(3, ack=True)
    assert "secret" not in caplog.text
