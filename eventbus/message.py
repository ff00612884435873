"""Message: a typed message, encoded once; bytes and headers."""

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast
from uuid import NAMESPACE_URL, UUID

from eventbus.uuids import uuid_of, uuid_of_name

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Message:
    """The same value in store, outbox, broker and inbox."""

    id: str  # UUIDv7 text, or the foreign id as it came
    type: str  # "shop.order-placed", never a Python path
    source: str  # CloudEvents source: the service that says so
    topic: str
    payload: bytes
    key: str | None = None  # same key, same order; with a tenant "<tenant>/<key>"
    # further CloudEvents attributes, bare names; "native:<name>" is none
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    _identity: UUID | None = field(default=None, init=False, repr=False, compare=False)

    def __init__(
        self,
        *,
        id: str,
        type: str,
        source: str,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # The initialiser that dataclasses make for a frozen class takes twice as long (measured).
        _set_id(self, id)
        _set_type(self, type)
        _set_source(self, source)
        _set_topic(self, topic)
        _set_payload(self, payload)
        _set_key(self, key)
        _set_headers(self, {} if headers is None else headers)
        _set_identity(self, None)

    @property
    def identity(self) -> UUID:
        """What inbox and idempotency key go by, for foreign ids are unique per source only.

        The id itself if it is a UUID, else derived from source and id. Kept after the first call.
        """
        known = self._identity
        if known is None:
            known = identity_of(self.source, self.id)
            _set_identity(self, known)
        return known

    @property
    def tenant(self) -> str:
        """The header `tenant`, or empty."""
        return self.headers.get("tenant", "")


_set_id, _set_type, _set_source, _set_topic, _set_payload, _set_key, _set_headers, _set_identity = (
    cast("Any", vars(Message)[name]).__set__ for name in Message.__slots__
)


def identity_of(source: str, id: str) -> UUID:
    """A UUID for an id that is unique per source (CloudEvents 1.0, "id")."""
    try:
        return uuid_of(id)
    except ValueError:
        return uuid_of_name(NAMESPACE_URL, f"{source}\0{id}")


def sent_at(id: str) -> float | None:
    """When an id of ours was made, as `time.time()` says it; None: it is no UUID of version 7."""
    try:
        known = uuid_of(id)
    except ValueError:
        return None
    return made_at(known)


def made_at(identity: UUID) -> float | None:
    """The same of an identity: what is derived from a foreign id tells no time."""
    return (identity.int >> 80) / 1000 if identity.version == 7 else None


def own_key(message: Message) -> str:
    """The parking key of what has no order: chr(1) and the identity."""
    return f"\x01{message.identity}"


class _Ids:
    """UUIDv7 (RFC 9562 5.7): milliseconds, 26 random bits per millisecond, then a counter.

    The counter starts at random: ids rise within a process, and those of two never meet.
    """

    def __init__(self) -> None:
        self._reseed()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reseed)

    def _reseed(self) -> None:
        self._random = random.Random(os.urandom(32))  # noqa: S311 - ids are no secrets
        self._last = self._counter = 0
        self._prefix = ""

    def __call__(self) -> str:
        now = time.time_ns() // 1_000_000
        if now > self._last:
            self._last = now
            high, variant = self._random.getrandbits(12), 0x8000 | self._random.getrandbits(14)
            self._prefix = f"{now >> 16:08x}-{now & 0xFFFF:04x}-7{high:03x}-{variant:04x}-"
            self._counter = self._random.getrandbits(47)  # a bit of 48 is left for counting up
        else:
            self._counter += 1
        return f"{self._prefix}{self._counter:012x}"


new_id: _Ids = _Ids()
"""A new UUIDv7 as text: rising within a process, so ids sort by their time of making."""
