"""Copies of frozen values with some fields changed: what a transition does most."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


def copier(cls: type[T]) -> Callable[..., T]:
    """`dataclasses.replace` of one class with slots, in half the time (measured)."""
    fields = cast("Any", cls).__dataclass_fields__
    slots = [
        (name, slot.__get__, slot.__set__)
        for name, slot in ((name, vars(cls)[name]) for name in fields)
    ]

    def copied(one: T, **changes: Any) -> T:
        other = object.__new__(cls)
        for name, read, write in slots:
            write(other, changes[name] if name in changes else read(one))
        return other

    return copied
