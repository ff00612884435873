"""Which partition a key belongs to: as Java clients compute it (murmur2)."""

from collections.abc import Callable
from functools import cache
from struct import Struct

KEPT_KEYS = 20_000  # of a topic: 4 MiB


class Partitions:
    """How many partitions the topics have, and keys seen before."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._keys: dict[str, dict[bytes, int]] = {}
        self._turn = 0

    def __contains__(self, topic: str) -> bool:
        return topic in self._counts

    def learn(self, topic: str, count: int) -> None:
        """From now on the topic has so many."""
        if self._counts.get(topic) != count:
            self._counts[topic] = count
            self._keys[topic] = {}

    def forget(self, topic: str) -> None:
        """It may not exist any more."""
        self._counts.pop(topic, None)

    @property
    def counts(self) -> dict[str, int]:
        """Of each topic that is known."""
        return self._counts

    def next_unkeyed(self) -> int:
        """What has no key goes to one partition for a whole call, to the next one after it."""
        self._turn += 1
        return self._turn

    def of(self, topic: str, key: bytes | None, turn: int) -> int | None:
        """The partition; None: the topic is not known."""
        count = self._counts.get(topic)
        if count is None:
            return None
        if key is None:
            return turn % count
        kept = self._keys[topic]
        number = kept.get(key)
        if number is None:
            if len(kept) >= KEPT_KEYS:
                kept.clear()
            number = kept[key] = (murmur2(key) & 0x7FFFFFFF) % count
        return number


_MULTIPLIER, _WORD = 0x5BD1E995, 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """As Java clients and aiokafka compute it, which takes three times as long (measured)."""
    length = len(data)
    whole = length & ~3
    hashed = 0x9747B28C ^ length
    for word in _words(whole)(data):
        mixed = word * _MULTIPLIER & _WORD
        mixed = (mixed ^ (mixed >> 24)) * _MULTIPLIER & _WORD
        hashed = (hashed * _MULTIPLIER & _WORD) ^ mixed
    if whole != length:
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _WORD
    hashed = (hashed ^ (hashed >> 13)) * _MULTIPLIER & _WORD
    return hashed ^ (hashed >> 15)


@cache
def _words(size: int) -> Callable[[bytes], tuple[int, ...]]:
    return Struct(f"<{size // 4}I").unpack_from
