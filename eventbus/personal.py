"""Personal data: fields marked in a class, sealed under a key of the person they are about (E4)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from eventbus.errors import PersonalDataError
from eventbus.sealing import (
    ERASED,
    HIDDEN,
    TOKEN,
    Key,
    Keys,
    Subject,
    changed,
    key_id_of,
    opened,
    seal,
)

_MARK = "eventbus_personal"  # in the core schema of a field


class Forgotten(str):
    """In the place of a value whose subject was forgotten: text, so nothing that reads it fails."""

    __slots__ = ()

    def __new__(cls) -> "Forgotten":
        """There is one text for all."""
        return super().__new__(cls, ERASED)

    def __repr__(self) -> str:
        return "Forgotten()"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """In a union beside the type of a field that is no text."""
        return core_schema.is_instance_schema(cls, serialization=core_schema.to_string_ser_schema())


FORGOTTEN: Forgotten = Forgotten()


class Sealed(str):
    """A value that is carried and not read: its keys are not at hand."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Sealed(…)"


class Writing(ABC):
    """Pydantic's context in which personal fields are written otherwise than in plain text."""

    def __init__(self) -> None:
        self.problem: PersonalDataError | None = None

    def fail(self, problem: PersonalDataError) -> str:
        """Remember it: pydantic would wrap what is raised inside."""
        self.problem = problem
        return ""

    @abstractmethod
    def written(self, subject: str, value: Any) -> str:
        """What stands in the place of the value."""


class Sealing(Writing):
    """Under the keys of their subjects."""

    def __init__(self, keys: Mapping[Subject, Key], tenant: str) -> None:
        super().__init__()
        self._keys = keys
        self._tenant = tenant

    def written(self, subject: str, value: Any) -> str:
        """The token; of whom is forgotten nothing is written any more."""
        key = self._keys.get(Subject(self._tenant, subject))
        if key is None:
            return self.fail(_no_key_at_hand(self._tenant))
        return seal(key, orjson.dumps(value))


class Collecting(Writing):
    """Not at all: it finds the subjects of what is to be sealed."""

    def __init__(self, tenant: str) -> None:
        super().__init__()
        self.subjects: dict[Subject, None] = {}
        self._tenant = tenant

    def written(self, subject: str, value: Any) -> str:
        """Nothing yet."""
        self.subjects[Subject(self._tenant, subject)] = None
        return ""


class Reading(Writing):
    """Not at all: it finds the texts that are in the clear."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def written(self, subject: str, value: Any) -> str:
        """Nothing."""
        self.texts.extend(_texts(value))
        return ""


class Opening:
    """Pydantic's context in which sealed fields are read.

    Args:
        keys: of everything that is sealed in the message.
        tenant: of the message.
    """

    def __init__(self, keys: Keys, tenant: str = "") -> None:
        self.texts: list[str] = []  # what was read: not to be told in failures
        self.used: dict[bytes, Key] = {}  # with which it was read
        self._keys = keys
        self._tenant = tenant

    def read(self, token: str, subject: object = None) -> Any:
        """The value; Forgotten if its key was destroyed.

        Args:
            token: as it was written.
            subject: whose it must be; None: nobody can tell.

        Raises:
            PersonalDataError: EB3115, there is no such key.
            PersonalDataError: EB3114, it was changed, or belongs to somebody else.
        """
        key = self._keys.get(key_id_of(token))
        if key is None:
            raise _no_such_key(token)
        if subject is not None and key.subject != (self._tenant, str(subject)):
            raise changed("it was sealed for another subject")
        plain = opened(key, token)
        if plain is None:
            return FORGOTTEN
        self.used[key.id] = key
        value = orjson.loads(plain)
        self.texts.extend(_texts(value))
        return value


@dataclass(frozen=True, slots=True)
class Personal:
    """Marks a field: `email: Annotated[str, Personal(subject="customer_id")]`.

    The field is text, or a union with `Forgotten`, which is what its readers get once the subject
    is forgotten.

    Args:
        subject: the field of the same class, declared before it, that says whom it is about.
    """

    subject: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """The schema of the field, around which values are sealed and opened."""
        inner = handler(source)
        return core_schema.with_info_wrap_validator_function(
            self._read,
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                self._write, is_field_serializer=True, info_arg=True, schema=inner
            ),
            metadata={_MARK: self.subject},
        )

    def _read(
        self, value: Any, handler: core_schema.ValidatorFunctionWrapHandler, info: Any
    ) -> Any:
        if not isinstance(value, str) or isinstance(value, Forgotten | Sealed):
            return value if isinstance(value, str) else handler(value)
        if value == ERASED:
            return FORGOTTEN
        if not TOKEN.fullmatch(value):
            return handler(value)
        if not isinstance(info.context, Opening):
            return Sealed(value)
        found = info.context.read(value, (info.data or {}).get(self.subject, ""))
        return found if isinstance(found, Forgotten) else handler(found)

    def _write(
        self, model: Any, value: Any, handler: core_schema.SerializerFunctionWrapHandler, info: Any
    ) -> Any:
        if isinstance(value, Forgotten | Sealed):
            return str(value)
        context = info.context
        if value is None or not isinstance(context, Writing):
            return handler(value)
        subject = getattr(model, self.subject, None)
        if subject is None or subject == "":
            return context.fail(_no_subject(type(model), info.field_name, self.subject))
        return context.written(str(subject), handler(value))


class Marked(NamedTuple):
    """A personal field of a class, or of one inside it."""

    owner: type
    name: str
    subject: str
    before: tuple[str, ...]  # the fields that are declared before it
    may_be_forgotten: bool


def marked_in(schema: Any) -> Iterator[Marked]:
    """The personal fields that a core schema has, at whatever depth."""
    if isinstance(schema, list | tuple):
        for each in schema:
            yield from marked_in(each)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "model":
        yield from _fields(schema)
    for name, each in schema.items():
        if name not in {"metadata", "serialization"}:
            yield from marked_in(each)


def _fields(model: Any) -> Iterator[Marked]:
    inner = model["schema"]
    while "fields" not in inner and "schema" in inner:
        inner = inner["schema"]
    before: list[str] = []
    for name, each in inner.get("fields", {}).items():
        mark = _mark_of(each)
        if mark is not None:
            subject = mark["metadata"][_MARK]
            fits = _may_be_forgotten(mark["schema"])
            yield Marked(model["cls"], name, subject, tuple(before), fits)
        before.append(name)


def _mark_of(schema: Any) -> Any:
    """The schema with the mark, inside what stands around it: defaults, validators."""
    while isinstance(schema, dict):
        if _MARK in (schema.get("metadata") or {}):
            return schema
        schema = schema.get("schema")
    return None


def _may_be_forgotten(schema: Any) -> bool:
    match schema:
        case {"type": "str"} | {"type": "any"}:
            return True
        case {"type": "is-instance", "cls": cls}:
            return cls is Forgotten
        case {"type": "union", "choices": choices}:
            return any(
                _may_be_forgotten(one[0] if isinstance(one, tuple) else one) for one in choices
            )
        case {"schema": inner, "type": kind} if kind not in {"list", "set", "frozenset", "model"}:
            return _may_be_forgotten(inner)
    return False


def opened_in(data: Any, opening: Opening) -> Any:
    """JSON of any shape with every token in it read; for upcasters, who want the values."""
    if isinstance(data, dict):
        return {name: opened_in(value, opening) for name, value in data.items()}
    if isinstance(data, list):
        return [opened_in(value, opening) for value in data]
    return opening.read(data) if isinstance(data, str) and TOKEN.fullmatch(data) else data


def without(text: str, texts: Iterable[str]) -> str:
    """A text without these texts: what failures say may quote them."""
    for each in sorted(texts, key=len, reverse=True):
        text = text.replace(each, HIDDEN)
    return text


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value that are long enough to be told from others."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str) and len(value) > 2:
        yield value


def _no_such_key(token: str) -> PersonalDataError:
    return PersonalDataError(
        "EB3115",
        "the key of personal data is not in this database",
        where=f"key {key_id_of(token).hex()}",
        why="it was sealed by a bus on another database, or the table of keys was lost",
        next="read it where its keys are; or restore subject_keys, then redrive",
    )


def _no_key_at_hand(tenant: str) -> PersonalDataError:
    return PersonalDataError(
        "EB3118",
        "personal data were to be written without a key at hand",
        where=f"tenant {tenant!r}",
        why="what writes here only passes sealed values on; it makes no keys",
        next="publish it by a unit of work, or let the values come with an event",
    )


def _no_subject(owner: type, name: str, subject: str) -> PersonalDataError:
    return PersonalDataError(
        "EB3117",
        f"{owner.__qualname__} has personal data and no subject",
        where=f"{owner.__module__}.{owner.__qualname__}.{name}",
        why=f"its field {subject!r} is empty: nobody could ever forget it",
        next="fill the field, or leave the personal one empty",
    )
