"""RabbitMQ as a transport: quorum queues, confirms in one write per batch, acks by prefix."""

from eventbus_rabbit.config import RabbitConfig
from eventbus_rabbit.transport import RabbitTransport

__all__ = ["RabbitConfig", "RabbitTransport"]
