"""Which message classes the code of a method names: `Do` sits inside generators."""

from collections.abc import Callable, Iterable, Iterator
from inspect import getclosurevars, unwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

from eventbus.event import Command, TypedMessage, reply_of


def messages_named_by(functions: Iterable[Callable[..., Any]]) -> tuple[type[TypedMessage], ...]:
    """Message classes that the functions name, with the replies of their commands."""
    found: dict[type[TypedMessage], None] = {}
    for function in functions:
        for cls in named_by(function):
            found[cls] = None
            if issubclass(cls, Command):
                found.update(dict.fromkeys(answers_of(cls)))
    return tuple(cls for cls in found if cls.__wire__ is not None)


def answers_of(command: type[Command[Any]]) -> list[type[TypedMessage]]:
    """The reply that a command names, and its rejections."""
    reply = reply_of(command)
    return [*(() if reply is None else (reply,)), *command.__rejects__]


def named_by(function: Callable[..., Any]) -> Iterator[type[TypedMessage]]:
    """Message classes by their own name, or as attributes of modules and classes that are named."""
    plain = unwrap(function)
    if not isinstance(plain, FunctionType):
        return
    inside = getclosurevars(plain)
    names = {name for code in _codes(plain.__code__) for name in code.co_names}
    places: dict[str, Any] = {**inside.globals, **inside.nonlocals}
    places.update({n: plain.__globals__[n] for n in names if n in plain.__globals__})
    for value in [*places.values()]:
        if isinstance(value, ModuleType):
            places.update({name: getattr(value, name) for name in names if hasattr(value, name)})
    yield from dict.fromkeys(value for value in places.values() if _is_message(value))


def _is_message(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, TypedMessage)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
