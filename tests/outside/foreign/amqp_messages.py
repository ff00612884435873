"""Messages of RabbitMQ through pika, as JSON lines; bodies are hexadecimal.

amqp_messages.py bind URL QUEUE EXCHANGE ROUTING_KEY    a queue of one's own on an exchange
amqp_messages.py read URL QUEUE COUNT                   take messages and acknowledge them
amqp_messages.py write URL EXCHANGE ROUTING_KEY         messages on stdin, mandatory, confirmed
"""

import json
import sys
import time
from collections.abc import Callable

import pika
from pika.adapters.blocking_connection import BlockingChannel as Channel

SECONDS = 30.0


def main() -> None:
    """Run the command of the arguments."""
    command, url, *rest = sys.argv[1:]
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    commands: dict[str, Callable[..., None]] = {"bind": bind, "read": read, "write": write}
    commands[command](channel, *rest)
    connection.close()


def bind(
    channel: Channel,
    queue: str,
    exchange: str,
    routing_key: str,
) -> None:
    """The exchange must be there: it is not declared here."""
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange, routing_key)


def read(channel: Channel, queue: str, count: str) -> None:
    """In the order of the queue."""
    left, deadline = int(count), time.monotonic() + SECONDS
    for method, properties, body in channel.consume(queue, inactivity_timeout=0.5):
        if method is None:
            if time.monotonic() > deadline:
                sys.exit(f"{left} of {count} messages did not come")
            continue
        say(
            exchange=method.exchange,
            routing_key=method.routing_key,
            headers=properties.headers,
            content_type=properties.content_type,
            delivery_mode=properties.delivery_mode,
            message_id=properties.message_id,
            correlation_id=properties.correlation_id,
            type=properties.type,
            timestamp=properties.timestamp,
            body=body.hex(),
        )
        channel.basic_ack(method.delivery_tag)
        left -= 1
        if not left:
            channel.cancel()
            return


def write(channel: Channel, exchange: str, routing_key: str) -> None:
    """Fails if one has no queue or is not confirmed."""
    channel.confirm_delivery()
    for line in sys.stdin:
        message = json.loads(line)
        properties = pika.BasicProperties(
            headers=message.get("headers"),
            content_type=message.get("content_type"),
            message_id=message.get("message_id"),
            delivery_mode=2,
        )
        body = bytes.fromhex(message["body"])
        channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)


def say(**fields: object) -> None:
    """One line."""
    print(json.dumps(fields))


if __name__ == "__main__":
    main()
