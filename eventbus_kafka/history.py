"""A bounded replay, outside any group (`HasHistory`)."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Literal

from aiokafka import TopicPartition

from eventbus.errors import ConfigurationError, TransportError
from eventbus_kafka.clients import connecting, consumer, stop_consumer, within
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import Assigned, KafkaDelivery
from eventbus_kafka.errors import CLIENT_ERRORS, transport_error
from eventbus_kafka.mapping import Mapper
from eventbus_kafka.topics import Topics
from eventbus_kafka.watermark import Mark

SILENT_SECONDS = 30.0
AT_ONCE = 500


class History:
    """Reads what the cluster still holds, with a client of its own; no group notices."""

    def __init__(self, config: KafkaConfig, control: Control, topics: Topics) -> None:
        self._config = config
        self._control = control
        self._topics = topics
        self._mapper = Mapper(config.cluster_name, config.foreign)

    async def bounds(
        self,
        topics: Sequence[str],
        start: datetime | Literal["first"],
        stop: datetime | Literal["now"],
    ) -> Mapping[TopicPartition, range]:
        """The offsets of each partition between two times, as the log is now.

        Raises:
            ConfigurationError: EB1006, a time without a zone.
            TransportError: EB2301, a topic does not exist; EB2001, EB2302.
        """
        there = await self._topics.find(topics)
        for name in topics:
            if name not in there:
                raise TransportError(
                    "EB2301",
                    f"replay: topic {name!r} does not exist",
                    where=self._config.where,
                    why="there is no history of it",
                    next="name one that exists",
                )
        parts = [TopicPartition(n, p) for n in topics for p in range(there[n].partitions)]
        firsts, ends = await self._control.beginnings(parts), await self._control.ends(parts)
        begin = firsts if start == "first" else await self._at(parts, start, ends)
        until = ends if stop == "now" else await self._at(parts, stop, ends)
        return {part: range(begin[part], max(begin[part], until[part])) for part in parts}

    async def _at(
        self, parts: Sequence[TopicPartition], at: datetime, ends: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        if at.tzinfo is None:
            raise ConfigurationError(
                "EB1006",
                f"the time {at} has no zone",
                where="replay",
                why="two hosts would read it differently",
                next="datetime(…, tzinfo=UTC)",
            )
        found = await self._control.at_times(dict.fromkeys(parts, int(at.timestamp() * 1000)))
        return {part: ends[part] if (it := found.get(part)) is None else it for part in parts}

    async def read(
        self, bounds: Mapping[TopicPartition, range]
    ) -> AsyncGenerator[Sequence[KafkaDelivery], None]:
        """Everything within the bounds, per partition in order; ends there.

        Raises:
            TransportError: EB2001, nothing came for 30 s; EB2306, the log lost what was asked for.
        """
        left = {part: span for part, span in bounds.items() if span}
        if not left:
            return
        client = consumer(self._config, None)
        try:
            async with connecting(self._config):
                await within(self._config.connect_seconds, client.start())
            client.assign(list(left))
            for part, span in left.items():
                client.seek(part, span.start)
            origins = {part: Assigned(part, 0, Mark(0, 0)) for part in left}
            heard = time.monotonic()
            while left:
                got = await within(
                    SILENT_SECONDS, client.getmany(*left, timeout_ms=200, max_records=AT_ONCE)
                )
                batch = []
                for part, records in got.items():
                    for record in records:
                        if record.offset in left[part]:
                            message, malformed = self._mapper.read(
                                part.topic,
                                part.partition,
                                record.offset,
                                record.key,
                                record.value,
                                record.headers,
                            )
                            batch.append(
                                KafkaDelivery(
                                    message, malformed, origins[part], record.offset, True
                                )
                            )
                if batch:
                    heard = time.monotonic()
                    yield batch
                for part in list(left):
                    if await within(1.0, client.position(part)) >= left[part].stop:
                        del left[part]
                if time.monotonic() - heard > SILENT_SECONDS:
                    raise TimeoutError
        except CLIENT_ERRORS as error:
            raise transport_error(error, "replay", self._config.where) from error
        finally:
            await stop_consumer(client, 3.0)
