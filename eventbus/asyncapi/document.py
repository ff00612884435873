"""A description of a bus to an AsyncAPI 3.1.0 document: stable, so that it can be committed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from eventbus.asyncapi.attributes import headers_of, schemas_of_attributes
from eventbus.asyncapi.flows import Flow, Kind, flows_of
from eventbus.asyncapi.schemas import PLACE, hoisted
from eventbus.codec import Plan, plan_of
from eventbus.event import TypedMessage

if TYPE_CHECKING:
    from eventbus.bus import Description
    from eventbus.transport import Addresses

VERSION = "3.1.0"
LETTERS = "dead-letters"
ANSWERS = "answers-to-commands"  # a channel without an address of its own
Json = dict[str, Any]


def document_of(description: "Description", *, title: str, version: str) -> Json:
    """Whom others send to, and what they get; the same for the same description.

    Args:
        description: what `bus.describe()` answers.
        title: what the app is called.
        version: of the app; AsyncAPI has no other use of it.

    Raises:
        WiringError: EB1222, a field has no JSON schema.
    """
    return _Document(description).whole(title, version)


class _Document:
    def __init__(self, description: "Description") -> None:
        self._flows = flows_of(description)
        self._addresses: Addresses | None = description.addresses
        self._prefix = "" if self._addresses is None else self._addresses.prefix
        self._received = _keys(each.kinds for each in self._flows if each.action == "receive")

    def whole(self, title: str, version: str) -> Json:
        servers = {} if self._addresses is None else dict(self._addresses.servers)
        kinds = self._kinds()
        return {
            "asyncapi": VERSION,
            "info": {"title": title, "version": version},
            "defaultContentType": "application/json",
            **({"servers": servers} if servers else {}),
            "channels": dict(self._channels(servers)),
            "operations": {each.name: self._operation(each) for each in self._flows},
            "components": {
                "messages": {_component(key): self._message(kind) for key, kind in kinds.items()},
                "schemas": schemas_of_attributes(self._prefix)
                | {key: schema for kind in kinds.values() for key, schema in self._schemas(kind)},
            },
        }

    def _kinds(self) -> Mapping[str, Kind]:
        found = {k.key: k for each in self._flows for k in (*each.kinds, *each.answers)}
        return dict(sorted(found.items()))

    def _channels(self, servers: Mapping[str, Any]) -> Iterable[tuple[str, Json]]:
        topics: dict[str, dict[str, Kind]] = {}
        for flow in self._flows:
            topics.setdefault(flow.topic, {}).update({kind.key: kind for kind in flow.kinds})
        where = [{"$ref": f"#/servers/{name}"} for name in servers]
        for topic, kinds in sorted(topics.items()):
            there = _sorted(kinds)
            yield topic, {**self._place(topic, there), **_at(where), "messages": _listed(there)}
        answers = _sorted({kind.key: kind for each in self._flows for kind in each.answers})
        if answers:
            told = {"address": None, "description": "The topic that the command itself names."}
            yield ANSWERS, {**told, **_at(where), "messages": _listed(answers)}

    def _place(self, topic: str, kinds: Sequence[Kind]) -> Mapping[str, Any]:
        if self._addresses is None:
            return {"address": topic}
        return self._addresses.channel(topic, [kind.name for kind in kinds])

    def _operation(self, flow: Flow) -> Json:
        bindings: Mapping[str, Any] = {}
        if self._addresses is not None:
            to = self._addresses
            bindings = to.sending() if flow.group is None else to.receiving(flow.group)
        found: Json = {
            "action": flow.action,
            "channel": {"$ref": f"#/channels/{_pointer(flow.topic)}"},
            "messages": _pointed(flow.topic, flow.kinds),
        }
        if bindings:
            found["bindings"] = bindings
        if flow.letters:
            found["x-eventbus"] = {"kind": LETTERS}
        if flow.answers:
            found["reply"] = {
                "address": {"location": f"$message.header#/{self._prefix}sagareplyto"},
                "channel": {"$ref": f"#/channels/{ANSWERS}"},
                "messages": _pointed(ANSWERS, flow.answers),
            }
        return found

    def _message(self, kind: Kind) -> Json:
        found: Json = {"name": kind.name}
        cls = kind.cls
        if cls is not None:
            found["title"] = cls.__name__
            found |= _summary(cls)
        location = f"$message.header#/{self._prefix}correlationid"
        found |= {
            "correlationId": {"location": location},
            "headers": headers_of(kind, self._prefix),
        }
        if cls is None:
            return found | {"x-eventbus": {"kind": kind.word}}
        plan = plan_of(cls)
        found["payload"] = {"$ref": f"{PLACE}{kind.key}"}
        if self._addresses is not None:
            bindings = self._addresses.message(keyed=plan.wire.key is not None)
            found |= {"bindings": bindings} if bindings else {}
        told = {"kind": kind.word, "version": plan.wire.version, "reads": _reads(plan)}
        return found | {"x-eventbus": told}

    def _schemas(self, kind: Kind) -> Iterable[tuple[str, Json]]:
        """What is only sent is as it is written; else senders go by what is read."""
        if kind.cls is None:
            return ()
        return hoisted(kind.key, kind.cls, "reads" if kind.key in self._received else "writes")


def _reads(plan: Plan) -> list[int]:
    """The versions from which a chain of upcasters leads to this one."""
    version = plan.wire.version
    while version - 1 in plan.upcasters:
        version -= 1
    return list(range(version, plan.wire.version + 1))


def _keys(kinds: Iterable[Sequence[Kind]]) -> set[str]:
    return {kind.key for each in kinds for kind in each}


def _sorted(kinds: Mapping[str, Kind]) -> list[Kind]:
    return [kind for _, kind in sorted(kinds.items())]


def _listed(kinds: Sequence[Kind]) -> Json:
    return {
        _component(kind.key): {"$ref": f"#/components/messages/{_component(kind.key)}"}
        for kind in kinds
    }


def _at(servers: Sequence[Json]) -> Json:
    return {"servers": list(servers)} if servers else {}


def _pointed(topic: str, kinds: Sequence[Kind]) -> list[Json]:
    """Into the channel: what points at the components does not belong to it, says AsyncAPI."""
    start = f"#/channels/{_pointer(topic)}/messages/"
    return [{"$ref": f"{start}{_component(key)}"} for key in sorted(kind.key for kind in kinds)]


def _pointer(name: str) -> str:
    """A name inside a reference (RFC 6901, section 6)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@?")


def _component(key: str) -> str:
    """AsyncAPI allows letters, digits and `.-_` in names of components."""
    return re.sub(r"[^a-zA-Z0-9.\-_]", "_", key)


def _summary(cls: type[TypedMessage]) -> Json:
    said = (cls.__doc__ or "").strip().partition("\n")[0]
    return {"summary": said} if said else {}
