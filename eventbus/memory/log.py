"""Style `log`: topics with partitions, committed offsets per group, eager rebalance (as Kafka)."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from typing import cast
from zlib import crc32

from eventbus.memory.cursor import Cursor
from eventbus.memory.history import PartitionLog, Usage
from eventbus.memory.subscription import MemoryDelivery, MemorySubscription
from eventbus.message import Message
from eventbus.service import end
from eventbus.transport import Interest

Tell = Callable[[Sequence[Message]], None]

REVOKE_SECONDS = 45.0  # Kafka: rebalance timeout of 60 s, less 15 s


class LogGroup:
    """A consumer group: cursors, members in joining order, generations."""

    def __init__(self, name: str, logs: "LogStyle", tell: Tell) -> None:
        self.name = name
        self.members: list[MemorySubscription] = []
        self.cursors: dict[str, Cursor] = {}  # by partition
        self.generation: int = 0
        self._logs = logs
        self._tell = tell
        self._revoking = False
        self._changed = False
        self._task: asyncio.Task[None] | None = None
        self._turn = 0

    def join(self, member: MemorySubscription) -> None:
        """The newcomer's share comes with the rebalance that this starts."""
        self._logs.know(member.interest)
        self.members.append(member)
        self._rebalance_soon()

    def leave(self, member: MemorySubscription) -> None:
        """Its partitions go to the others, from the committed offset on."""
        self.members.remove(member)
        for cursor in self._read_by(member):
            cursor.assign(None, self.generation)
        self._rebalance_soon()

    def take(self, member: MemorySubscription, room: int) -> list[MemoryDelivery]:
        """From the partitions in turn, so that a full one starves no other."""
        if self._revoking:
            return []
        batch: list[MemoryDelivery] = []
        mine = [cursor for cursor in self._read_by(member) if not cursor.given_back]
        for step in range(len(mine)):
            cursor = mine[(self._turn + step) % len(mine)]
            if cursor.position == cursor.log.end:
                continue
            part, size = cursor.take(room - len(batch), member.max_held_bytes - member.held_bytes)
            member.hold(part, size)
            batch += part
            if len(batch) == room:
                break
        self._turn += 1
        return batch

    def record(self, member: MemorySubscription, finished: Sequence[MemoryDelivery]) -> None:
        """Move the watermarks; nothing is committed yet."""
        for delivery in finished:
            cast("Cursor", delivery.origin).watermark.finish(delivery.number, delivery.epoch)

    def send(self, member: MemorySubscription) -> None:
        """Commit the finished prefix of each partition of this member."""
        told: list[Message] = []
        for cursor in self._read_by(member):
            if cursor.watermark.safe > cursor.committed:
                cursor.committed = cursor.watermark.safe
                told += self._logs.settle(cursor.log)
        if told:
            self._tell(told)

    def give_back(self, member: MemorySubscription, back: Sequence[MemoryDelivery]) -> None:
        """Nothing behind it is handed out before it came again, or its key would lose its order."""
        for delivery in back:
            cast("Cursor", delivery.origin).given_back = True

    def backlog(self) -> int:
        """What is not committed, over all partitions."""
        return sum(cursor.log.end - cursor.committed for cursor in self.cursors.values())

    async def settled(self) -> None:
        """Wait for the rebalance that the last member left behind."""
        if self._task is not None and not self.members:
            await end([self._task])

    @property
    def busy(self) -> bool:
        """Something waits, is held, or changes hands, and there is a member to do it."""
        return self._revoking or any(
            cursor.reader is not None and cursor.committed < cursor.log.end
            for cursor in self.cursors.values()
        )

    def _read_by(self, member: MemorySubscription) -> Iterator[Cursor]:
        return (cursor for cursor in self.cursors.values() if cursor.reader is member)

    def _rebalance_soon(self) -> None:
        self._changed = True
        if self._revoking:
            return
        if not any(member.open for member in self.members):
            self._assign()
            return
        self._revoking = True
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._revoke_all(), name=f"rebalance:{self.name}")
        self._task.add_done_callback(lambda _: self._assign())  # also if it never started

    async def _revoke_all(self) -> None:
        while self._changed:
            self._changed = False
            await self._revoke([member for member in self.members if member.open])

    async def _revoke(self, members: Sequence[MemorySubscription]) -> None:
        """Acks count while `on_lost` is awaited, until the deadline."""
        deadline = asyncio.get_running_loop().time() + self._logs.revoke_seconds
        lost = [(member, member.lose()) for member in members]
        telling = [member.tell_lost(held, deadline) for member, held in lost]
        if telling:
            _, late = await asyncio.wait(telling, timeout=self._logs.revoke_seconds)
            for task in late:
                task.cancel()
        for member, held in lost:
            member.forget(held)

    def _assign(self) -> None:
        for member in self.members:
            self.send(member)
        self._revoking = self._changed = False
        self.generation += 1
        for turn, cursor in enumerate(self.cursors.values()):
            topic = cursor.name.rpartition("/")[0]
            wanting = [member for member in self.members if topic in member.interest.topics]
            cursor.assign(wanting[turn % len(wanting)] if wanting else None, self.generation)
        for member in self.members:
            member.wake()


class LogStyle:
    """All topics and groups of a broker of this style."""

    def __init__(
        self,
        *,
        partitions: int,
        retain: int,
        usage: Usage,
        tell: Tell,
        random: random.Random,
        revoke_seconds: float = REVOKE_SECONDS,
    ) -> None:
        self.revoke_seconds = revoke_seconds
        self.groups: dict[str, LogGroup] = {}
        self._topics: dict[str, list[PartitionLog]] = {}
        self._cursors: dict[str, list[Cursor]] = {}  # by partition
        self._partitions = partitions
        self._retain = retain
        self._usage = usage
        self._tell = tell
        self._random = random
        self._unkeyed = 0
        self._number = 0

    def store(self, message: Message, malformed: str | None, again: bool) -> Sequence[Message]:
        """Append; answers what is handled by that, because no group is known that could."""
        logs = self._topics.get(message.topic) or self._create(message.topic)
        log = logs[self._index(message.key)]
        self._number += 1
        log.append(message, self._number, malformed, again)
        cursors = self._cursors[log.name]
        for cursor in cursors:
            reader = cursor.reader
            if reader is not None and reader.waiter is not None:
                reader.wake()
        if cursors:
            return ()
        told = log.settle(log.end)
        log.trim(log.end)
        return told

    def group(self, interest: Interest) -> LogGroup:
        """The group of that name, made if need be."""
        known = self.groups.get(interest.group)
        if known is None:
            known = self.groups[interest.group] = LogGroup(interest.group, self, self._tell)
        return known

    def know(self, interest: Interest) -> None:
        """From now on this group's acknowledgement counts for its topics."""
        group = self.group(interest)
        for topic in interest.topics:
            for log in self._topics.get(topic) or self._create(topic):
                if log.name not in group.cursors:
                    start = log.first if interest.start == "earliest" else log.end
                    cursor = Cursor(log, start)
                    group.cursors[log.name] = cursor
                    self._cursors[log.name].append(cursor)

    def settle(self, log: PartitionLog) -> list[Message]:
        """What every known group is done with and nobody was told of; trims the log."""
        safe = min(cursor.committed for cursor in self._cursors[log.name])
        told = log.settle(safe)
        log.trim(safe)
        return told

    def make_room(self) -> None:
        """Drop all that is handled, whatever the retention says."""
        for log in self._logs():
            cursors = self._cursors[log.name]
            log.trim(min((cursor.committed for cursor in cursors), default=log.end), all=True)

    def published(self, topic: str) -> list[Message]:
        """What the topic still keeps, in the order of publishing."""
        logs = self._topics.get(topic, [])
        pairs = sorted((pair for log in logs for pair in log.numbered()), key=lambda pair: pair[0])
        return [message for _, message in pairs]

    def committed(self, group: str) -> dict[str, int]:
        """The committed offset of each partition."""
        known = self.groups.get(group)
        return {name: at.committed for name, at in known.cursors.items()} if known else {}

    def _logs(self) -> Iterator[PartitionLog]:
        return (log for logs in self._topics.values() for log in logs)

    def _create(self, topic: str) -> list[PartitionLog]:
        logs = [
            PartitionLog(f"{topic}/{index}", self._usage, self._retain)
            for index in range(self._partitions)
        ]
        self._topics[topic] = logs
        self._cursors.update((log.name, []) for log in logs)
        return logs

    def _index(self, key: str | None) -> int:
        if key is not None:
            return crc32(key.encode()) % self._partitions
        if self._unkeyed % 100 == 0:  # as Kafka: stay for a while, then go elsewhere
            self._unkeyed = self._random.randrange(self._partitions) * 100 + 1
        else:
            self._unkeyed += 1
        return self._unkeyed // 100 % self._partitions
