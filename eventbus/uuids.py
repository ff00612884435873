"""UUIDs from text and from names, in half of the time that `uuid` takes for them."""

from functools import lru_cache
from hashlib import sha1
from typing import Any, cast
from uuid import UUID, SafeUUID

_TEXT = 36  # characters of the usual form
_UNKNOWN = SafeUUID.unknown  # a member of an enumeration, looked up

_set_int, _set_is_safe = (cast("Any", vars(UUID)[name]).__set__ for name in ("int", "is_safe"))


def uuid_of(text: str) -> UUID:
    """`UUID(text)`.

    Raises:
        ValueError: it is none.
    """
    digits = text.replace("-", "")
    if len(text) != _TEXT or len(digits) != 32:
        return UUID(text)  # a form that is seldom written, or none
    return _made(int(digits, 16))


@lru_cache(4096)
def uuid_met_again(text: str) -> UUID:
    """`uuid_of`, of what comes several times within a short while."""
    return uuid_of(text)


def uuid_of_name(namespace: UUID, name: str) -> UUID:
    """`uuid5(namespace, name)`."""
    digest = sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()
    number = int.from_bytes(digest[:16], "big")
    return _made(number & ~(0xF000 << 64 | 0xC000 << 48) | 5 << 76 | 0x8000 << 48)


def _made(number: int) -> UUID:
    made = object.__new__(UUID)
    _set_int(made, number)
    _set_is_safe(made, _UNKNOWN)
    return made
