"""Rows of read models: pydantic models whose fields are the columns of a table."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from eventbus.errors import WiringError
from eventbus.sourcing.column import Column, fitting_text
from eventbus.storage.projections import Table, kind_of

Key = tuple[Any, ...]

_set = object.__setattr__  # a row refuses it by the usual way
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,49}")  # PostgreSQL cuts at 63, and __v1234567 follows
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class ReadModel(BaseModel):
    """A row: its fields are columns; the framework makes, rebuilds, compares, switches the table.

    Frozen: what changes a row answers with another one. Every field but the key has a default.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, allow_inf_nan=False)
    __named__: ClassVar[tuple[str, tuple[str, ...]] | None] = None
    __plain__: ClassVar[bool] = False  # nothing but its fields is to be copied

    def __init_subclass__(cls, *, table: str, key: str | Sequence[str], **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.__named__ = table, (key,) if isinstance(key, str) else tuple(key)

    @classmethod
    def __pydantic_init_subclass__(cls, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)
        cls.__plain__ = (
            cls.__copy__ is BaseModel.__copy__
            and not cls.__private_attributes__
            and cls.model_config.get("extra") != "allow"
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, in half the time: every event makes one."""
        if deep or not update or not self.__plain__:
            return super().model_copy(update=update, deep=deep)
        copied, names = object.__new__(type(self)), self.__pydantic_fields_set__
        _set(copied, "__dict__", {**self.__dict__, **update})
        if not names.issuperset(update):  # else shared: a row is frozen
            names = names | update.keys()
        _set(copied, "__pydantic_fields_set__", names)
        _set(copied, "__pydantic_extra__", None)
        _set(copied, "__pydantic_private__", None)
        return copied


class Rows:
    """How rows of one model go into their table, and come out of it."""

    def __init__(self, model: type[ReadModel]) -> None:
        self.model: type[ReadModel] = model
        self.table: Table = table_of(model)
        self._columns: dict[str, Column] = {
            name: Column(annotation) for name, annotation in self.table.columns.items()
        }
        self._key = [(name, self._columns[name]) for name in self.table.key]
        self._is_text = [column.kind for _, column in self._key] == ["str"]
        self._of_key: Callable[[ReadModel], Any] = attrgetter(*self.table.key)

    def key(self, value: object) -> Key:
        """What a key function answered, as the key of a row.

        Raises:
            ValueError, TypeError: it does not fit the columns of the key.
        """
        if type(value) is str and self._is_text:  # nearly all of them
            return (value if value.isascii() and "\0" not in value else fitting_text(value),)
        key: Key = (value,)
        if isinstance(value, tuple):
            key = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if len(key) != len(self._key):
            raise ValueError(f"a key of {len(key)} values, the table has {len(self._key)}")
        for (name, column), part in zip(self._key, key, strict=True):
            try:
                column.fit(part)
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from None
        return key

    def new(self, key: Key) -> ReadModel:
        """A row of the defaults."""
        return self.model.model_validate(dict(zip(self.table.key, key, strict=True)))

    def read(self, row: Mapping[str, Any]) -> ReadModel:
        """What the database gave."""
        return self.model.model_validate(dict(row), strict=False)

    def key_of(self, row: ReadModel) -> Key:
        """The key of a row."""
        found = self._of_key(row)
        return found if len(self._key) > 1 else (found,)

    def write(self, row: ReadModel) -> Mapping[str, Any]:
        """What the database takes.

        Raises:
            ValueError: a value does not fit its column; it names the column, not the value.
        """
        values = row.__dict__
        written: dict[str, Any] = {}
        for name, column in self._columns.items():
            try:
                written[name] = column.write(values[name])
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.table.name}.{name}: {error}") from None
        return written

    def write_all(self, rows: Sequence[ReadModel]) -> Sequence[Mapping[str, Any]]:
        """The same for many, looked at column by column: a tenth of the time.

        Raises:
            ValueError: a value of one of them does not fit.
        """
        values = [row.__dict__ for row in rows]
        if all(
            column.are_plain([one[name] for one in values])
            for name, column in self._columns.items()
        ):
            return values
        return [self.write(row) for row in rows]


def table_of(model: type[ReadModel]) -> Table:
    """The table of a read model.

    Raises:
        WiringError: EB1260, name, key or columns cannot be those of a table.
    """
    assert model.__named__ is not None  # noqa: S101 - every subclass has it
    name, key = model.__named__
    fields = model.model_fields
    if not _TABLE.fullmatch(name):
        raise _refused(model, f"{name!r} is no name of a table: lower case, at most 50 characters")
    if re.search(r"__v\d+$", name):
        raise _refused(model, f"{name!r} ends like the tables beside a rebuild")
    if not key or len(set(key)) != len(key) or any(part not in fields for part in key):
        raise _refused(model, f"key={key!r} are no fields; its fields are: {', '.join(fields)}")
    if len({field.lower() for field in fields}) < len(fields):
        raise _refused(model, "two fields differ in case only, and SQLite does not tell them apart")
    for field, info in fields.items():
        if not _COLUMN.fullmatch(field):
            raise _refused(model, f"{field!r} is no name of a column")
        kind, nullable = kind_of(info.annotation)
        if field in key and (nullable or kind in {"json", "float"}):
            raise _refused(
                model,
                f"{field} is part of the key: text, a number without fraction, a time, a UUID",
            )
        if field not in key and info.is_required():
            raise _refused(model, f"{field} has no default, and a new row is made of defaults")
    columns = {field: info.annotation for field, info in fields.items()}
    return Table(name=name, key=key, columns=columns)


def key_text(key: Key) -> str:
    """A key as text: what is parked under, and what a shard is chosen by."""
    if len(key) == 1:
        return _text(key[0])
    return "/".join(_text(part).replace("%", "%25").replace("/", "%2F") for part in key)


def _text(part: object) -> str:
    if isinstance(part, datetime):
        return part.astimezone(UTC).isoformat()
    if isinstance(part, date):
        return part.isoformat()
    if isinstance(part, bytes):
        return part.hex()
    if isinstance(part, str):
        return str.__str__(part)
    if isinstance(part, Decimal):
        return format(part.normalize(), "f")  # equal numbers, one text
    return str(part)


def _refused(model: type[ReadModel], why: str) -> WiringError:
    return WiringError(
        "EB1260",
        f"{model.__name__} cannot be a table",
        where=f"class {model.__module__}.{model.__qualname__}",
        why=why,
        next='class Revenue(ReadModel, table="revenue", key="country"), all other fields with a'
        " default",
    )
