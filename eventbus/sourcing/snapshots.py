"""How a state is written into a snapshot, and when one is due; never the truth."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Protocol, TypeVar, get_type_hints

import orjson
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from eventbus.errors import SourcingError
from eventbus.sourcing.decider import Decider

S = TypeVar("S")

Every = int | Callable[[Any, int], bool]
"""A snapshot is due every so many events (0: never), or by (state, events since the last)."""


class StateForm(Protocol[S]):
    """A state as bytes and back."""

    @property
    def hash(self) -> bytes:
        """Of the schema: what was written under another one is not read."""
        ...

    def write(self, state: S) -> bytes:
        """The bytes.

        Raises:
            SourcingError: EB4203, it would not come back as it is.
        """
        ...

    def read(self, state: bytes) -> S:
        """The state.

        Raises:
            ValueError: the bytes are none.
        """
        ...


class TypeForm:
    """The form of a type that pydantic knows: a model, a dataclass, a union of them, a number.

    Raises:
        SourcingError: EB4203, pydantic has no schema for it.
    """

    def __init__(self, kind: Any, owner: str) -> None:
        self._owner = owner
        self._adapter = adapter_of(kind, owner)
        schema = schema_of(self._adapter, owner)
        self.hash: bytes = sha256(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)).digest()

    def write(self, state: Any) -> bytes:
        """Checked by reading it again: a union, a float or a default may hide a loss."""
        written = written_by(self._adapter, state, self._owner)
        if not comes_back(self.read, written, state):
            raise not_kept(self._owner, "what was written reads as another state")
        return written

    def read(self, state: bytes) -> Any:
        """The state."""
        return self._adapter.validate_json(state)


def adapter_of(kind: Any, owner: str) -> TypeAdapter[Any]:
    """What pydantic makes of a type.

    Raises:
        SourcingError: EB4203.
    """
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise not_kept(owner, str(error).splitlines()[0]) from error


def schema_of(adapter: TypeAdapter[Any], owner: str) -> dict[str, Any]:
    """The JSON schema of what is written, the same in every process of the same code.

    Raises:
        SourcingError: EB4203.
    """
    try:
        return adapter.json_schema(mode="serialization")
    except PydanticInvalidForJsonSchema as error:
        raise not_kept(owner, str(error).splitlines()[0]) from error


def written_by(adapter: TypeAdapter[Any], state: Any, owner: str) -> bytes:
    """JSON.

    Raises:
        SourcingError: EB4203, the state is not of that type.
    """
    try:
        return adapter.dump_json(state, warnings="error")
    except ValueError as error:  # also what pydantic says of a value that does not fit
        raise not_kept(owner, "a value is not of the type that is declared") from error


def comes_back(read: Callable[[bytes], Any], written: bytes, state: object) -> bool:
    """Whether reading gives what was written."""
    try:
        return bool(read(written) == state)
    except ValueError:
        return False


def state_type(decider: Decider[Any, Any]) -> Any:
    """What `evolve` says it returns, else `initial`, else the type of the initial state."""
    for function in (decider.evolve, decider.initial):
        told = _returned(function)
        if told not in {None, Any, object} and not isinstance(told, TypeVar):
            return told
    return type(decider.initial())


def due_every(every: Every) -> Callable[[Any, int], bool]:
    """Whether a snapshot is due, by (state, events since the last)."""
    if callable(every):
        return every
    count = every
    return lambda _, since: 0 < count <= since


def not_kept(owner: str, why: str) -> SourcingError:
    """EB4203: a state that no snapshot can hold."""
    return SourcingError(
        "EB4203",
        f"the state of {owner} cannot be kept in a snapshot",
        where=owner,
        why=why,
        next="make it a pydantic model or a dataclass of plain fields, or say snapshot=0",
    )


def _returned(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function).get("return")
    except (NameError, TypeError):  # a name that only type checkers see
        return None
