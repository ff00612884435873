"""The attributes of an aggregate: which they are, how they begin, how a snapshot holds them."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from inspect import get_annotations
from typing import Any, ClassVar, Protocol, TypeVar, get_origin, get_type_hints

import orjson
from pydantic import TypeAdapter

from eventbus.sourcing.snapshots import adapter_of, comes_back, not_kept, schema_of, written_by

OURS = frozenset(["id", "version", "_changing", "_emitted"])


class Identified(Protocol):
    """What has attributes of its own, and an id."""

    id: str


A = TypeVar("A", bound=Identified)


def defaults_of(cls: type, root: type) -> Mapping[str, Any]:
    """What the class bodies below `root` give attributes to begin with; the nearest one wins."""
    return {
        name: value
        for base in _below(cls, root)
        for name, value in vars(base).items()
        if _is_state(name, value)
    }


def values_of(state: object) -> dict[str, Any]:
    """The attributes that are set."""
    return {name: value for name, value in vars(state).items() if name not in OURS}


class AttributesForm:
    """Those annotated or given a value in the class body, each in the form of its type.

    Raises:
        SourcingError: EB4203, one of them has no schema.
    """

    def __init__(self, cls: Any, root: type) -> None:
        self._cls = cls
        self._owner = f"{cls.__module__}.{cls.__qualname__}"
        kinds = _kinds(cls, root, self._owner)
        self._adapters = {name: adapter_of(kind, self._owner) for name, kind in kinds.items()}
        self.hash: bytes = self._hash()

    def write(self, state: Any) -> bytes:
        """Those that are set; checked by reading them again."""
        values = values_of(state)
        if undeclared := sorted(values.keys() - self._adapters.keys()):
            raise not_kept(self._owner, f"not declared in the class: {', '.join(undeclared)}")
        parts = {
            name: orjson.Fragment(written_by(self._adapters[name], value, self._owner))
            for name, value in values.items()
        }
        written = orjson.dumps([state.id, parts])
        if not comes_back(lambda written: values_of(self.read(written)), written, values):
            raise not_kept(self._owner, "what was written reads as another state")
        return written

    def read(self, state: bytes) -> Any:
        """A new object with these attributes."""
        identity, parts = orjson.loads(state)
        read = self._cls(identity)
        for name, part in parts.items():
            vars(read)[name] = _read(self._adapters[name], part)
        return read

    def _hash(self) -> bytes:
        schemas = {name: schema_of(kind, self._owner) for name, kind in self._adapters.items()}
        return sha256(orjson.dumps(schemas, option=orjson.OPT_SORT_KEYS)).digest()


def _read(adapter: TypeAdapter[Any], part: object) -> Any:
    """As JSON: what Python calls a list is a tuple or a set again."""
    return adapter.validate_json(orjson.dumps(part))


def _below(cls: type, root: type) -> Iterable[type]:
    return [base for base in reversed(cls.__mro__) if base not in root.__mro__]


def _is_state(name: str, value: object) -> bool:
    """No method, property or nested class."""
    return not (
        name in OURS
        or name.startswith("__")
        or isinstance(value, type)
        or hasattr(type(value), "__get__")
    )


def _kinds(cls: type, root: type, owner: str) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        name: type(value) for name, value in defaults_of(cls, root).items() if value is not None
    }
    try:
        hints = get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:
        raise not_kept(owner, f"an annotation cannot be read: {error}") from error
    for base in _below(cls, root):
        for name in get_annotations(base):
            if name not in OURS and get_origin(hints[name]) is not ClassVar:
                kinds[name] = hints[name]
    return kinds
