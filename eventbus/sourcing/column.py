"""A column of a read model: what fits it, looked at value by value or for many rows at once."""

import math
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from pydantic import TypeAdapter

from eventbus.storage.projections import Kind, kind_of

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Column:
    """How values of one field go into the database."""

    def __init__(self, annotation: Any) -> None:
        self.kind: Kind
        self.kind, self._nullable = kind_of(annotation)
        self._python, self._fits = _PYTHON[self.kind], _FIT[self.kind]
        self._all_fit = _ALL_FIT.get(self.kind)
        self._plain: type = float if self.kind == "float" else self._python
        if self.kind == "json":
            self._fits = _json(annotation)

    def fit(self, value: Any) -> Any:
        """The value as it is stored.

        Raises:
            TypeError, ValueError: it does not fit; the text has no value in it.
        """
        if not isinstance(value, self._python):
            raise TypeError(f"{type(value).__name__} is no {self.kind}")
        return self._fits(value)

    def write(self, value: Any) -> Any:
        """The same, where a column without NOT NULL takes None."""
        if value is None and self._nullable:
            return None
        return self.fit(value)

    def are_plain(self, values: Sequence[Any]) -> bool:
        """Whether all are stored as they are; False: some do not fit, or are to be looked at."""
        if self._all_fit is None:
            return False
        if self._nullable:
            values = [one for one in values if one is not None]
        kinds = set(map(type, values))
        return all(issubclass(kind, self._plain) for kind in kinds) and self._all_fit(values)


def fitting_text(value: str) -> str:
    """Text that PostgreSQL takes.

    Raises:
        ValueError: it does not.
    """
    if "\0" in value:
        raise ValueError("text with NUL")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("text with a lone surrogate") from None
    return value


def _fitting_texts(values: Sequence[str]) -> bool:
    try:
        fitting_text("".join(values))
    except ValueError:
        return False
    return True


def _json(annotation: Any) -> Callable[[Any], Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def write(value: Any) -> Any:
        plain = adapter.dump_python(value, mode="json", warnings="error")
        if b"\\u0000" in orjson.dumps(plain):
            raise ValueError("text with NUL")
        return plain

    return write


def _any(value: Any) -> Any:
    return value


def _all(values: Sequence[Any]) -> bool:
    return True


def _fitting_int(value: int) -> int:
    if not _LOWEST <= value <= _HIGHEST:
        raise ValueError("a number of more than 64 bits")
    return value


def _fitting_ints(values: Sequence[int]) -> bool:
    return not values or (min(values) >= _LOWEST and max(values) <= _HIGHEST)


def _fitting_float(value: float) -> float:
    if value - value != 0:
        raise ValueError("a number that is not finite")
    return float(value)


def _fitting_decimal(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("a number that is not finite")
    if not -1000 < value.adjusted() < 1000:
        raise ValueError("a number of more than 1000 digits")
    return value


def _fitting_decimals(values: Sequence[Decimal]) -> bool:
    return all(one.is_finite() and -1000 < one.adjusted() < 1000 for one in values)


def _fitting_moment(value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise ValueError("a time without a zone")
    return value


def _fitting_moments(values: Sequence[datetime]) -> bool:
    return all(one.utcoffset() is not None for one in values)


def _fitting_date(value: date) -> date:
    if isinstance(value, datetime):
        raise TypeError("a time is no date")
    return value


_FIT: dict[Kind, Callable[[Any], Any]] = {
    "str": fitting_text,
    "int": _fitting_int,
    "float": _fitting_float,
    "bool": bool,
    "Decimal": _fitting_decimal,
    "UUID": _any,
    "date": _fitting_date,
    "datetime": _fitting_moment,
    "bytes": _any,
    "json": _any,
}
_ALL_FIT: dict[Kind, Callable[[Sequence[Any]], bool]] = {  # json is written another way
    "str": _fitting_texts,
    "int": _fitting_ints,
    "float": lambda values: all(map(math.isfinite, values)),
    "bool": _all,
    "Decimal": _fitting_decimals,
    "UUID": _all,
    "date": lambda values: not any(isinstance(one, datetime) for one in values),
    "datetime": _fitting_moments,
    "bytes": _all,
}
_PYTHON: dict[Kind, Any] = {
    "str": str,
    "int": int,
    "float": (float, int),
    "bool": bool,
    "Decimal": Decimal,
    "UUID": UUID,
    "date": date,
    "datetime": datetime,
    "bytes": bytes,
    "json": object,
}
