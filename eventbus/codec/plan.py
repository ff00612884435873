"""How a class goes over the wire: worked out once, and what is wrong with it said."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from eventbus.errors import WiringError
from eventbus.event import TypedMessage, Wire, upcasters
from eventbus.personal import (
    Collecting,
    Marked,
    Reading,
    Writing,
    marked_in,
)
from eventbus.sealing import Subject

SCHEMA = "urn:eventbus:schema:"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is worked out once per class: how it is written, read and named."""

    cls: type[TypedMessage]
    wire: Wire
    schema: str
    write: Callable[..., bytes]
    read: Callable[..., TypedMessage]
    upcasters: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
    personal: bool  # whether a field of it, or of what it is made of, is sealed


def plan_of(cls: type[TypedMessage]) -> Plan:
    """How a class goes over the wire; worked out once.

    Raises:
        WiringError: EB1201, the class has no wire type; EB1202, `key=` names no field.
    """
    plan: Plan | None = cls.__dict__.get("__plan__")
    if plan is None:
        plan = _plan(cls)
        cls.__plan__ = plan  # type: ignore[attr-defined]  # a class attribute that pydantic does not see
    return plan


def _plan(cls: type[TypedMessage]) -> Plan:
    wire = cls.__wire__
    if wire is None:
        raise WiringError(
            "EB1201",
            f"{cls.__qualname__} has no wire type",
            where=path_of(cls),
            why="a class without type= is a base class and cannot travel",
            next=f'class {cls.__name__}(…, type="context.fact")',
        )
    if wire.key is not None and wire.key not in cls.model_fields:
        raise WiringError(
            "EB1202",
            f"key={wire.key!r} of {wire.type!r} names no field",
            where=path_of(cls),
            why=f"its fields are: {', '.join(cls.model_fields) or 'none'}",
            next="name a field, or leave key= out if order does not matter",
        )
    adapter = TypeAdapter(cls)
    serializer = adapter.serializer
    marked = list(marked_in(adapter.core_schema))
    for each in marked:
        _check_mark(each, wire)
    return Plan(
        cls=cls,
        wire=wire,
        schema=f"{SCHEMA}{wire.type}:{wire.version}",
        write=serializer.to_json,
        read=adapter.validator.validate_json,
        upcasters=upcasters(cls),
        personal=bool(marked),
    )


def _check_mark(marked: Marked, wire: Wire) -> None:
    where = f"{path_of(marked.owner)}.{marked.name}"
    if marked.subject not in marked.before:
        raise WiringError(
            "EB1223",
            f"Personal(subject={marked.subject!r}) names no field before {marked.name!r}",
            where=where,
            why="the subject says under whose key it is sealed, and is read first",
            next="name a field of the same class, and declare it above the personal one",
        )
    if not marked.may_be_forgotten:
        raise WiringError(
            "EB1224",
            f"personal field {marked.name!r} cannot hold what is left of a forgotten one",
            where=where,
            why="its readers get Forgotten, which is text, and its type takes no text",
            next="make it str, or a union with Forgotten: Annotated[date | Forgotten, Personal(…)]",
        )
    if marked.name == wire.key and _is_of(marked.owner, wire):
        raise WiringError(
            "EB1225",
            f"key={wire.key!r} of {wire.type!r} is a personal field",
            where=where,
            why="keys travel in the clear, and stand in inbox, outbox and logs",
            next="take an id that says nothing about the person",
        )


def _is_of(owner: type, wire: Wire) -> bool:
    return issubclass(owner, TypedMessage) and owner.__wire__ == wire


def is_personal(what: object) -> bool:
    """Whether it has personal fields: then its keys are needed before it is encoded."""
    return (
        isinstance(what, TypedMessage)
        and what.__wire__ is not None
        and (type(what).__dict__.get("__plan__") or plan_of(type(what))).personal
    )


def subjects_of(what: TypedMessage, tenant: str) -> Mapping[Subject, None]:
    """Whose keys are needed to encode it.

    Raises:
        PersonalDataError: EB3117, a personal field is filled, and its subject is not.
    """
    collecting = Collecting(tenant)
    written(plan_of(type(what)), what, collecting)
    return collecting.subjects


def personal_texts(whats: Iterable[object]) -> Sequence[str]:
    """Personal data that stand in messages in the clear: what is said of a failure hides them."""
    reading = Reading()
    for what in whats:
        if isinstance(what, TypedMessage) and is_personal(what):
            plan_of(type(what)).write(what, context=reading)
    return reading.texts


def written(plan: Plan, what: TypedMessage, context: Writing) -> bytes:
    """The body of what has personal fields.

    Raises:
        PersonalDataError: EB3117, EB3118, one of them cannot be sealed.
    """
    payload = plan.write(what, context=context)
    if context.problem is not None:
        raise context.problem
    return payload


def path_of(cls: type) -> str:
    """Where a class stands, for messages to people."""
    return f"{cls.__module__}.{cls.__qualname__}"
