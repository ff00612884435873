"""Headers as schemas: the CloudEvents attributes of messages, and the extensions of ours."""

from typing import Any

from eventbus.asyncapi.flows import Kind
from eventbus.asyncapi.schemas import PLACE
from eventbus.event import Command, Reply

ATTRIBUTES, OF_COMMANDS, OF_ANSWERS = (
    "attributes",
    "attributes-of-commands",
    "attributes-of-answers",
)

_TEXT = {"type": "string"}
_COMMON = {
    "specversion": {"type": "string", "const": "1.0"},
    "id": {"type": "string", "minLength": 1, "description": "The same when delivered again."},
    "source": {"type": "string", "minLength": 1, "format": "uri-reference"},
    "type": {"type": "string", "minLength": 1},
    "time": {"type": "string", "format": "date-time"},
    "dataschema": {"type": "string", "format": "uri"},
    "subject": {"type": "string", "description": "Of an event of a stream: the stream."},
    "sequence": {"type": "string", "pattern": "^[0-9]{20}$", "description": "Its version there."},
    "partitionkey": {"type": "string", "description": "What it is ordered by."},
    "correlationid": {"type": "string", "maxLength": 200, "description": "Of the whole flow."},
    "causationid": {"type": "string", "maxLength": 200, "description": "What led to it."},
    "tenant": _TEXT,
    "traceparent": {"type": "string", "description": "W3C: where it was made."},
    "tracestate": _TEXT,
}
_REQUIRED = ("specversion", "id", "source", "type")
_COMMANDS = {
    "sagaid": {"type": "string", "format": "uuid", "description": "The key of every answer."},
    "sagatype": _TEXT,
    "sagadefversion": _TEXT,
    "sagastep": _TEXT,
    "sagaphase": {"type": "string", "enum": ["forward", "undo", "resolve"]},
    "sagaeffect": {"type": "string", "format": "uuid", "description": "Once, however often sent."},
    "sagatarget": {"type": "string", "format": "uuid"},
    "sagareplyto": {"type": "string", "description": "The topic of the answers."},
    "sagasince": {"type": "string", "format": "date-time"},
    "sagaexpires": _TEXT,
}
_ANSWERS = {
    "sagaid": {"type": "string", "format": "uuid"},
    "sagaeffect": {"type": "string", "format": "uuid"},
    "sagaoutcome": {
        "type": "string",
        "enum": ["succeeded", "rejected", "cancelled", "undone", "unknown"],
    },
}


def schemas_of_attributes(prefix: str) -> dict[str, Any]:
    """What the headers of all messages refer to."""
    return {
        ATTRIBUTES: {
            "type": "object",
            "description": "CloudEvents 1.0 in binary mode; more attributes may come.",
            "required": [f"{prefix}{name}" for name in _REQUIRED],
            "properties": _prefixed(prefix, _COMMON),
        },
        OF_COMMANDS: {"type": "object", "properties": _prefixed(prefix, _COMMANDS)},
        OF_ANSWERS: {"type": "object", "properties": _prefixed(prefix, _ANSWERS)},
    }


def headers_of(kind: Kind, prefix: str) -> dict[str, Any]:
    """Of one type: an object, as AsyncAPI demands, that adds what is fixed to what all have."""
    fixed: dict[str, Any] = {}
    if "*" not in kind.name:
        fixed["type"] = {"type": "string", "const": kind.name}
    wire = None if kind.cls is None else kind.cls.__wire__
    if wire is not None:
        name = f"urn:eventbus:schema:{wire.type}:{wire.version}"
        fixed["dataschema"] = {"type": "string", "examples": [name]}
    parts = [ATTRIBUTES]
    if kind.cls is not None and issubclass(kind.cls, Command):
        parts.append(OF_COMMANDS)
    if kind.name.startswith("eventbus.") or (kind.cls is not None and issubclass(kind.cls, Reply)):
        parts.append(OF_ANSWERS)
    return {
        "type": "object",
        "required": [f"{prefix}{name}" for name in _REQUIRED],
        "properties": _prefixed(prefix, fixed),
        "allOf": [{"$ref": f"{PLACE}{part}"} for part in parts],
    }


def _prefixed(prefix: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": schema for name, schema in attributes.items()}
