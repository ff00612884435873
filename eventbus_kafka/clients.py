"""The clients of aiokafka, with every default that is unsafe set (transports.md 8.1)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from eventbus.errors import TransportError
from eventbus_kafka.chatter import calm
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.errors import CLIENT_ERRORS, described, transport_error

R = TypeVar("R")

log: logging.Logger = logging.getLogger("eventbus.kafka")
calm()

HEADER_ROOM = 64 << 10  # bytes beside a body: key, headers, framing
MAX_BATCH_BYTES = 128 << 10
METADATA_MAX_AGE_MS = 60_000


def producer(config: KafkaConfig) -> AIOKafkaProducer:
    """Idempotent; not started."""
    return AIOKafkaProducer(
        **_reaching(config),
        request_timeout_ms=20_000,
        acks="all",
        enable_idempotence=True,
        transactional_id=None,
        compression_type=config.compression,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=config.max_body + HEADER_ROOM,
        linger_ms=0,
    )


def consumer(config: KafkaConfig, group: str | None) -> AIOKafkaConsumer:
    """A member of a group that commits nothing by itself; without one a plain reader."""
    return AIOKafkaConsumer(
        **_reaching(config),
        group_id=group,
        group_instance_id=None if group is None else config.group_instance_id,
        request_timeout_ms=_ms(config.request_seconds),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        partition_assignment_strategy=(_own_assignor(),),
        session_timeout_ms=_ms(config.session_timeout_seconds),
        heartbeat_interval_ms=_ms(config.heartbeat_seconds),
        rebalance_timeout_ms=_ms(config.rebalance_seconds),
        max_poll_interval_ms=300_000,
        max_partition_fetch_bytes=max(2 << 20, config.max_body + HEADER_ROOM),
        fetch_max_bytes=16 << 20,
        check_crcs=True,
        exclude_internal_topics=True,
    )


def admin(config: KafkaConfig) -> AIOKafkaAdminClient:
    """For topics, settings and offsets of groups; not started."""
    return AIOKafkaAdminClient(**_reaching(config), request_timeout_ms=_ms(config.connect_seconds))


def _own_assignor() -> type[StickyPartitionAssignor]:
    """A class for each consumer: it keeps its state on the class (T22)."""
    return type("OwnStickyAssignor", (StickyPartitionAssignor,), {})


def _reaching(config: KafkaConfig) -> dict[str, Any]:
    return {
        "bootstrap_servers": list(config.servers),
        "client_id": config.service or "eventbus",
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        "security_protocol": config.security_protocol,
        "ssl_context": config.tls_context(),
        "sasl_mechanism": config.sasl_mechanism,
        "sasl_plain_username": config.username,
        "sasl_plain_password": config.password,
        "sasl_oauth_token_provider": config.token_provider,
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def within(seconds: float, call: Awaitable[R]) -> R:
    """The one way to await a client: with a deadline.

    Raises:
        TimeoutError: it did not answer in time.
    """
    async with asyncio.timeout(seconds):
        return await call


@asynccontextmanager
async def connecting(config: KafkaConfig) -> AsyncIterator[None]:
    """Around the start of a client: what fails is a `TransportError` that names the cause.

    aiokafka raises "Unable to bootstrap" whatever the cause; that stands in its log alone.
    """
    heard = _Hearing()
    logger = logging.getLogger("aiokafka")
    logger.addHandler(heard)
    try:
        yield
    except CLIENT_ERRORS as error:
        raise _cannot_connect(config, error, heard) from error
    finally:
        logger.removeHandler(heard)


class _Hearing(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(" ".join(record.getMessage().split()))


_SAYS_ACCESS = ("authentication", "sasl", "authorization", "credentials")


def _cannot_connect(config: KafkaConfig, error: BaseException, heard: _Hearing) -> TransportError:
    found = transport_error(error, "connect", config.where)
    said = list(dict.fromkeys(heard.said[-2:])) or [described(error)]
    code, what = found.code, f"cannot reach Kafka at {', '.join(config.servers)}"
    to_do = "start the broker | mend the URL | eventbus doctor"
    if any("IllegalSaslState" in one for one in heard.said):
        code, what = "EB2302", f"Kafka at {', '.join(config.servers)} takes no password here"
        to_do = "leave user and password out | mend the port: its listener has no SASL"
    elif any(word in one.lower() for one in heard.said for word in _SAYS_ACCESS):
        code, what = "EB2302", f"Kafka at {', '.join(config.servers)} refuses access"
        to_do = "mend user, password and sasl_mechanism= of the URL"
    elif all(one.endswith(":") for one in said):  # it hung up without a word
        without = "perhaps the port speaks no TLS" if config.tls else "perhaps the port wants TLS"
        said.append(f"{without}, tls={str(not config.tls).lower()}")
    return TransportError(code, what, where=config.where, why=" ".join(said), next=to_do)


async def stop_producer(producer: AIOKafkaProducer, seconds: float) -> bool:
    """Flush and close; True if it did in time. Otherwise it is abandoned: it sends nothing more.

    Idempotent batches never expire, so a producer that is merely dropped would deliver them at any
    later time (T25). `_sender` is the one private name of the client that we touch here.
    """
    stopping = asyncio.ensure_future(producer.stop())
    stopping.set_name("publisher:stop")
    done, _ = await asyncio.wait([stopping], timeout=seconds)
    if done:
        return not _failed(stopping)
    sender = producer._sender.sender_task
    ending = [stopping, *([sender] if sender is not None else [])]
    _cancel(ending)
    closing = asyncio.ensure_future(producer.client.close())
    closing.set_name("publisher:close")
    await asyncio.wait([closing], timeout=seconds)
    # The sender waits for its requests, which wait for metadata that a closed client never asks for
    _cancel(ending)
    _, left = await asyncio.wait([*ending, closing], timeout=seconds)
    _cancel(left)
    for task in left:
        log.error("a producer of Kafka does not end: %s", task.get_name())
    return False


def _cancel(tasks: Iterable["asyncio.Future[None]"]) -> None:
    for task in tasks:
        task.cancel()


async def stop_consumer(consumer: AIOKafkaConsumer, seconds: float) -> bool:
    """Leave the group and close; True if it did in time, else its connections are cut.

    `stop()` waits for whatever the group is doing, a join above all (T17).
    """
    stopping = asyncio.ensure_future(consumer.stop())
    stopping.set_name("consumer:stop")
    done, _ = await asyncio.wait([stopping], timeout=seconds)
    if done:
        return not _failed(stopping)
    closing = asyncio.ensure_future(consumer._client.close())
    closing.set_name("consumer:close")
    _, left = await asyncio.wait([stopping, closing], timeout=1.0)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=1.0)
    return False


def _failed(task: "asyncio.Future[None]") -> bool:
    if task.cancelled():
        return True
    error = task.exception()
    if error is not None:
        log.warning("a client of Kafka ended with %s", described(error))
    return error is not None
