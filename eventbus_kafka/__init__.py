"""Kafka as a transport of eventbus (`kafka://`), on aiokafka."""

from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.transport import KafkaTransport

__all__ = ["KafkaConfig", "KafkaTransport"]
