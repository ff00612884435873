"""The broker of a bank: a real one of its own, and every way to it leads through a proxy."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit, urlunsplit

from eventbus.testing.services import KafkaServer, RabbitServer, private_kafka, private_rabbit
from tests.faults.proxy import FaultProxy, amqp, kafka

# Members that died are noticed within seconds (`faults.md` §3.3): else each kill costs 15 of them.
_KAFKA_URL = (
    "{url}?provision=true&partitions=6&replication={brokers}"
    "&heartbeat_seconds=0.5&session_seconds=6&publish_seconds=5"
)
_RABBIT_URL = "{url}?heartbeat=2&publish_timeout=5"
_KAFKA_SETTINGS = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "300"}
_RABBIT_SETTINGS = {"disk_free_limit.absolute": "50MB"}
Deed = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What may be done to one broker; on return of a call it has happened."""

    stop: Deed
    start: Deed
    kill: Deed
    freeze: Deed
    thaw: Deed


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the workers find it, its nodes, and the links that lead there."""

    url: str
    nodes: Sequence[Node] = ()
    links: Sequence[FaultProxy] = ()


@asynccontextmanager
async def broker_of(transport: str, *, nodes: int, seed: int) -> AsyncIterator[Broker]:
    """`memory`, which needs none; `rabbit`; or `kafka` with one node or three."""
    opened = {"rabbit": partial(_rabbit, seed), "kafka": partial(_kafka, seed, nodes)}
    if transport == "memory":
        yield Broker(url="memory://")
        return
    async with opened[transport]() as broker:
        yield broker


@asynccontextmanager
async def _rabbit(seed: int) -> AsyncIterator[Broker]:
    async with private_rabbit(_RABBIT_SETTINGS) as server:
        parts = urlsplit(server.url)
        upstream = (parts.hostname or "", parts.port or 5672)
        async with FaultProxy(upstream, framing=amqp, seed=seed) as link:
            user = parts.netloc.rpartition("@")[0]
            url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{link.port}"))
            yield Broker(url=_RABBIT_URL.format(url=url), nodes=[_node(server)], links=[link])


@asynccontextmanager
async def _kafka(seed: int, brokers: int) -> AsyncIterator[Broker]:
    async with (
        private_kafka(brokers=brokers, settings=_KAFKA_SETTINGS, start=False) as server,
        AsyncExitStack() as stack,
    ):
        links = []
        for number in range(1, brokers + 1):
            proxy = FaultProxy(server.upstream(number), framing=kafka, seed=seed + number)
            links.append(await stack.enter_async_context(proxy))
            server.proxy(proxy.port, number)
        await server.start()
        yield Broker(
            url=_KAFKA_URL.format(url=server.proxied_url, brokers=brokers),
            nodes=[_node(server, number) for number in range(1, brokers + 1)],
            links=links,
        )


def _node(server: RabbitServer | KafkaServer, *number: int) -> Node:
    return Node(
        stop=partial(server.stop, *number),
        start=partial(server.start, *number),
        kill=partial(server.kill, *number),
        freeze=partial(server.freeze, *number),
        thaw=partial(server.thaw, *number),
    )
