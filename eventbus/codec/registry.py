"""Bytes to typed messages: the classes that reading knows, and the way from older versions."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from eventbus.codec.plan import SCHEMA, Plan, path_of, plan_of
from eventbus.codec.untyped import decode_untyped, place_of
from eventbus.errors import DecodeError, UnknownTypeError, WiringError
from eventbus.event import TypedMessage
from eventbus.message import Message
from eventbus.personal import (
    Opening,
    opened_in,
)
from eventbus.sealing import KeySource


class Registry:
    """The message classes that reading knows, by wire type; closed once the bus is built (B1)."""

    def __init__(self, classes: Iterable[type[TypedMessage]] = ()) -> None:
        self.keys: KeySource | None = None  # of personal data; without them they stay sealed
        self._plans: dict[str, Plan] = {}
        self.personal: set[str] = set()  # the types that have personal fields
        for cls in classes:
            self.add(cls)

    def add(self, cls: type[TypedMessage]) -> None:
        """Know a class; one without a wire type is passed over.

        Raises:
            WiringError: EB1202, `key=` names no field; EB1203, another class claims the type;
                EB1223, EB1224, EB1225, a personal field cannot be sealed as it is declared.
        """
        if cls.__wire__ is None:
            return
        plan = plan_of(cls)
        if plan.personal:
            self.personal.add(plan.wire.type)
        known = self._plans.setdefault(plan.wire.type, plan)
        if known.cls is not cls:
            raise WiringError(
                "EB1203",
                f"two message classes claim the type {plan.wire.type!r}",
                where=f"{path_of(known.cls)}, {path_of(cls)}",
                why="a type name on the wire must mean one class",
                next="rename one, or delete it and add an upcaster",
            )

    def get(self, type: str) -> type[TypedMessage] | None:
        """The class of a wire type, if it is known."""
        plan = self._plans.get(type)
        return None if plan is None else plan.cls

    def __contains__(self, type: str) -> bool:
        return type in self._plans

    @property
    def classes(self) -> tuple[type[TypedMessage], ...]:
        """All known classes, in the order in which they became known."""
        return tuple(plan.cls for plan in self._plans.values())

    async def openings(
        self, messages: Sequence[Message], tx: object | None = None
    ) -> Sequence[Opening | None]:
        """With what each is to be decoded; keys are read once for all, where any are needed.

        Args:
            messages: of any types.
            tx: the transaction that the caller holds, if it holds one.
        """
        if self.keys is None or not self.personal:
            return (None,) * len(messages)
        sealed = [one.payload for one in messages if one.type in self.personal]
        if not sealed:
            return (None,) * len(messages)
        keys = await self.keys.opening(sealed, tx)
        return [
            Opening(keys, one.tenant) if one.type in self.personal else None for one in messages
        ]

    def decode(self, message: Message, opening: Opening | None = None) -> TypedMessage:
        """The typed message of the current version; older ones go through the upcasters.

        Args:
            message: of a known type.
            opening: what `openings` answered; without it personal fields are `Sealed`.

        Raises:
            UnknownTypeError: EB3103, no class of this registry has the type.
            DecodeError: EB3101, no way leads from its version; EB3102, it does not validate.
            PersonalDataError: EB3114, EB3115, what is sealed cannot be opened.
        """
        plan = self._plans.get(message.type)
        if plan is None:
            raise UnknownTypeError(
                "EB3103",
                f"unknown type {message.type!r}",
                where=place_of(message),
                why="no class that was handed to the bus has it; types are never guessed",
                next="hand the class or its module to the bus, then redrive",
            )
        schema = message.headers.get("dataschema")
        try:
            if schema == plan.schema or (version := _version_of(schema)) == plan.wire.version:
                return plan.read(message.payload, context=opening)
            return plan.read(_upcasted(plan, version, message, opening), context=opening)
        except ValidationError as error:
            raise _does_not_validate(message, error) from None

    def current(self, type: str, version: int, payload: bytes) -> TypedMessage | None:
        """The typed message of a body of the current version, without its headers.

        None: ask `decode`, which knows the older ones and what is sealed, or says what is wrong.
        """
        plan = self._plans.get(type)
        if plan is None or plan.wire.version != version or type in self.personal:
            return None
        try:
            return plan.read(payload)
        except ValidationError:
            return None

    def validate(self, message: Message) -> None:
        """Raise what `decode` would raise; of a type that nobody knows only whether it is JSON."""
        if message.type in self:
            self.decode(message)
        else:
            decode_untyped(message)


def _version_of(schema: str | None) -> int:
    if schema is None or not schema.startswith(SCHEMA):
        return 1
    last = schema.rpartition(":")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 1


def _upcasted(plan: Plan, version: int, message: Message, opening: Opening | None) -> bytes:
    data: dict[str, Any] = dict(decode_untyped(message).data)
    if opening is not None:
        data = opened_in(data, opening)
    while version < plan.wire.version and version in plan.upcasters:
        try:
            data = plan.upcasters[version](data)
        except Exception as error:  # the author's function meets what it did not expect
            raise _upcaster_failed(message, version, error) from error
        version += 1
    if version != plan.wire.version:
        raise DecodeError(
            "EB3101",
            f"cannot decode {message.type} v{version} (this code knows v{plan.wire.version})",
            where=place_of(message),
            why=f"no upcaster leads from v{version}",
            next=f"it is quarantined, nothing is lost: deploy v{version} or an upcaster, redrive",
        )
    return orjson.dumps(data)


def _upcaster_failed(message: Message, version: int, error: Exception) -> DecodeError:
    return DecodeError(
        "EB3102",
        f"the upcaster of {message.type} from v{version} failed: {type(error).__name__}",
        where=place_of(message),
        why="the stored body is not what the upcaster expects",
        next="it is quarantined, nothing is lost: mend the upcaster, then redrive",
    )


def _does_not_validate(message: Message, error: ValidationError) -> DecodeError:
    """Paths and rules only: never a value (faults.md, security)."""
    found = [
        f"{'.'.join(str(part) for part in line['loc']) or 'body'}: {line['type']}"
        for line in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return DecodeError(
        "EB3102",
        f"{message.type} does not validate",
        where=place_of(message),
        why="; ".join(found[:5]) + ("; …" if len(found) > 5 else ""),
        next="it is quarantined, nothing is lost: mend the class or the message, then redrive",
    )
