"""What one AsyncAPI document changes of another, and what that breaks for those outside."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eventbus.asyncapi.document import LETTERS
from eventbus.asyncapi.structure import resolved
from eventbus.cli.compatibility import breaks

Document = Mapping[str, Any]
Part = Literal["server", "channel", "operation", "message"]
Traffic = Mapping[tuple[str, str, str], Mapping[str, Any]]  # action, channel, type -> the message


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that is different."""

    kind: Literal["breaking", "removed", "changed", "added"]
    part: Part
    name: str
    why: str = ""


def changes_between(old: Document, new: Document) -> list[Change]:
    """What breaks first; both hold together (`problems_of`)."""
    found = [
        *_listed("server", old, new),
        *_channels(old, new),
        *_listed("operation", old, new),
        *_messages(old, new),
    ]
    order = ("breaking", "removed", "changed", "added")
    return sorted(found, key=lambda one: order.index(one.kind))


def _listed(part: Part, old: Document, new: Document) -> Iterator[Change]:
    """Names that came, went, or stand for something else."""
    before, after = _entries(old, f"{part}s"), _entries(new, f"{part}s")
    for name in sorted(before.keys() - after.keys()):
        yield Change(kind="removed", part=part, name=name)
    for name in sorted(before.keys() & after.keys()):
        changed = _differing(before[name], after[name])
        if changed:
            yield Change(kind="changed", part=part, name=name, why=", ".join(changed))
    for name in sorted(after.keys() - before.keys()):
        yield Change(kind="added", part=part, name=name)


def _channels(old: Document, new: Document) -> Iterator[Change]:
    """Whom a channel that is gone breaks, the messages say."""
    before, after = _entries(old, "channels"), _entries(new, "channels")
    for name in sorted(before.keys() - after.keys()):
        yield Change(kind="removed", part="channel", name=name)
    for name in sorted(before.keys() & after.keys()):
        one, other = before[name], after[name]
        if one.get("address") != other.get("address"):
            said = f"its address was {one.get('address')!r} and is {other.get('address')!r}"
            yield Change(kind="breaking", part="channel", name=name, why=said)
        elif moved := _moved(one, other):
            yield Change(kind="breaking", part="channel", name=name, why=moved)
        elif one.get("bindings") != other.get("bindings"):
            yield Change(kind="changed", part="channel", name=name, why="bindings")
    for name in sorted(after.keys() - before.keys()):
        yield Change(kind="added", part="channel", name=name)


def _moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Where the address alone does not say it: an exchange, a topic."""
    for protocol, places in (("amqp", ("exchange", "queue")), ("kafka", ("topic",))):
        before = old.get("bindings", {}).get(protocol, {})
        after = new.get("bindings", {}).get(protocol, {})
        for place in places:
            if before and after and _name(before.get(place)) != _name(after.get(place)):
                return f"its {place} was {_name(before.get(place))!r}"
    return ""


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value


def _messages(old: Document, new: Document) -> Iterator[Change]:
    """Whoever receives what we sent, and whoever sends what we received, must still be right."""
    before, after = _traffic(old), _traffic(new)
    for at in sorted(before.keys() - after.keys()):
        why = "it is not sent any more" if at[0] == "send" else "it is not received any more"
        kind: Literal["breaking", "removed"] = "breaking" if _needed(at, before[at]) else "removed"
        yield Change(kind=kind, part="message", name=at[2], why=f"{at[1]}: {why}")
    for at in sorted(before.keys() & after.keys()):
        for why in _broken(at[0], (old, before[at]), (new, after[at])):
            yield Change(kind="breaking", part="message", name=at[2], why=f"{at[1]}: {why}")
    for at in sorted(after.keys() - before.keys()):
        word = "sent" if at[0] == "send" else "received"
        yield Change(kind="added", part="message", name=at[2], why=f"{at[1]}: it is {word}")


def _needed(at: tuple[str, str, str], message: Mapping[str, Any]) -> bool:
    """Nobody waits for a command, nobody minds who receives an event; else somebody may."""
    kind = str(message.get("x-eventbus", {}).get("kind"))
    return kind != ("command" if at[0] == "send" else "event")


def _traffic(document: Document) -> Traffic:
    found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for operation in _entries(document, "operations").values():
        if operation.get("x-eventbus", {}).get("kind") == LETTERS:
            continue  # bodies go on as they came
        channel = _last(operation["channel"]["$ref"])
        # the answers to what we receive are sent, those to what we send received
        other = "receive" if operation["action"] == "send" else "send"
        for action, at, listed in (
            (operation["action"], channel, _refs(document, operation)),
            (other, "reply", _refs(document, operation.get("reply") or {})),
        ):
            for message in listed:
                found[(action, at, str(message.get("name", "")))] = message
    return found


def _refs(document: Document, of: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Without a list of them, all of the channel."""
    listed: Any = of.get("messages")
    if listed is not None:
        named = {_last(each["$ref"]): each for each in listed}
    else:
        named = resolved(document, of["channel"]).get("messages", {}) if "channel" in of else {}
    for name, each in named.items():
        yield {"name": name, **resolved(document, each)}


def _broken(
    action: str,
    old: tuple[Document, Mapping[str, Any]],
    new: tuple[Document, Mapping[str, Any]],
) -> Iterator[str]:
    before, after = _version(old[1]), _version(new[1])
    if before != after:
        if action == "send":
            yield f"v{before} became v{after}: readers have no way down from a newer version"
        elif before not in new[1].get("x-eventbus", {}).get("reads", ()):
            yield f"v{before} became v{after}, and no upcaster leads there"
        return
    reader, writer = (old, new) if action == "send" else (new, old)
    for one in breaks(_schema(*reader), _schema(*writer)):
        yield f"{one.path or 'the body'}: {one.why}"


def _schema(document: Document, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The payload with what it refers to, as `breaks` reads it."""
    parts = document.get("components", {}).get("schemas", {})
    return {**message.get("payload", {}), "$defs": parts}


def _version(message: Mapping[str, Any]) -> Any:
    return message.get("x-eventbus", {}).get("version")


def _entries(document: Document, name: str) -> Mapping[str, Any]:
    """Resolved: an entry may be a reference to the components."""
    found: Mapping[str, Any] = document.get(name, {})
    return {key: resolved(document, value) for key, value in found.items()}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[str]:
    """What changed of it; which messages, is said of each of them."""
    names = sorted((old.keys() | new.keys()) - {"messages", "reply"})
    return [name for name in names if old.get(name) != new.get(name)]


def _last(reference: str) -> str:
    from urllib.parse import unquote

    return unquote(reference.rpartition("/")[2]).replace("~1", "/").replace("~0", "~")
