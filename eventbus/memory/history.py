"""What a topic keeps: an append-only log with offsets, trimmed from its start."""

from array import array

from eventbus.message import Message


class Usage:
    """What all logs of a broker keep together: counted here, bounded by the broker."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages: int = 0
        self.bytes: int = 0  # of bodies


class PartitionLog:
    """Messages by offset. `handled` is the offset below which every known group is done."""

    __slots__ = (
        "_numbers",
        "_retain",
        "_slack",
        "_usage",
        "end",
        "first",
        "handled",
        "malformed",
        "messages",
        "name",
        "repeated",
    )

    def __init__(self, name: str, usage: Usage, retain: int) -> None:
        self.name: str = name
        self.messages: list[Message] = []
        self.malformed: dict[int, str] = {}  # by offset: why the envelope cannot be read
        self.repeated: set[int] = set()  # offsets of what another process may have handed out
        self.first: int = 0
        self.end: int = 0
        self.handled: int = 0
        self._numbers = array("q")  # place of each message among all of the broker
        self._usage = usage
        self._retain = retain
        self._slack = max(1, retain // 8)  # trimming moves the rest: not for each message

    def append(self, message: Message, number: int, malformed: str | None, again: bool) -> None:
        """Store a message at offset `end`."""
        if malformed is not None:
            self.malformed[self.end] = malformed
        if again:
            self.repeated.add(self.end)
        self.messages.append(message)
        self._numbers.append(number)
        self.end += 1
        self._usage.messages += 1
        self._usage.bytes += len(message.payload)

    def between(self, start: int, stop: int) -> list[Message]:
        """The messages at offsets from `start` up to, not including, `stop`."""
        return self.messages[start - self.first : stop - self.first]

    def numbered(self) -> list[tuple[int, Message]]:
        """What is kept, each with its place among all messages of the broker."""
        return list(zip(self._numbers, self.messages, strict=True))

    def settle(self, upto: int) -> list[Message]:
        """Every known group is done below `upto`: answers what was not told of yet."""
        if upto <= self.handled:
            return []
        told = self.between(self.handled, upto)
        self.handled = upto
        return told

    def trim(self, safe: int, *, all: bool = False) -> None:
        """Drop what lies below `safe` and exceeds the retention, or `all` of it."""
        stop = safe if all else min(safe, self.end - self._retain)
        if stop - self.first < (1 if all else self._slack):
            return
        dropped = self.between(self.first, stop)
        self._usage.messages -= len(dropped)
        self._usage.bytes -= sum(len(message.payload) for message in dropped)
        del self.messages[: len(dropped)], self._numbers[: len(dropped)]
        if self.malformed:
            self.malformed = {at: why for at, why in self.malformed.items() if at >= stop}
        if self.repeated:
            self.repeated = {at for at in self.repeated if at >= stop}
        self.first = stop


class Exchange(PartitionLog):
    """Style "queue": copies go to queues at once; this remembers for tests and for `on_handled`."""

    __slots__ = ("_pending",)

    def __init__(self, name: str, usage: Usage, retain: int) -> None:
        super().__init__(name, usage, retain)
        self._pending: dict[int, int] = {}  # by offset: in how many queues it is

    def copied(self, offset: int, queues: int) -> list[Message]:
        """So many queues got it; answers what is handled by that, in order."""
        if queues:
            self._pending[offset] = queues
            return []
        return self._settle_finished() if offset == self.handled else []

    def done(self, offset: int) -> list[Message]:
        """One queue less has it; answers what is handled by that, in order."""
        self._pending[offset] -= 1
        if self._pending[offset]:
            return []
        del self._pending[offset]
        return self._settle_finished() if offset == self.handled else []

    def _settle_finished(self) -> list[Message]:
        upto = self.handled
        while upto < self.end and upto not in self._pending:
            upto += 1
        told = self.settle(upto)
        self.trim(upto)
        return told
