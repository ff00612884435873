"""What a worker's flags change without touching the code."""

from dataclasses import dataclass, replace
from datetime import timedelta

from eventbus.handler import Group
from eventbus.outbox.relay import LONGEST_POLL_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a worker's flags change without touching the code; None: as the code says."""

    lanes: int | None = None  # of every group
    max_in_flight: int | None = None  # of every group
    relay_batch: int | None = None  # rows per call; None: 500, and 2,000 while so many wait
    relay_poll: timedelta = timedelta(seconds=LONGEST_POLL_SECONDS)  # at the longest

    def group(self, group: Group) -> Group:
        """The group with what is changed."""
        return replace(
            group,
            lanes=self.lanes or group.lanes,
            max_in_flight=self.max_in_flight or group.max_in_flight,
        )


AS_WRITTEN = Tuning()
