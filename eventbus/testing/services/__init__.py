"""Real services for tests: found or started, shared, and stopped at the end."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.testing.services.find import running
    from eventbus.testing.services.kafka_server import KafkaServer, private_kafka
    from eventbus.testing.services.postgres_server import PostgresServer, private_postgres
    from eventbus.testing.services.rabbitmq_server import RabbitServer, private_rabbit
    from eventbus.testing.services.service import Running, ServiceMissingError

_HOMES = {
    "KafkaServer": "kafka_server",
    "PostgresServer": "postgres_server",
    "RabbitServer": "rabbitmq_server",
    "Running": "service",
    "ServiceMissingError": "service",
    "private_kafka": "kafka_server",
    "private_postgres": "postgres_server",
    "private_rabbit": "rabbitmq_server",
    "running": "find",
}
__all__ = [
    "KafkaServer",
    "PostgresServer",
    "RabbitServer",
    "Running",
    "ServiceMissingError",
    "private_kafka",
    "private_postgres",
    "private_rabbit",
    "running",
]

if not TYPE_CHECKING:  # the plugin in this package is imported in every pytest run: lazily

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
