"""Whether one JSON schema reads what another one writes; pure, and on the careful side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

Json = Mapping[str, Any]
Kind = Literal["absent", "unknown", "narrowed"]

_NOTES = {"title", "description", "default", "examples", "deprecated", "discriminator", "$defs"}
_APART = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"} | {
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
}
_AT_LEAST = ("minLength", "minItems", "minProperties")
_AT_MOST = ("maxLength", "maxItems", "maxProperties")
_LIMITS = {*_AT_LEAST, *_AT_MOST, "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that a reader does not accept of a writer."""

    kind: Kind  # a needed field may be absent; a strict reader meets an unknown one; a value
    path: str
    why: str


def breaks(reader: Json, writer: Json) -> list[Break]:
    """What `reader` would refuse of what `writer` allows, by field; empty if it reads everything.

    Keywords that it does not know count as narrowed where they differ: it may refuse what would
    go well, and never passes what would not.

    Args:
        reader: JSON schema as pydantic writes it, mode "validation".
        writer: the same of the other side, mode "serialization".
    """
    return list(_Comparison(reader, writer).of(reader, writer, ""))


class _Comparison:
    """Two documents, each with its own `$defs`; a pair under way counts as equal (recursion)."""

    def __init__(self, reader: Json, writer: Json) -> None:
        self._reader_defs: Json = reader.get("$defs", {})
        self._writer_defs: Json = writer.get("$defs", {})
        self._open: list[tuple[Json, Json]] = []

    def of(self, reader: Json, writer: Json, path: str) -> Iterator[Break]:
        reader = _resolved(reader, self._reader_defs)
        writer = _resolved(writer, self._writer_defs)
        if (reader, writer) in self._open or not reader.keys() - _NOTES:
            return
        self._open.append((reader, writer))
        try:
            yield from self._alternatives(reader, writer, path)
        finally:
            self._open.pop()

    def _alternatives(self, reader: Json, writer: Json, path: str) -> Iterator[Break]:
        readers, writers = _alternatives(reader), _alternatives(writer)
        if len(readers) == 1 and len(writers) == 1:
            yield from self._plain(readers[0], writers[0], path)
            return
        for one in writers:
            found = [list(self.of(each, one, path)) for each in readers]
            if all(found):
                narrowed = Break("narrowed", path, f"{_named(one)} is not read any more")
                yield from found[0] if len(found) == 1 else [narrowed]

    def _plain(self, reader: Json, writer: Json, path: str) -> Iterator[Break]:
        wrong = [rule for rule in (_type, _values, _limits, _rest) if rule(reader, writer)]
        for rule in wrong[:1]:
            yield Break("narrowed", path, rule(reader, writer))
        if wrong:
            return
        yield from self._fields(reader, writer, path)
        yield from self._items(reader, writer, path)

    def _fields(self, reader: Json, writer: Json, path: str) -> Iterator[Break]:
        known: Json = reader.get("properties", {})
        written: Json = writer.get("properties", {})
        others = reader.get("additionalProperties", True)
        values = _schema(others)
        for name in reader.get("required", ()):
            if name not in writer.get("required", ()):
                rarely = "is not always written" if name in written else "is not written"
                yield Break("absent", _at(path, name), f"it is required, and {rarely}")
        for name, value in written.items():
            where = _at(path, name)
            if name in known:
                yield from self.of(known[name], value, where)
            elif others is False:
                yield Break("unknown", where, "the reader is strict and does not know it")
            elif values is not None:
                yield from self.of(values, value, where)
        more = writer.get("additionalProperties", False)
        if values is not None and more is not False:
            yield from self.of(values, _schema(more) or {}, _at(path, "*"))
        elif others is False and more is not False:
            yield Break("unknown", _at(path, "*"), "the reader is strict, any field is written")

    def _items(self, reader: Json, writer: Json, path: str) -> Iterator[Break]:
        first: list[Json] = reader.get("prefixItems", [])
        other: list[Json] = writer.get("prefixItems", [])
        if len(first) != len(other):
            yield Break("narrowed", path, "the number of places of a tuple changed")
            return
        for place, (read, written) in enumerate(zip(first, other, strict=True)):
            yield from self.of(read, written, _at(path, str(place)))
        items = _schema(reader.get("items"))
        if items is not None:
            yield from self.of(items, _schema(writer.get("items")) or {}, f"{path}[]")


def _schema(value: Any) -> Json | None:
    """A schema that is not just true or false."""
    return cast("Json", value) if isinstance(value, Mapping) else None


def _resolved(schema: Json, definitions: Json) -> Json:
    while True:
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
        elif len(schema.get("allOf", ())) == 1:
            schema = schema["allOf"][0]
        else:
            return schema


def _alternatives(schema: Json) -> list[Json]:
    found: list[Json] = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return found or [schema]


def _type(reader: Json, writer: Json) -> str:
    wanted, given = _types(reader), _types(writer)
    if "number" in wanted:
        wanted = wanted | {"integer"}
    if wanted and not (given and given <= wanted):
        return f"{_named(writer)} became {_named(reader)}"
    return ""


def _types(schema: Json) -> set[str]:
    value = schema.get("type", ())
    return {value} if isinstance(value, str) else set(value)


def _values(reader: Json, writer: Json) -> str:
    allowed, given = _listed(reader), _listed(writer)
    if allowed is None:
        return ""
    if given is None:
        return "only certain values are read any more"
    gone = [value for value in given if value not in allowed]
    return f"{len(gone)} of {len(given)} values are not read any more" if gone else ""


def _listed(schema: Json) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def _limits(reader: Json, writer: Json) -> str:
    lower, upper = _bound(reader, "minimum", 1), _bound(reader, "maximum", -1)
    given_lower, given_upper = _bound(writer, "minimum", 1), _bound(writer, "maximum", -1)
    if lower is not None and (given_lower is None or given_lower < lower):
        return "the lower bound rose"
    if upper is not None and (given_upper is None or given_upper < upper):
        return "the upper bound fell"
    for names, tighter in ((_AT_LEAST, _greater), (_AT_MOST, _less)):
        for name in names:
            if name in reader and (name not in writer or tighter(reader[name], writer[name])):
                return f"{name} is tighter"
    return ""


def _bound(schema: Json, name: str, sign: int) -> tuple[float, bool] | None:
    """Comparable: of two bounds the greater one is the tighter."""
    exclusive = f"exclusive{name.capitalize()}"
    found = [(sign * schema[name], False)] if name in schema else []
    found += [(sign * schema[exclusive], True)] if exclusive in schema else []
    return max(found, default=None)


def _greater(one: float, other: float) -> bool:
    return one > other


def _less(one: float, other: float) -> bool:
    return one < other


def _rest(reader: Json, writer: Json) -> str:
    for name in sorted(reader.keys() - _NOTES - _APART - _LIMITS):
        if writer.get(name) != reader[name]:
            return f"{name} was added or changed"
    return "a combination of schemas changed" if _combined(reader, writer) else ""


def _combined(reader: Json, writer: Json) -> bool:
    """Of `allOf` with several parts only equality is understood."""
    return "allOf" in reader and reader["allOf"] != writer.get("allOf")


def _named(schema: Json) -> str:
    reference: str = schema.get("$ref", "")
    if reference:
        return reference.rpartition("/")[2]
    names = sorted(_types(schema)) or ["any value"]
    return " or ".join(names)


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
