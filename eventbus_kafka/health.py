"""How a member of a group is: its trouble, its end for good, and when it last got on."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from eventbus.errors import TransportError
from eventbus_kafka.config import KafkaConfig

log: logging.Logger = logging.getLogger("eventbus.kafka")

MAX_EVICTIONS, EVICTION_WINDOW_SECONDS = 3, 300.0
_EVICTED = frozenset({"UnknownMemberIdError", "FencedInstanceIdError"})


class Health:
    """Of one member.

    Args:
        ended: called when it has failed for good.
    """

    def __init__(self, config: KafkaConfig, group: str, ended: Callable[[], None]) -> None:
        self.trouble: str | None = "not joined yet"
        self.failed: TransportError | None = None
        self.restart: asyncio.Event = asyncio.Event()  # the client is of no use any more
        self._config = config
        self._group = group
        self._ended = ended
        self._progress_at = 0.0
        self._evictions = Repeated(MAX_EVICTIONS, EVICTION_WINDOW_SECONDS)

    def got_on(self) -> None:
        """Something came, or a verdict."""
        self._progress_at = asyncio.get_running_loop().time()

    def idle(self) -> float:
        """Seconds since it got on."""
        return asyncio.get_running_loop().time() - self._progress_at

    def say(self, what: str) -> None:
        """The trouble, until it is over or another one follows."""
        self.trouble = f"group {self._group!r}: {what}"

    def fail(self, error: TransportError) -> None:
        """For good: no new client mends this."""
        self.failed = error
        self.say(f"{error.what}: {error.why}")
        log.error("group %s ends: %s", self._group, error)
        self._ended()

    def refused(self, error: BaseException) -> None:
        """Two processes under one instance id evict each other for ever: find that out."""
        cause = error.__cause__ or error
        if self._config.group_instance_id is None or type(cause).__name__ not in _EVICTED:
            return
        if self._evictions.again(asyncio.get_running_loop().time()):
            self.fail(
                TransportError(
                    "EB2309",
                    f"group_instance_id {self._config.group_instance_id!r} is used twice",
                    where=f"group {self._group}, {self._config.where}",
                    why=f"thrown out {MAX_EVICTIONS} times within five minutes",
                    next="give each process an id of its own, the pod's name",
                )
            )
            self.restart.set()


class Repeated:
    """Whether something happened so many times within so long; pure."""

    def __init__(self, times: int, seconds: float) -> None:
        self._seconds = seconds
        self._at: deque[float] = deque(maxlen=times)

    def again(self, now: float) -> bool:
        """Once more; True if that is too often."""
        self._at.append(now)
        return len(self._at) == self._at.maxlen and now - self._at[0] < self._seconds
