"""The JSON schemas of a message class: what reading accepts, and what writing gives."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus.errors import WiringError

if TYPE_CHECKING:
    from eventbus.event import TypedMessage


def schemas_of(cls: "type[TypedMessage]") -> Mapping[str, Any]:
    """`reads` and `writes`, each with its own `$defs`; fields are named as on the wire.

    Raises:
        WiringError: EB1222, a field has no JSON schema.
    """
    from pydantic.errors import PydanticInvalidForJsonSchema

    config = cls.model_config
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    named = bool(config.get("serialize_by_alias"))
    try:
        return {
            "reads": cls.model_json_schema(by_alias=not by_name, mode="validation"),
            "writes": cls.model_json_schema(by_alias=named, mode="serialization"),
        }
    except PydanticInvalidForJsonSchema as error:
        raise WiringError(
            "EB1222",
            f"{cls.__qualname__} has no JSON schema",
            where=f"{cls.__module__}.{cls.__qualname__}",
            why=error.message.partition("\n")[0],
            next="take a type that pydantic can describe, or give it __get_pydantic_json_schema__",
        ) from error
