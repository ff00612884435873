"""A watch on a member: a client that stops silently is replaced (T23)."""

import asyncio
import logging

from eventbus.errors import TransportError
from eventbus_kafka.assignment import Assignment
from eventbus_kafka.clients import within
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.errors import CLIENT_ERRORS
from eventbus_kafka.health import Health, Repeated
from eventbus_kafka.intake import Intake
from eventbus_kafka.membership import Membership

log: logging.Logger = logging.getLogger("eventbus.kafka")

WATCH_SECONDS = 5.0
MAX_REBUILDS, REBUILD_WINDOW_SECONDS = 3, 600.0

NO_ANSWER: tuple[type[Exception], ...] = (*CLIENT_ERRORS, TransportError)


class SilenceWatch:
    """Records wait, there is room, and nothing comes: a new client; too often: the end."""

    def __init__(
        self,
        config: KafkaConfig,
        control: Control,
        group: str,
        *,
        membership: Membership,
        intake: Intake,
        health: Health,
    ) -> None:
        self.rebuilds: int = 0
        self._config = config
        self._control = control
        self._group = group
        self._membership = membership
        self._intake = intake
        self._health = health
        self._rebuilt = Repeated(MAX_REBUILDS, REBUILD_WINDOW_SECONDS)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, self._config.silence_seconds))
            now = self._membership.current()
            if now is not None and await self._is_silent(now):
                self._rebuild()

    def _rebuild(self) -> None:
        self.rebuilds += 1
        self._health.say("made no progress; a new client")
        log.error("group %s: no progress: a new client", self._group)
        self._health.got_on()
        if self._rebuilt.again(asyncio.get_running_loop().time()):
            self._health.fail(
                TransportError(
                    "EB2308",
                    f"group {self._group!r} makes no progress",
                    where=f"group {self._group}, {self._config.where}",
                    why=f"{MAX_REBUILDS} new clients within ten minutes did not help",
                    next="restart the process; look at the broker's log of the group",
                )
            )
        self._health.restart.set()

    async def _is_silent(self, now: Assignment) -> bool:
        if self._health.idle() < self._config.silence_seconds:
            return False
        parts = now.fetchable(self._config)
        if not parts or not self._intake.free() or self._intake.is_waiting:
            return False
        try:
            ends = await self._control.ends(parts)
            at = {part: await within(1.0, now.client.position(part)) for part in parts}
        except NO_ANSWER:
            return False
        return any(at[part] < ends[part] for part in at)
