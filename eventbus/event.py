"""What users declare: events, commands, replies.

A command is not an event: one verb publishes, another sends.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from eventbus.errors import WiringError
from eventbus.personal import Forgotten, Personal, Sealed
from eventbus.sealing import HIDDEN

_NAME = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What a message class is called on the wire (B1)."""

    type: str
    version: int
    key: str | None
    topic: str


class TypedMessage(BaseModel):
    """Frozen.

    Class keywords name it on the wire; `topic` defaults to the context, the part before the first
    dot.

    A class without `type` is no wire type: a base class to subscribe to, or a parametrised generic
    (`Command[CardCharged]`).

    Raises:
        WiringError: EB1201, the type is not of the form `context.fact`, or another keyword comes
            without it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, allow_inf_nan=False)
    __wire__: ClassVar[Wire | None] = None

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,
        version: int = 1,
        key: str | None = None,
        topic: str | None = None,
        **config: Any,
    ) -> None:
        super().__init_subclass__(**config)
        cls.__wire__ = None if type is None else _wire(cls.__qualname__, type, version, key, topic)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Without personal data: a message stands in logs, failures and debuggers."""
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            field = fields.get(name or "")
            marked = field is not None and any(isinstance(one, Personal) for one in field.metadata)
            yield name, HIDDEN if marked and _is_plain(value) else value


def _is_plain(value: object) -> bool:
    return value is not None and not isinstance(value, Forgotten | Sealed)


def _wire(name: str, type: str, version: int, key: str | None, topic: str | None) -> Wire:
    if not _NAME.fullmatch(type):
        raise WiringError(
            "EB1201",
            f"{type!r} is no wire type",
            where=f"class {name}",
            why="a type reads context.fact: lower case, digits and hyphens, at least one dot",
            next="name it like 'shop.order-placed'",
        )
    if version < 1:
        raise WiringError(
            "EB1201",
            f"version {version} of {type!r} is no version",
            where=f"class {name}",
            why="versions count from 1",
            next="leave version= out, or count up",
        )
    return Wire(type=type, version=version, key=key, topic=topic or type.partition(".")[0])


class Event(TypedMessage):
    """A fact. Any number of groups may subscribe."""


class Reply(TypedMessage):
    """The answer to a command."""


class Rejection(Reply):
    """No effect happened and none will."""


class Undone(Reply, type="eventbus.undone"):
    """The reply of every command that undoes."""


R = TypeVar("R", bound=Reply)
Raw = TypeVar("Raw", bound=Callable[[dict[str, Any]], dict[str, Any]])


class Command(TypedMessage, Generic[R]):
    """A request that names its reply.

    Exactly one group handles it, checked when the bus is built.
    """

    __rejects__: ClassVar[tuple[type[Rejection], ...]] = ()

    def __init_subclass__(
        cls, *, rejects: tuple[type[Rejection], ...] = (), **keywords: Any
    ) -> None:
        super().__init_subclass__(**keywords)
        cls.__rejects__ = rejects


def reply_of(command: type[Command[Any]]) -> type[Reply] | None:
    """The reply that `class ChargeCard(Command[CardCharged], …)` names."""
    for base in command.__mro__:
        arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
        if arguments and isinstance(arguments[0], type) and issubclass(arguments[0], Reply):
            return arguments[0]
    return None


def upcast(version: int) -> Callable[[Raw], Raw]:
    """Mark a static method of a message class: that version's dict -> the next one's.

    Chained until the current version is reached; it must not change its argument's meaning
    elsewhere (pure).
    """

    def mark(function: Raw) -> Raw:
        function.__upcast__ = version  # type: ignore[attr-defined]
        return function

    return mark


def upcasters(cls: type[TypedMessage]) -> dict[int, Callable[[dict[str, Any]], dict[str, Any]]]:
    """The upcasters of a class by the version they start from."""
    return {
        function.__upcast__: function
        for base in reversed(cls.__mro__)
        for member in vars(base).values()
        if hasattr(function := _marked(member), "__upcast__")
    }


def _marked(member: Any) -> Any:
    """The function that carries the mark: `@upcast` may stand above or below `@staticmethod`."""
    function = getattr(member, "__func__", member)
    if hasattr(member, "__upcast__") and function is not member:
        function.__upcast__ = member.__upcast__
    return function


@dataclass(frozen=True, slots=True)
class Untyped:
    """What a handler of a name or a wildcard gets."""

    type: str
    data: Mapping[str, Any]
