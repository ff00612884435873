"""Each adapter fits its contract: mypy and pyright compare; never run."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from eventbus import Context, EventBus, UnitOfWork
from eventbus.handler import Middleware
from eventbus.inspection import Inspected, Inspection
from eventbus.instrumentation import Instrumentation, NoInstrumentation
from eventbus.memory import MemoryTransport
from eventbus.observability import (
    LoopTick,
    OpenTelemetryInstrumentation,
    PrometheusInstrumentation,
    logging_middleware,
    tracing,
    tracing_middleware,
)
from eventbus.postgres import PostgresStorage
from eventbus.postgres.config import PostgresConfig
from eventbus.service import Service
from eventbus.sqlite import SqliteStorage
from eventbus.sqlite import open_storage as open_sqlite
from eventbus.storage import Factory as StorageFactory
from eventbus.storage import Storage, Transaction
from eventbus.testing import FaultPlan, FaultyStorage, FaultyTransport, context_for
from eventbus.testing.conformance import HandClock
from eventbus.transport import (
    Delivery,
    HasAddresses,
    HasHistory,
    HasTopology,
    Interest,
    Subscription,
    Transport,
    Volatile,
)
from eventbus_kafka import KafkaConfig, KafkaTransport
from eventbus_rabbit import RabbitConfig, RabbitTransport
from tests.typing.user import OrderPlaced

transport: Transport = MemoryTransport()
volatile: Volatile = MemoryTransport()
faulty_transport: Transport = FaultyTransport(MemoryTransport(), FaultPlan())

storage: Storage = SqliteStorage("app.db")
inspected: Inspected = SqliteStorage()
inspection: Inspection = SqliteStorage().inspection
faulty_storage: Storage = FaultyStorage(SqliteStorage(now=HandClock()), FaultPlan())
faulty_inspected: Inspected = FaultyStorage(SqliteStorage(), FaultPlan())
storage_factory: StorageFactory = open_sqlite

nothing: Instrumentation = NoInstrumentation()
metrics: Instrumentation = PrometheusInstrumentation()
spans: Instrumentation = OpenTelemetryInstrumentation(also=PrometheusInstrumentation())

logged: Middleware = logging_middleware
traced: Middleware = tracing_middleware
linked: Middleware = tracing(trace="link")

kafka = KafkaTransport(KafkaConfig(servers=("localhost:1",)))
on_kafka: Transport = kafka
kafka_topology: HasTopology = kafka
kafka_history: HasHistory = kafka
kafka_addresses: HasAddresses = kafka
rabbit = RabbitTransport(RabbitConfig.from_url("amqp://localhost", "shop"))
on_rabbit: Transport = rabbit
rabbit_topology: HasTopology = rabbit
rabbit_addresses: HasAddresses = rabbit
postgres: Inspected = PostgresStorage(PostgresConfig(dsn="postgresql://localhost/shop"))

tick: Service = LoopTick()

context: Context = context_for(OrderPlaced(order_id="A-1", country="IT", cents=1))
unit: UnitOfWork = context


async def lost(deliveries: Sequence[Delivery], deadline: float) -> None: ...


async def use(bus: EventBus) -> AsyncIterator[Subscription]:
    """What entering a contract gives."""
    interest = Interest(group="g", topics=("shop",), types=(), timeout=timedelta(seconds=1))
    async with MemoryTransport().subscribe(interest, on_lost=lost) as member:
        yield member
    async with SqliteStorage().transaction() as tx:
        transaction: Transaction = tx
        await transaction.sql.execute("SELECT 1")
    async with bus.transaction() as held:
        opened: UnitOfWork = held
        await opened.sql.execute("SELECT 1")
