"""Schemas of messages, hoisted: inside a payload a `#/$defs/…` would not resolve."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from eventbus.codec import schemas_of
from eventbus.event import TypedMessage

Json = dict[str, Any]
PLACE = "#/components/schemas/"

_DATA = {"const", "enum", "default", "examples"}  # what stands there is no schema
_BY_NAME = {"properties", "patternProperties", "$defs", "dependentSchemas"}  # keys are the user's


def hoisted(
    key: str, cls: type[TypedMessage], mode: Literal["reads", "writes"]
) -> Iterable[tuple[str, Json]]:
    """The schema of a class under `key`, and what it is made of under `key.Name`.

    Raises:
        WiringError: EB1222, a field has no JSON schema.
    """
    schema = schemas_of(cls)[mode]
    yield key, cast("Json", _moved({k: v for k, v in schema.items() if k != "$defs"}, key))
    for name, part in schema.get("$defs", {}).items():
        yield f"{key}.{name}", cast("Json", _moved(part, key))


def _moved(schema: Any, key: str) -> Any:
    """With references into the document, and without pydantic's `discriminator`.

    That one is an object, as in OpenAPI; AsyncAPI takes a string there, and `oneOf` says it all.
    """
    if isinstance(schema, list):
        return [_moved(each, key) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    found: Json = {}
    for word, value in schema.items():
        if word == "$ref":
            found[word] = f"{PLACE}{key}.{value.rpartition('/')[2]}"
        elif word in _DATA:
            found[word] = value
        elif word in _BY_NAME:
            found[word] = {name: _moved(each, key) for name, each in value.items()}
        elif word != "discriminator":
            found[word] = _moved(value, key)
    return found
