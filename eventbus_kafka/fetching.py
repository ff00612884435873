"""Fetching what a member has room for, and nothing above the limits that are committed."""

import asyncio
import logging
from contextlib import suppress

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)

from eventbus_kafka.assignment import Assignment
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import KafkaDelivery
from eventbus_kafka.errors import CLIENT_ERRORS, described
from eventbus_kafka.health import Health
from eventbus_kafka.intake import Fetched, Intake

log: logging.Logger = logging.getLogger("eventbus.kafka")

POLL_MS = 200
RECORDS_AT_ONCE = 50  # of a fetch: more outlive the young generation, and every collection is dear
FULL_SECONDS = 1.0  # a stall that lasts longer pauses the partitions


class Fetching:
    """From the client of an assignment into the intake of its member."""

    def __init__(
        self, config: KafkaConfig, control: Control, group: str, intake: Intake, health: Health
    ) -> None:
        self._config = config
        self._control = control
        self._group = group
        self._intake = intake
        self._health = health

    async def idle(self, client: AIOKafkaConsumer) -> None:
        """Once, while there is no assignment: only to hear of errors."""
        with suppress(NoOffsetForPartitionError, OffsetOutOfRangeError, RecordTooLargeError):
            await client.getmany(timeout_ms=POLL_MS)  # what has just come settles in first

    async def poll(self, now: Assignment) -> None:
        """Once: wait for records or for room; raises what the client raises."""
        room = self._intake.free()
        ready = now.fetchable(self._config) if room else []
        if not ready and now.parts:
            await self._stall(now)
            return
        client = now.client
        if paused := client.paused():
            client.resume(*(part for part in ready if part in paused))
        try:
            most = min(room, RECORDS_AT_ONCE) or None
            got = await client.getmany(*ready, timeout_ms=POLL_MS, max_records=most)
        except NoOffsetForPartitionError:
            return  # of a new group, before the seek
        except OffsetOutOfRangeError as error:
            await self._out_of_range(now, error)
        except RecordTooLargeError as error:
            self._too_large(now, error)
        except Exception:
            now.close()  # the client may have taken records, and not handed them over
            raise
        else:
            if got:  # though it be over: what is above the client's position counts as open
                await self._take(now, got)

    async def _stall(self, now: Assignment) -> None:
        """No room: wait for verdicts; when it lasts, pause, and poll only to hear of errors."""
        self._intake.room.clear()
        try:
            async with asyncio.timeout(FULL_SECONDS):
                await self._intake.room.wait()
        except TimeoutError:
            parts = [part for part in now.parts if part in now.client.assignment()]
            if parts and not now.is_over:
                now.client.pause(*parts)
                await now.client.getmany(timeout_ms=0)

    async def _take(self, now: Assignment, got: Fetched) -> None:
        """Records become deliveries; none at or above the limit before it was raised."""
        must_raise = False
        fetched: list[KafkaDelivery] = []
        for part, records in got.items():
            assigned = now.parts.get(part)
            if assigned is not None:
                fetched += self._intake.read(assigned, records)
                must_raise = must_raise or assigned.seen > assigned.limit
        self._health.got_on()
        if must_raise:
            await self._raise_limits(now)
        if not now.is_over:
            self._intake.put(fetched)

    async def _raise_limits(self, now: Assignment) -> None:
        while not now.is_over:
            try:
                await now.commits.raise_limits()
            except CLIENT_ERRORS as error:
                log.warning("group %s: limits: %s", self._group, described(error))
                self._health.refused(error)
                await asyncio.sleep(0.1)
            else:
                return

    def _too_large(self, now: Assignment, error: RecordTooLargeError) -> None:
        _, part, offset, *_ = error.args
        log.error("group %s: %s at %d is too large", self._group, part, offset, exc_info=error)
        if (each := now.parts.get(part)) is not None:
            self._intake.put([self._intake.read_unreadable(each, offset)])

    async def _out_of_range(self, now: Assignment, error: OffsetOutOfRangeError) -> None:
        """Retention was faster than the group: say so, and stop unless told to go on."""
        (gone,) = error.args
        for part in gone:
            each = now.parts.get(part)
            if each is None:
                continue
            first = (await self._control.beginnings([part]))[part]
            log.error(
                "group %s: %s does not hold offset %d, it begins at %d: messages are lost",
                *(self._group, each.name, gone[part], first),
            )
            if self._config.on_data_loss == "earliest":
                each.watermark.pass_over(first)
                now.client.seek(part, first)
            else:
                what = f"{each.name} does not hold offset {gone[part]} any more (EB2306)"
                self._intake.halt(each, what)
                self._health.say(what)
