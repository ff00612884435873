"""Values that are made and copied quickly are what dataclasses make of the same class."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import pytest

from eventbus.values import copier, make_quickly


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str = "a line"
    start: Point
    end: Point | None = None


SIGNATURES = {cls: inspect.signature(cls) for cls in (Point, Line)}
make_quickly(Point, Line)
VALUES = [
    (Point(1), {"x": 1, "y": 7}),
    (Point(1, y=2), {"x": 1, "y": 2}),
    (Line(start=Point(1)), {"name": "a line", "start": Point(1), "end": None}),
    (Line(start=Point(1), end=Point(2), name="b"), {"name": "b", "start": Point(1)}),
]


@pytest.mark.parametrize("cls", [Point, Line])
def test_it_is_made_with_the_same_arguments(cls: type[Any]) -> None:
    assert inspect.signature(cls) == SIGNATURES[cls]
    assert cls.__init__.__qualname__ == f"{cls.__name__}.__init__"


@pytest.mark.parametrize(("value", "fields"), VALUES)
def test_its_fields_are_what_was_given_or_their_defaults(
    value: Any, fields: dict[str, object]
) -> None:
    assert {name: getattr(value, name) for name in fields} == fields


@pytest.mark.parametrize("value", [value for value, _ in VALUES])
def test_it_can_be_pickled_and_copied_and_stays_frozen(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == copy.copy(value) == replace(value) == value
    with pytest.raises(FrozenInstanceError):
        setattr(value, value.__slots__[0], None)


def test_a_missing_argument_and_one_too_many_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Line\.__init__\(\) missing .* 'start'"):
        Line()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Line(Point(1), start=Point(1))  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        Point(1, z=2)  # type: ignore[call-arg]


def test_a_copy_differs_in_what_is_named_also_where_that_is_none() -> None:
    line = Line(start=Point(1), end=Point(2))
    copied = copier(Line)
    assert copied(line) == line
    assert copied(line, end=None) == replace(line, end=None)
    assert copied(line, name="b", start=Point(3)) == replace(line, name="b", start=Point(3))
    assert line == Line(start=Point(1), end=Point(2))


def test_a_copy_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        copier(Point)(Point(1), z=1)
