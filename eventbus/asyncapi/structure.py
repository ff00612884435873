"""What can be said of an AsyncAPI document without its JSON Schema: above all, that it holds."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

_NAME = re.compile(r"[a-zA-Z0-9.\-_]+")
_DATA = {"const", "enum", "default", "examples"}  # what stands there is no part of the document


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    where: str  # a JSON pointer
    what: str


def problems_of(document: Mapping[str, Any]) -> list[Problem]:
    """In the order of the document; none does not mean that every binding has its right form."""
    return [
        *_head(document),
        *_references(document, document, "#"),
        *_channels(document),
        *_operations(document),
        *_components(document),
    ]


def resolved(document: Mapping[str, Any], value: Any) -> Any:
    """What a reference inside the document leads to, through all of them; else the value.

    Raises:
        KeyError: it leads nowhere, or round in a circle.
    """
    seen: set[str] = set()
    while isinstance(value, Mapping) and isinstance(target := value.get("$ref"), str):
        if not target.startswith("#") or target in seen:
            raise KeyError(target)
        seen.add(target)
        value = _found(document, target)
    return value


def _found(document: Mapping[str, Any], target: str) -> Any:
    value: Any = document
    for part in target.removeprefix("#").split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise KeyError(target)
    return value


def _head(document: Mapping[str, Any]) -> Iterator[Problem]:
    if document.get("asyncapi") != "3.1.0":
        yield Problem("#/asyncapi", f"it is {document.get('asyncapi')!r}, not '3.1.0'")
    info = _part(document, "info")
    for name in ("title", "version"):
        if not isinstance(info.get(name), str):
            yield Problem(f"#/info/{name}", "it is required, and a text")
    for part in ("servers", "channels", "operations"):
        for name, entry in _part(document, part).items():
            if not isinstance(entry, Mapping):
                yield Problem(f"#/{part}/{_escaped(name)}", "it is no object")
    for name, server in _entries(document, "servers"):
        for needed in ("host", "protocol"):
            if "$ref" not in server and not isinstance(server.get(needed), str):
                yield Problem(f"#/servers/{name}/{needed}", "it is required, and a text")


def _references(document: Mapping[str, Any], value: Any, where: str) -> Iterator[Problem]:
    if isinstance(value, list):
        for place, each in enumerate(value):
            yield from _references(document, each, f"{where}/{place}")
    elif isinstance(value, Mapping):
        target = value.get("$ref")
        if isinstance(target, str) and target.startswith("#"):
            try:
                _found(document, target)
            except KeyError:
                yield Problem(f"{where}/$ref", f"{target} leads nowhere")
        for name, each in value.items():
            if name not in _DATA or where.endswith("/properties"):
                yield from _references(document, each, f"{where}/{_escaped(name)}")


def _channels(document: Mapping[str, Any]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, channel in _entries(document, "channels"):
        place = f"#/channels/{_escaped(name)}"
        address = channel.get("address")
        if address is None:
            continue
        if not isinstance(address, str):
            yield Problem(f"{place}/address", "it is a text, or null")
            continue
        whole = repr((address, channel.get("servers"), channel.get("bindings")))
        other = seen.setdefault(whole, name)
        if other != name:
            yield Problem(f"{place}/address", f"channel {other!r} has it too")
        for parameter in re.findall(r"\{([^}]*)\}", address):
            if parameter not in _part(channel, "parameters"):
                yield Problem(f"{place}/parameters", f"there is no {parameter!r}")
        for server in _list(channel, "servers"):
            if not str(server.get("$ref")).startswith("#/servers/"):
                yield Problem(f"{place}/servers", "it refers to something that is no server")


def _operations(document: Mapping[str, Any]) -> Iterator[Problem]:
    for name, operation in _entries(document, "operations"):
        place = f"#/operations/{_escaped(name)}"
        if operation.get("action") not in ("send", "receive"):
            yield Problem(f"{place}/action", "it is send or receive")
        yield from _belonging(operation, place)
        if isinstance(operation.get("reply"), Mapping):
            yield from _belonging(operation["reply"], f"{place}/reply")


def _belonging(operation: Mapping[str, Any], place: str) -> Iterator[Problem]:
    channel = str(_part(operation, "channel").get("$ref"))
    if not re.fullmatch(r"#/channels/[^/]+", channel):
        yield Problem(f"{place}/channel", "it refers to something that is no channel")
        return
    for number, message in enumerate(_list(operation, "messages")):
        target = str(message.get("$ref"))
        if not target.startswith(f"{channel}/messages/"):
            yield Problem(
                f"{place}/messages/{number}", f"{target} does not belong to the specified channel"
            )


def _components(document: Mapping[str, Any]) -> Iterator[Problem]:
    for part, entries in _entries(document, "components"):
        for name in entries:
            if not _NAME.fullmatch(name):
                yield Problem(f"#/components/{part}/{_escaped(name)}", "its name is not allowed")
    for name, message in _entries(_part(document, "components"), "messages"):
        headers = message.get("headers", {"type": "object"})
        if not isinstance(headers, Mapping) or not (
            "$ref" in headers or headers.get("type") == "object"
        ):
            yield Problem(f"#/components/messages/{name}/headers", "they are not of type object")


def _part(value: Any, name: str) -> Mapping[str, Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return cast("Mapping[str, Any]", found)


def _entries(value: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, entry in _part(value, name).items():
        if isinstance(entry, Mapping):
            yield key, cast("Mapping[str, Any]", entry)


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
