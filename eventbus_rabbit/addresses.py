"""What AsyncAPI says of the broker, its exchanges and queues (bindings 0.3.0)."""

from collections.abc import Mapping, Sequence
from typing import Any

from eventbus.structured import DEAD
from eventbus_rabbit.config import RabbitConfig

VERSION = {"bindingVersion": "0.3.0"}


class RabbitAddresses:
    """Implements `Addresses`: an address is a routing key, the type; or a queue of dead letters."""

    def __init__(self, config: RabbitConfig) -> None:
        self._config = config

    @property
    def prefix(self) -> str:
        """Of headers."""
        return "ce-"

    @property
    def servers(self) -> Mapping[str, Mapping[str, Any]]:
        """The one that the configuration names."""
        config = self._config
        host = f"[{config.host}]" if ":" in config.host else config.host
        server = {
            "host": f"{host}:{config.port}",
            "protocol": "amqps" if config.tls else "amqp",
            "protocolVersion": "0-9-1",
            "pathname": f"/{config.vhost.removeprefix('/')}",
            "security": [{"type": "userPassword"}],
        }
        return {"rabbit": server}

    def channel(self, topic: str, types: Sequence[str]) -> Mapping[str, Any]:
        """The exchange of a topic; or a queue, of a dead topic."""
        vhost = self._config.vhost
        if topic.endswith(DEAD):
            queue = {"name": topic, "durable": True, "exclusive": False, "autoDelete": False}
            return {
                "address": topic,
                "bindings": {
                    "amqp": {"is": "queue", "queue": {**queue, "vhost": vhost}, **VERSION}
                },
            }
        exchange = {"name": topic, "type": "topic", "durable": True, "autoDelete": False}
        binding = {"is": "routingKey", "exchange": {**exchange, "vhost": vhost}, **VERSION}
        known = [name for name in types if not name.endswith("*")]
        routing: dict[str, Any] = {"description": "The type of the message."}
        if known and len(known) == len(types):
            routing["enum"] = known
        return {
            "address": "{type}",
            "parameters": {"type": routing},
            "bindings": {"amqp": binding},
        }

    def receiving(self, group: str) -> Mapping[str, Any]:
        """Verdicts are given one by one; the queue is named like the group."""
        return {"amqp": {"ack": True, **VERSION}}

    def sending(self) -> Mapping[str, Any]:
        """Stored on disk; refused where no queue wants it."""
        return {"amqp": {"deliveryMode": 2, "mandatory": True, **VERSION}}

    def message(self, *, keyed: bool) -> Mapping[str, Any]:
        """Nothing: the key is a header."""
        return {}
