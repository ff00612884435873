"""Versions and tables of read models: what following and rebuilding do to the database."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin
from uuid import UUID

from eventbus.errors import StorageError
from eventbus.storage.events import Position

Kind = Literal[
    "str", "int", "float", "bool", "Decimal", "UUID", "date", "datetime", "bytes", "json"
]
Status = Literal["building", "following", "active", "retired"]
Runs = Literal["following", "inline", "live"]

EXAMPLES = 10  # of a comparison
KEPT_RETIRED = timedelta(days=7)  # so long a version can be gone back to

_SHADOW = re.compile(r"__v\d+$")
_KINDS: dict[Any, Kind] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    Decimal: "Decimal",
    UUID: "UUID",
    date: "date",
    datetime: "datetime",
    bytes: "bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of rows by key; its further indexes are those of the live table."""

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, Any]  # name -> annotation, `str | None` too


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionVersion:
    """One built form of a projection; at most one of a name is active."""

    name: str
    version: int
    status: Status
    code_hash: bytes
    shards: int
    built_to: Position | None
    publishes_after: Position
    runs: Runs = "following"
    tables: tuple[str, ...] = ()  # live names: it is switched and dropped with them
    served: bool = False  # it was switched to or from; one that is building is being gone back to


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a switch would change."""

    equal: int
    differ: int
    new: int
    gone: int
    examples: Sequence[Mapping[str, Any]]  # kind, key, columns, of several tables which: no value


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is; made of the columns of a row, in this order."""

    phase: str
    done: int
    total: int
    rows: int
    rate: float  # done per second since the last beat
    running_seconds: float
    silent_seconds: float  # since the last beat


class Projections(Protocol):
    """The tables of read models, within a transaction."""

    async def versions(self, name: str) -> Sequence[ProjectionVersion]:
        """All of a name, the oldest first."""
        ...

    async def names(self) -> Sequence[str]:
        """Of all projections that this database knows."""
        ...

    async def create(self, version: ProjectionVersion, table: Table | None) -> bool:
        """The row, and the table with its primary key only; False: the version stood there.

        Without a table: a projection that writes by itself, into `version.tables`.

        Raises:
            StorageError: EB6003, a table of that name stands there.
        """
        ...

    async def drop(self, name: str, version: int) -> None:
        """Forget a version that is not active: row, table, checkpoints, marks, parked, progress."""
        ...

    async def built(self, name: str, version: int, *, to: Position) -> None:
        """Keep how far the scan of a version goes: once, before it begins."""
        ...

    async def states(
        self, table: Table, keys: Iterable[tuple[Any, ...]]
    ) -> Sequence[Mapping[str, Any]]:
        """The rows of these keys, as far as there are any; json columns as Python values."""
        ...

    async def write(
        self,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        gone: Sequence[tuple[Any, ...]] = (),
    ) -> None:
        """Insert or replace rows, delete keys: one statement each, in the order of keys."""
        ...

    async def enter(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, int]:
        """The active versions of inline projections, by name; one that never ran is left out.

        None of them is switched until the end of this transaction. Asked before each append: a
        savepoint that is rolled back gives it up.

        Raises:
            StorageError: EB5202, its rows are of other code.
        """
        ...

    async def claim(
        self, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """The rows of these keys as they stand, held until the end of this transaction.

        Those that are missing are made as given. Two transactions that claim one row take turns.
        """
        ...

    async def load(self, table: Table, rows: Iterable[Sequence[Any]]) -> int:
        """Copy rows, in the order of the columns, into a table that has none of these keys."""
        ...

    async def index(self, table: Table) -> None:
        """Give a shadow the live table's further indexes, and let the planner look at it."""
        ...

    async def compare(self, old: Table, new: Table, *, sample: int = 0) -> Difference:
        """Row by row; with `sample` only so many keys of the new one. At most 10 examples."""
        ...

    async def hold(self, name: str, *, inline: bool = False) -> Mapping[str, Position]:
        """Where all checkpoints of a projection stand; nobody moves one until the end of this.

        `inline`: nobody enters it either, and those who have entered have ended.

        Raises:
            StorageError: EB5007, one of them takes long; nothing is held.
        """
        ...

    async def cut(self) -> int:
        """How many streams of the log were truncated or tombstoned: what they lost is not there."""
        ...

    async def switch(self, name: str, *, to: int, back: bool = False) -> None:
        """Let version `to` be the active one: tables, rows, checkpoints.

        Of an inline version no position is compared: the caller holds it, at the end of the log.
        Who waits for a checkpoint of the old version fails afterwards; that of an old inline one
        tells from then on up to where its rows are. `back`: to a retired version
        where it stands; its effects begin where those of the other one ended.

        Raises:
            StorageError: EB6008, they do not stand at one position, or there is no such version.
                Nothing was changed.
        """
        ...

    async def revive(self, name: str, version: int) -> None:
        """Let a retired version be built on from where it stands, beside the active one.

        Raises:
            StorageError: EB6008, it is not retired.
        """
        ...

    async def audit(
        self, verb: str, name: str, *, actor: str, reason: str, told: Mapping[str, Any]
    ) -> None:
        """Keep who did what to a projection, and why, with this transaction."""
        ...

    async def progress(self, name: str, phase: str, *, done: int, total: int, rows: int) -> None:
        """Keep how far a rebuild is."""
        ...

    async def standing(self, name: str) -> Progress | None:
        """How far the last rebuild was at its last beat; None: there was none."""
        ...


def rows_of(name: str, version: int, *, scan: bool) -> list[tuple[str, str, str]]:
    """(table, column, prefix): what else stands in the database for a version that once served.

    Its number is never given again, so its leases may go, whose epochs would else begin anew.

    Args:
        name: of the projection.
        version: active, or retired.
        scan: only what its rebuild has left.
    """
    of_it = f"{name}@{version}/"
    rows = [
        ("checkpoints", "name", f"scan/{of_it}"),
        ("progress", "name", f"scan/{of_it}"),
        ("leases", "name", f"scan/{of_it}"),
    ]
    if not scan:
        rows += [
            ("checkpoints", "name", of_it),
            ("leases", "name", f"projection/{of_it}"),
            ("parked", "group_name", f"projection:{of_it}"),
            ("parked_keys", "group_name", f"projection:{of_it}"),
        ]
    return rows


def kind_of(annotation: Any) -> tuple[Kind, bool]:
    """How values of an annotation are stored, and whether None is one of them."""
    nullable = False
    if get_origin(annotation) in {Union, UnionType}:
        others = [one for one in get_args(annotation) if one is not NoneType]
        nullable = len(others) < len(get_args(annotation))
        annotation = others[0] if len(others) == 1 else Any
    return _KINDS.get(annotation, "json"), nullable


def live_of(table: str) -> str:
    """The name of the live table of a shadow."""
    return _SHADOW.sub("", table)


def one_position(name: str, standing: Mapping[str, int], prefixes: Sequence[str]) -> Position:
    """Where all checkpoints of two versions stand.

    Raises:
        StorageError: EB6008, at different positions, or one version has none.
    """
    for prefix in prefixes:
        if not any(one.startswith(prefix) for one in standing):
            raise not_at_one_position(name, f"{prefix.rstrip('/')} has no checkpoint")
    standing = {one: at for one, at in standing.items() if one.startswith(tuple(prefixes))}
    if len(set(standing.values())) != 1:
        places = ", ".join(f"{one} at {position}" for one, position in standing.items())
        raise not_at_one_position(name, f"they do not stand at one position: {places:.400}")
    return Position(next(iter(standing.values())))


def compared(prefixes: tuple[str, str], *, back: bool, inline: bool) -> Sequence[str]:
    """Whose checkpoints tell where a switch happens: of the old version, of the new one, or both.

    Back goes to where the old one stands; an inline version has no checkpoint that moves.
    """
    old, new = prefixes
    if inline:
        return (new,)
    return (old,) if back else (old, new)


def summed(found: Sequence[Difference], tables: Sequence[str]) -> Difference:
    """The difference of several tables together; then the examples say of which they are."""
    if len(found) == 1:
        return found[0]
    examples = [
        {**example, "table": table}
        for one, table in zip(found, tables, strict=True)
        for example in one.examples
    ]
    return Difference(
        equal=sum(one.equal for one in found),
        differ=sum(one.differ for one in found),
        new=sum(one.new for one in found),
        gone=sum(one.gone for one in found),
        examples=examples[:EXAMPLES],
    )


def not_at_one_position(name: str, why: str) -> StorageError:
    """EB6008: the error of a switch that is refused."""
    return StorageError(
        "EB6008",
        f"projection {name!r} is not switched",
        where="projections.switch",
        why=why,
        next="nothing was changed: let the new version catch up with the old one, then again",
    )


def of_other_code(name: str, version: int) -> StorageError:
    """EB5202: the rows of an inline projection are of other code."""
    return StorageError(
        "EB5202",
        f"version {version} of projection {name!r} does not fit this code",
        where="an append whose events it projects inline",
        why="types, keys or columns are others: its rows would be wrong, so nothing was recorded",
        next=f"eventbus projection rebuild {name} APP, with this code",
    )


def table_is_there(table: str) -> StorageError:
    """EB6003: the error of a table that is not ours."""
    return StorageError(
        "EB6003",
        f"a table {table!r} stands there already",
        where="projections.create",
        why="a projection makes its table itself, and writes over nobody else's",
        next="give the read model another table, or drop that one if nobody needs it",
    )


def beside(table: str, version: int) -> str:
    """The name of a live table beside it, for a version that does not serve."""
    return f"{table}__v{version}"


def shadow_of(table: Table, version: int) -> Table:
    """The table beside the live one in which a version is built."""
    return Table(name=beside(table.name, version), key=table.key, columns=table.columns)
