"""What AsyncAPI says of a cluster and its topics (bindings 0.5.0); from the configuration alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from eventbus_kafka.config import KafkaConfig, Mechanism

VERSION = {"bindingVersion": "0.5.0"}
_SCHEMES: Mapping[Mechanism, str] = {
    "PLAIN": "plain",
    "SCRAM-SHA-256": "scramSha256",
    "SCRAM-SHA-512": "scramSha512",
}


class KafkaAddresses:
    """Implements `Addresses`: the address of a topic is its name."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config

    @property
    def prefix(self) -> str:
        """Of record headers."""
        return "ce_"

    @property
    def servers(self) -> Mapping[str, Mapping[str, Any]]:
        """One per host that the configuration names."""
        config = self._config
        server: dict[str, Any] = {"protocol": "kafka-secure" if config.tls else "kafka"}
        scheme = _SCHEMES.get(config.sasl_mechanism) if config.authenticates else None
        if scheme is not None:  # a token needs an address of its own, which nobody told us
            server["security"] = [{"type": scheme}]
        names = ["kafka", *(f"kafka-{place}" for place in range(2, len(config.servers) + 1))]
        return {
            name: {"host": host, **server} for name, host in zip(names, config.servers, strict=True)
        }

    def channel(self, topic: str, types: Sequence[str]) -> Mapping[str, Any]:
        """A topic; how many partitions and replicas where the configuration declares them."""
        declared = {"partitions": self._config.partitions, "replicas": self._config.replication}
        known = {name: count for name, count in declared.items() if count is not None}
        return {"address": topic, "bindings": {"kafka": {"topic": topic, **known, **VERSION}}}

    def receiving(self, group: str) -> Mapping[str, Any]:
        """The consumer group."""
        return {"kafka": {"groupId": {"type": "string", "const": group}, **VERSION}}

    def sending(self) -> Mapping[str, Any]:
        """Nothing: the key is the message's."""
        return {}

    def message(self, *, keyed: bool) -> Mapping[str, Any]:
        """The record's key."""
        return {"kafka": {"key": {"type": "string"}, **VERSION}} if keyed else {}
