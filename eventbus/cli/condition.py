"""`--where 'data.cents > 100 and type == "shop.order-placed"'`: parsed, never run."""

import ast
import operator
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from eventbus.cli.locate import called
from eventbus.errors import ConfigurationError

LONGEST = 1000  # characters
NAMES = (
    *("data", "type", "key", "stream", "version", "position", "id", "tenant"),
    *("correlation_id", "causation_id", "source", "schema_version", "recorded_at", "headers"),
)
_WORDS = {"true": True, "false": False, "null": None}
_ABSENT = object()

Row = Mapping[str, Any]
Condition = Callable[[Row], bool]
_Value = Callable[[Row], Any]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


def condition(text: str) -> Condition:
    """A condition on the row of an event.

    Comparisons of paths (`data.lines[0].sku`) with text, numbers, lists, `true`, `false`, `null`,
    by `== != < <= > >= in`, joined by `and`, `or`, `not`. What an event does not have equals
    `null` and compares with nothing else; kinds that have no order are not less or greater.

    Raises:
        ConfigurationError: EB8006, it is something else.
    """
    if len(text) > LONGEST:
        raise _refused(text[:20], f"it is longer than {LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(text, getattr(error, "msg", None) or "it cannot be parsed") from None
    return _condition(tree.body, text)


def _condition(node: ast.expr, text: str) -> Condition:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            parts = [_condition(value, text) for value in values]
            return lambda row: all(part(row) for part in parts)
        case ast.BoolOp(values=values):
            parts = [_condition(value, text) for value in values]
            return lambda row: any(part(row) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _condition(operand, text)
            return lambda row: not inner(row)
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_value(each, text) for each in (left, *others)]
            if any(type(op) not in _COMPARISONS for op in ops):
                raise _refused(text, "compare by == != < <= > >= in")
            compare = [_COMPARISONS[type(op)] for op in ops]
            return lambda row: _holds(compare, [side(row) for side in sides])
        case _:
            raise _refused(text, f"{ast.unparse(node)!r} is no comparison")


def _holds(compare: list[Callable[[Any, Any], bool]], values: list[Any]) -> bool:
    return all(
        _compared(how, values[at], values[at + 1], absent=_ABSENT) for at, how in enumerate(compare)
    )


def _compared(how: Callable[[Any, Any], bool], one: Any, other: Any, *, absent: object) -> bool:
    if how in {operator.eq, operator.ne}:
        one, other = (None if each is absent else each for each in (one, other))
    elif one is absent or other is absent:
        return False
    try:
        return bool(how(one, other))
    except TypeError:  # text is not less than a number
        return False


def _value(node: ast.expr, text: str) -> _Value:
    match node:
        case ast.Constant(value=str() | int() | float() as constant):
            return lambda _: constant
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return lambda _: -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            values = [_value(part, text) for part in parts]
            return lambda row: [value(row) for value in values]
        case ast.Name(id=name) if name in _WORDS:
            word = _WORDS[name]
            return lambda _: word
        case ast.Name(id=name):
            if name not in NAMES:
                raise _no_such(name, text)
            return lambda row: row.get(name, _ABSENT)
        case ast.Attribute(value=inner, attr=name):
            return _step(_value(inner, text), name)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as place)):
            return _step(_value(inner, text), place)
        case _:
            raise _refused(text, f"{ast.unparse(node)!r} is no value")


def _step(inner: _Value, place: str | int) -> _Value:
    def step(row: Row) -> Any:
        value = inner(row)
        if isinstance(value, Mapping):
            return value.get(place, _ABSENT)
        if isinstance(value, list) and isinstance(place, int) and place < len(value):
            return value[place]
        return _ABSENT

    return step


def _no_such(name: str, text: str) -> ConfigurationError:
    close = get_close_matches(name, NAMES, n=3, cutoff=0.6) or ["data"]
    return _refused(text, f"an event has no {name!r}; there is: {', '.join(NAMES)}", close)


def _refused(text: str, why: str, close: list[str] | None = None) -> ConfigurationError:
    meant = " | ".join(close or ())
    return ConfigurationError(
        "EB8006",
        f"the condition {text!r} cannot be understood",
        where=f"{called()} --where",
        why=why,
        next=meant or """--where 'data.cents > 100 and type == "shop.order-placed"'""",
    )
