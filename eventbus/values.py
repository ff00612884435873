"""Frozen values that are made and copied by the thousand, in a third of the time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, cast

T = TypeVar("T")

_KEPT = object()  # a field that a copy does not change


def make_quickly(*classes: type[Any]) -> None:
    """Let frozen dataclasses with slots set their slots themselves when they are made.

    The initialiser that dataclasses write calls `object.__setattr__` for each field, by its name.
    Not for fields with `default_factory` or `init=False`, nor for a class with `__post_init__`.
    A function, for a decorator would hide from type checkers what a class is.
    """
    for cls in classes:
        made = _initialiser(cls)
        made.__annotations__ = cls.__init__.__annotations__
        made.__qualname__ = f"{cls.__qualname__}.__init__"
        cls.__init__ = made


def copier(cls: type[T]) -> Callable[..., T]:
    """`dataclasses.replace` of one frozen class with slots."""
    names = [one.name for one in _fields(cls)]
    body = [f"_set_{one}(other, _source.{one} if {one} is _kept else {one})" for one in names]
    return cast(
        "Callable[..., T]",
        _compiled(
            "copied",
            ["_source", "/", "*", *(f"{one}=_kept" for one in names)],
            ["other = _new(_cls)", *body, "return other"],
            {**_setters(cls), "_kept": _KEPT, "_new": object.__new__, "_cls": cls},
        ),
    )


def _initialiser(cls: type[Any]) -> Callable[..., Any]:
    known = _fields(cls)
    defaults = {f"_{one.name}": one.default for one in known if one.default is not MISSING}
    told = {one.name: f"{one.name}=_{one.name}" for one in known if f"_{one.name}" in defaults}
    by_place = [told.get(one.name, one.name) for one in known if not one.kw_only]
    by_name = [told.get(one.name, one.name) for one in known if one.kw_only]
    parameters = ["self", *by_place, *(["*", *by_name] if by_name else [])]
    body = [f"_set_{one.name}(self, {one.name})" for one in known]
    return _compiled("__init__", parameters, body, {**_setters(cls), **defaults})


def _fields(cls: type[Any]) -> Sequence[Field[Any]]:
    return fields(cls)


def _setters(cls: type[Any]) -> Mapping[str, Any]:
    return {f"_set_{one.name}": vars(cls)[one.name].__set__ for one in _fields(cls)}


def _compiled(
    name: str, parameters: Sequence[str], body: Sequence[str], given: Mapping[str, Any]
) -> Callable[..., Any]:
    """A function of this text, as dataclasses make theirs; it is made of names of fields alone."""
    lines = [f"def {name}({', '.join(parameters)}):", *(f"    {line}" for line in body)]
    found: dict[str, Any] = dict(given)
    exec("\n".join(lines), found)  # noqa: S102 - our own text
    return cast("Callable[..., Any]", found[name])
