"""The control client: topics, settings, offsets of groups, and whether the cluster answers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata

from eventbus.errors import TransportError
from eventbus.service import end
from eventbus_kafka.clients import admin, connecting, consumer, stop_consumer, within
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.errors import AWAY, CLIENT_ERRORS, described, transport_error

log: logging.Logger = logging.getLogger("eventbus.kafka")
R = TypeVar("R")

PING_SECONDS = 2.0
CALL_SECONDS = 5.0
ATTEMPTS = 12


class Control:
    """Clients of its own, so that what it asks is never behind data; rebuilt by themselves."""

    def __init__(self, config: KafkaConfig) -> None:
        self.trouble: str | None = "not connected yet"
        self._config = config
        self._admin: AIOKafkaAdminClient | None = None
        self._reader: AIOKafkaConsumer | None = None
        self._opening = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, and ask the cluster from time to time whether it still answers.

        Raises:
            TransportError: EB2001, EB2302.
        """
        await self._admin_client()
        await self._reading_client()
        self.trouble = None
        self._task = asyncio.create_task(self._watch(), name="control:kafka")

    async def stop(self) -> None:
        """Close; bounded."""
        if self._task is not None:
            await end([self._task])
            self._task = None
        await self._close_admin()
        reader, self._reader = self._reader, None
        if reader is not None:
            await stop_consumer(reader, 1.0)

    async def describe_topics(self, topics: Collection[str]) -> Mapping[str, dict[str, Any]]:
        """As the broker answers, by name; a missing one has an `error_code`."""
        found = await self._ask("describe topics", lambda a: a.describe_topics(sorted(topics)))
        return {each["topic"]: each for each in found}

    async def brokers(self) -> int:
        """How many there are."""
        found = await self._ask("describe the cluster", lambda a: a.describe_cluster())
        return len(found["brokers"])

    async def admin_call(
        self, doing: str, call: Callable[[AIOKafkaAdminClient], Awaitable[R]]
    ) -> R:
        """Anything else of the admin client, with the same deadline and errors."""
        return await self._ask(doing, call)

    async def committed(
        self, group: str, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """What the group has committed, with its metadata; without a commit: offset -1."""
        return await self._ask(
            f"read the offsets of group {group!r}",
            lambda a: a.list_consumer_group_offsets(group, partitions=list(partitions)),
        )

    async def beginnings(self, parts: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The first offset that each still holds."""
        return await self._read("read first offsets", lambda r: r.beginning_offsets(parts))

    async def ends(self, parts: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset that the next record gets."""
        return await self._read("read end offsets", lambda r: r.end_offsets(parts))

    async def at_times(
        self, times: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int | None]:
        """The first offset at or behind a time in milliseconds; None: there is none."""
        found = await self._read("read offsets", lambda r: r.offsets_for_times(dict(times)))
        return {part: None if at is None else at.offset for part, at in found.items()}

    async def _ask(self, doing: str, call: Callable[[AIOKafkaAdminClient], Awaitable[R]]) -> R:
        """Several times: the client asks any broker, and does not skip one that is down."""
        loop = asyncio.get_running_loop()
        until = loop.time() + 2 * CALL_SECONDS
        for attempt in range(ATTEMPTS):
            try:
                return await within(CALL_SECONDS, call(await self._admin_client()))
            except CLIENT_ERRORS as error:
                heals = isinstance(error, AWAY) or getattr(error, "retriable", False)
                if not heals or attempt + 1 == ATTEMPTS or loop.time() > until:
                    raise transport_error(error, doing, self._config.where) from error
                log.info("%s: %s; once more", doing, described(error))
            if attempt % 4 == 3:
                await self._close_admin()  # it may be of no use altogether
            await asyncio.sleep(0.1)
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, doing: str, call: Callable[[AIOKafkaConsumer], Awaitable[R]]) -> R:
        try:
            return await within(CALL_SECONDS, call(await self._reading_client()))
        except CLIENT_ERRORS as error:
            raise transport_error(error, doing, self._config.where) from error

    async def _admin_client(self) -> AIOKafkaAdminClient:
        async with self._opening:
            if self._admin is None:
                async with connecting(self._config):
                    fresh = admin(self._config)
                    try:
                        await within(self._config.connect_seconds, fresh.start())
                    except BaseException:
                        await _closed(fresh)
                        raise
                self._admin = fresh
            return self._admin

    async def _reading_client(self) -> AIOKafkaConsumer:
        async with self._opening:
            if self._reader is None:
                async with connecting(self._config):
                    fresh = consumer(self._config, None)
                    try:
                        await within(self._config.connect_seconds, fresh.start())
                    except BaseException:
                        await stop_consumer(fresh, 1.0)
                        raise
                self._reader = fresh
            return self._reader

    async def _close_admin(self) -> None:
        old, self._admin = self._admin, None
        if old is not None:
            await _closed(old)

    async def _watch(self) -> None:
        """`trouble` within 5 s of a cut, and gone within 10 s after it healed."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            try:
                await within(PING_SECONDS, self._ask("ping", lambda a: a.describe_topics([])))
            except TimeoutError as error:
                self._say(f"Kafka does not answer: {described(error)}")
                await self._close_admin()
            except TransportError as error:
                self._say(f"{error.what}: {error.why}")
            else:
                self._say(None)

    def _say(self, trouble: str | None) -> None:
        """Logged when it begins, and when it is over."""
        if trouble is not None and self.trouble is None:
            log.warning("%s", trouble)
        elif trouble is None and self.trouble is not None:
            log.info("Kafka at %s answers again", ", ".join(self._config.servers))
        self.trouble = trouble


async def _closed(client: AIOKafkaAdminClient) -> None:
    try:
        await within(1.0, client.close())
    except CLIENT_ERRORS as error:
        log.info("an admin client of Kafka ended with %s", described(error))


def now_ms() -> int:
    """Since 1970, as Kafka counts."""
    return time.time_ns() // 1_000_000
