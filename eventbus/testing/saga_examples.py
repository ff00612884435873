"""Examples of message classes, for replies and events that nobody wrote down."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ValidationError

from eventbus.errors import WiringError
from eventbus.event import TypedMessage

M = TypeVar("M", bound=TypedMessage)

_VALUES: dict[Any, Any] = {
    str: "x",
    int: 1,
    float: 1.0,
    bool: False,
    bytes: b"x",
    Decimal: Decimal(1),
    UUID: UUID(int=1),
    datetime: datetime(2026, 1, 1, tzinfo=UTC),
    date: date(2026, 1, 1),
    timedelta: timedelta(seconds=1),
    Any: "x",
    NoneType: None,
}


class Examples:
    """One example per message class: those given, else made from the types of the fields."""

    def __init__(self, given: Iterable[TypedMessage] = ()) -> None:
        self._made: dict[type[TypedMessage], TypedMessage] = {type(each): each for each in given}

    def of(self, cls: type[M]) -> M:
        """The example of a class, always the same.

        Raises:
            WiringError: EB1231, none can be made from the types of its fields.
        """
        if cls not in self._made:
            self._made[cls] = _example(cls)
        made = self._made[cls]
        assert isinstance(made, cls)  # noqa: S101 - the table maps a class to its own instance
        return made


def _example(cls: type[M]) -> M:
    try:
        return cls.model_validate(_fields(cls))
    except (ValidationError, LookupError) as error:
        raise WiringError(
            "EB1231",
            f"no example of {cls.__name__} can be made",
            where=f"{cls.__module__}.{cls.__qualname__}",
            why=f"its fields ask for more than a type says: {error}",
            next=f"give one: examples=[{cls.__name__}(…)]",
        ) from None


def _fields(cls: type[BaseModel]) -> dict[str, Any]:
    return {
        field.alias or name: _value(field.annotation)
        for name, field in cls.model_fields.items()
        if field.is_required()
    }


def _value(kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return arguments[0]
    if origin in {Union, UnionType}:
        return None if NoneType in arguments else _value(arguments[0])
    if origin is dict:
        return {}
    if origin in {list, set, frozenset, tuple}:
        return (
            [_value(each) for each in arguments if each is not ...] if origin is tuple else origin()
        )
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _fields(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    return _VALUES[kind]
