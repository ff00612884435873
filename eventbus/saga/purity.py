"""What the code of a method says: whether it takes None, and what it uses that is not pure."""

import dis
import inspect
from collections.abc import Iterator
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    UnionType,
)
from typing import Any, Union, get_args, get_origin, get_type_hints

_MODULES = frozenset(
    [
        *("asyncio", "aiohttp", "httpx", "os", "random", "requests"),
        *("secrets", "socket", "subprocess", "time", "urllib"),
    ]
)
_OF_DATETIME = frozenset({"now", "utcnow", "today"})
_OF_UUID = frozenset({"uuid1", "uuid4", "uuid6", "uuid7"})
_BUILTINS = frozenset({"open", "input", "print"})


def accepts_none(function: Any, position: int) -> bool:
    """Whether the parameter at that place after `self` may be None."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if len(parameters) <= position:
        return False
    try:
        hint = get_type_hints(function).get(parameters[position].name, Any)
    except NameError:
        return True  # what cannot be read is left to the type checker
    if get_origin(hint) in {Union, UnionType}:
        return type(None) in get_args(hint)
    return hint in {Any, type(None), object}


def impurities(function: Any) -> list[str]:
    """Clocks, random numbers, awaits and I/O that the code names."""
    if inspect.iscoroutinefunction(function):
        return ["await"]
    if not isinstance(function, FunctionType):
        return []
    return list(dict.fromkeys(_used(function)))


def _used(function: FunctionType) -> Iterator[str]:
    for code in _codes(function.__code__):
        for name, attributes in _names(code):
            if name in _BUILTINS and name not in function.__globals__:
                yield name
            yield from _impure(function.__globals__.get(name), attributes)


def _names(code: CodeType) -> Iterator[tuple[str, list[str]]]:
    """Global names with the attributes that are read from them: `datetime.now`."""
    found: list[tuple[str, list[str]]] = []
    for each in dis.get_instructions(code):
        if each.opname in {"LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"}:
            found.append((str(each.argval), []))
        elif each.opname in {"LOAD_ATTR", "LOAD_METHOD"} and found:
            found[-1][1].append(str(each.argval))
    yield from found


def _impure(value: object, attributes: list[str]) -> Iterator[str]:
    if isinstance(value, ModuleType):
        module = value.__name__.partition(".")[0]
        bad = {"datetime": _OF_DATETIME, "uuid": _OF_UUID}.get(module, frozenset[str]())
        if module in _MODULES:
            yield module
        yield from (f"{module}.{name}" for name in attributes if name in bad)
    elif isinstance(value, type) and value.__module__ == "datetime":
        yield from (f"{value.__name__}.{name}" for name in attributes if name in _OF_DATETIME)
    elif isinstance(value, FunctionType | BuiltinFunctionType | MethodType):
        yield from _of_function(value)


def _of_function(value: FunctionType | BuiltinFunctionType | MethodType) -> Iterator[str]:
    module = (getattr(value, "__module__", None) or "").partition(".")[0]
    owner = type(getattr(value, "__self__", None)).__module__
    if owner == "random":  # `from random import choice` is a method of a hidden generator
        module = owner
    if module in _MODULES or (module == "uuid" and value.__name__ in _OF_UUID):
        yield f"{module}.{value.__name__}"


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
