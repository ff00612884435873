"""A projection as it runs: what it reads, which row each event concerns, what its code is."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from hashlib import sha256
from types import ModuleType
from typing import Any
from zlib import crc32

from eventbus.errors import WiringError
from eventbus.event import Event
from eventbus.sourcing.folding import Change, Step
from eventbus.sourcing.projection import Declared, Fold, Projection, declared, is_recorded
from eventbus.sourcing.read_model import Key, Rows
from eventbus.storage.projections import Runs, live_of

MOST_LETTERS = 50  # of a table: with the number of a version it is still a name
_TABLE = re.compile(rf"[a-z_][a-z0-9_]{{0,{MOST_LETTERS - 1}}}")


class Definition:
    """One projection of a bus.

    Args:
        projection: a subclass of `FoldingProjection`, an instance of one, or a `Projection`.

    Raises:
        WiringError: EB1262, it cannot be made; EB1265, a general form that shall not follow.
    """

    def __init__(self, projection: object) -> None:
        self.folding: Declared | None = declared(projection)
        folding = self.folding
        self.cls: type = projection if isinstance(projection, type) else type(projection)
        self.general: Projection | None = None
        self.rows: Rows | None = None
        if folding is None:
            self.general = _general(projection)
            self.name: str = self.general.name
            self.version: int = getattr(projection, "version", 1)
            self.runs: Runs = "following"
            self.by_stream: bool = getattr(projection, "by_stream", False)
            self.shards: int = 1
            self.tables: tuple[str, ...] = _tables(projection)
            self.classes: tuple[type[Event], ...] = tuple(getattr(projection, "handles", ()))
        else:
            self.name, self.version = folding.name, folding.version
            self.runs, self.shards = folding.runs, folding.shards
            self.by_stream = folding.by_stream
            self.rows = folding.rows
            self.tables = (folding.rows.table.name,)
            self.classes = tuple(dict.fromkeys(one.what for one in folding.folds))
            self._of_several = frozenset(one.what for one in folding.folds if one.many)
            self._changes = _changes(_made(projection), folding, self._of_several)
        self.types: tuple[str, ...] = tuple(sorted({_type(one) for one in self.classes}))
        self.fingerprint: bytes = _fingerprint(self, folding)
        self.code_hash: bytes = _code_hash(self)

    @property
    def is_shared(self) -> bool:
        """Whether several may replay it, each a part of the streams."""
        return self.rows is not None or self.by_stream

    def steps(self, event: Event, place: int) -> Sequence[Step]:
        """What an event does to which rows.

        Raises:
            Exception: whatever a key function raises; `ValueError`, its answer is no key.
        """
        assert self.rows is not None  # noqa: S101 - asked of folding projections
        fitting, changes = self.rows.key, self._changes.get(type(event), ())
        if type(event) not in self._of_several:  # nearly all of them
            return [
                Step(fitting(key(event)), change, event, place, number)
                for number, (key, change) in enumerate(changes)
            ]
        return [
            Step(key, change, event, place, number)
            for number, (key, change) in enumerate(self.keyed(event))
        ]

    def keyed(self, event: Event) -> Sequence[tuple[Key, Change]]:
        """The same for who folds it at once: keys of rows, and what changes them.

        Raises:
            Exception: as `steps`.
        """
        assert self.rows is not None  # noqa: S101 - asked of folding projections
        kind, fitting = type(event), self.rows.key
        changes = self._changes.get(kind, ())
        if kind not in self._of_several:  # nearly all of them
            return [(fitting(key(event)), change) for key, change in changes]
        return [(fitting(key), change) for keys, change in changes for key in keys(event)]


def shard_of(text: str, shards: int) -> int:
    """Which shard a key belongs to, by its text."""
    return crc32(text.encode()) % shards


def definitions(projections: Sequence[object]) -> dict[str, Definition]:
    """By name.

    Raises:
        WiringError: EB1263, two have one name, or write one table.
    """
    found: dict[str, Definition] = {}
    tables: dict[str, str] = {}
    for projection in projections:
        one = Definition(projection)
        if one.name in found:
            raise _two(f"two projections are called {one.name!r}")
        found[one.name] = one
        for table in one.tables if one.runs != "live" else ():
            if table in tables:
                raise _two(f"projections {tables[table]!r} and {one.name!r} write table {table!r}")
            tables[table] = one.name
    return found


def projections_in(things: Iterable[object]) -> list[object]:
    """Those handed over, and those that handed-over modules define.

    An object of a class stands for the class, where a module has both.
    """
    found: dict[int, object] = {}
    for thing in things:
        members = vars(thing).values() if isinstance(thing, ModuleType) else (thing,)
        ours = [one for one in members if _is_of(one, thing) and is_projection(one)]
        made: set[type] = {type(one) for one in ours if not isinstance(one, type)}
        found |= {id(one): one for one in ours if one not in made}
    return list(found.values())


def _is_of(member: object, thing: object) -> bool:
    if not isinstance(thing, ModuleType):
        return True
    cls = member if isinstance(member, type) else type(member)
    return cls.__module__ == thing.__name__


def is_projection(thing: object) -> bool:
    """Whether something that was handed to the bus is a projection."""
    if declared(thing) is not None:
        return True
    return (
        not isinstance(thing, type)
        and isinstance(getattr(thing, "name", None), str)
        and inspect.iscoroutinefunction(getattr(thing, "apply", None))
    )


def _made(projection: object) -> object:
    if not isinstance(projection, type):
        return projection
    try:
        return projection()
    except TypeError as error:
        raise WiringError(
            "EB1262",
            f"{projection.__name__} cannot be made",
            where=f"class {projection.__module__}.{projection.__qualname__}",
            why=str(error),
            next=f"hand over an object: {projection.__name__}(…)",
        ) from None


def _general(projection: object) -> Projection:
    runs = getattr(projection, "runs", "following")
    if runs != "following":
        raise _only_follows(projection, runs)
    for one in getattr(projection, "handles", ()):
        if not is_recorded(one):
            raise _misdeclared(
                projection,
                f"handles {one!r}",
                why="only classes with a type stand in the log",
                how="handles = (OrderPlaced, …)",
            )
    return projection  # type: ignore[return-value]


def _tables(projection: object) -> tuple[str, ...]:
    tables = getattr(projection, "tables", ())
    fitting = not isinstance(tables, str) and all(
        isinstance(one, str) and _TABLE.fullmatch(one) and live_of(one) == one for one in tables
    )
    if not fitting:
        raise _misdeclared(
            projection,
            f"writes {tables!r}",
            why=f"names of tables are lower case, digits and _, at most {MOST_LETTERS} of them",
            how='tables = ("stock", "stock_moves")',
        )
    return tuple(tables)


def _misdeclared(projection: object, what: str, *, why: str, how: str) -> WiringError:
    cls = type(projection)
    return WiringError(
        "EB1262",
        f"{cls.__name__} {what}",
        where=f"class {cls.__module__}.{cls.__qualname__}",
        why=why,
        next=how,
    )


def _changes(
    instance: object, folding: Declared, of_several: Collection[type[Event]]
) -> dict[type, list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]]]:
    """By class, what answers the key of a row, or of several rows the keys; and the function."""
    found: dict[type, list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]]] = {}
    for one in folding.folds:
        key = partial(_keys, one) if one.what in of_several else one.key
        found.setdefault(one.what, []).append((key, getattr(instance, one.method)))
    return found


def _keys(fold: Fold, event: Event) -> Iterable[object]:
    """Each once."""
    answer = fold.key(event)
    if not fold.many:
        return (answer,)
    if isinstance(answer, str):  # its characters are no keys
        raise TypeError("keys= answered a str; it answers several keys, key= answers one")
    return dict.fromkeys(answer)


def _type(cls: type[Event]) -> str:
    assert cls.__wire__ is not None  # noqa: S101 - checked when it was declared
    return cls.__wire__.type


def _fingerprint(one: Definition, folding: Declared | None) -> bytes:
    """What rows that stand there depend on: types, keys, columns, and the version by hand."""
    parts = [one.name, str(one.version), *one.types]
    if one.runs == "inline":  # rows that followed stand at a position, and these at none
        parts.append("inline")
    if folding is not None:
        table = folding.rows.table
        parts += [table.name, *table.key]
        parts += [f"{name}: {kind!r}" for name, kind in table.columns.items()]
        parts += [source for fold in folding.folds for source in _key_sources(one, fold)]
    return sha256("\0".join(parts).encode()).digest()


def _code_hash(one: Definition) -> bytes:
    """Of everything that makes rows: a shadow of other code is not gone on with."""
    by_stream = ["by stream"] if one.by_stream else []  # its parts are others
    if one.folding is None:  # whatever `apply` may call
        names = [name for name, member in vars(one.cls).items() if inspect.isfunction(member)]
    else:
        names = [fold.method for fold in one.folding.folds]
    trees = [_tree(getattr(one.cls, name)) for name in names]
    sources = ["" if tree is None else ast.unparse(tree) for tree in trees]
    parts = [one.fingerprint.hex(), *by_stream, *names, *sources]
    return sha256("\0".join(parts).encode()).digest()


def _key_sources(one: Definition, fold: Fold) -> Iterable[str]:
    """How the key is written where it is declared, and the function that is named there."""
    yield f"{_type(fold.what)} {fold.method}"
    method = _tree(getattr(one.cls, fold.method))
    if method is not None:
        yield from (ast.unparse(decorator) for decorator in method.decorator_list)
    if getattr(fold.key, "__name__", "<lambda>") != "<lambda>":
        function = _tree(fold.key)
        yield fold.key.__name__ if function is None else ast.unparse(function)


def _tree(function: Any) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Parsed, so that neither lines nor comments nor layout matter."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or not a function
        return None
    first = tree.body[0] if tree.body else None
    return first if isinstance(first, ast.FunctionDef | ast.AsyncFunctionDef) else None


def _only_follows(projection: object, runs: object) -> WiringError:
    cls = type(projection)
    return WiringError(
        "EB1265",
        f"{cls.__name__} cannot run {runs}",
        where=f"class {cls.__module__}.{cls.__qualname__}",
        why="a projection of the general form writes by itself, behind the log",
        next='a FoldingProjection can run inline or live; else leave out runs=, or say "following"',
    )


def _two(what: str) -> WiringError:
    return WiringError(
        "EB1263",
        what,
        where="handlers= of EventBus",
        why="checkpoints, tables and commands are found by this name",
        next="give one of them another name, or leave it out",
    )
