"""The partitions of a member from one rebalance to the next: where they begin, what is behind."""

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from eventbus.transport import Interest
from eventbus_kafka.clients import within
from eventbus_kafka.commits import Commits
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control
from eventbus_kafka.delivery import Assigned
from eventbus_kafka.watermark import Mark, read_mark


class Assignment:
    """It is over as soon as the group rebalances, or the client is given up."""

    def __init__(
        self, client: AIOKafkaConsumer, parts: Sequence[Assigned], commits: Commits
    ) -> None:
        self.client: AIOKafkaConsumer = client
        self.parts: dict[TopicPartition, Assigned] = {each.part: each for each in parts}
        self.commits: Commits = commits
        self.is_over: bool = False

    def fetchable(self, config: KafkaConfig) -> list[TopicPartition]:
        """Those whose next records may be fetched now."""
        now = asyncio.get_running_loop().time()
        most, seconds = config.max_gap, config.max_gap_seconds
        return [part for part, each in self.parts.items() if each.may_fetch(now, most, seconds)]

    async def backlog(self) -> int:
        """End offsets - what is committed; raises what the client raises."""
        if not self.parts:
            return 0
        ends = await within(2.0, self.client.end_offsets(list(self.parts)))
        for part, each in self.parts.items():
            if not each.watermark.is_open:
                each.pass_over(await within(1.0, self.client.position(part)))
        return sum(max(0, ends[part] - each.watermark.safe) for part, each in self.parts.items())

    async def finish(self, seconds: float) -> None:
        """Commit for the last time, and close; never raises."""
        await self.commits.finish(seconds)
        self.close()

    async def abandon(self) -> None:
        """Close without a commit: somebody else may have the partitions already."""
        await self.commits.abandon()
        self.close()

    def close(self) -> None:
        """Nothing that was fetched of it is handed out any more."""
        self.is_over = True
        for each in self.parts.values():
            each.is_closed = True


async def beginnings(
    parts: Sequence[TopicPartition], interest: Interest, *, control: Control, max_gap: int
) -> Mapping[TopicPartition, Mark]:
    """What the group has committed; for a group that is new here `Interest.start`.

    Raises:
        TransportError: EB2001, EB2302.
    """
    if not parts:
        return {}
    kept = await control.committed(interest.group, parts)
    new = [part for part in parts if part not in kept or kept[part].offset < 0]
    edge = control.ends if interest.start == "latest" else control.beginnings
    begin = await edge(new) if new else {}
    return {
        part: Mark(begin[part], begin[part])
        if part in begin
        else read_mark(kept[part].offset, kept[part].metadata, max_gap)
        for part in parts
    }
