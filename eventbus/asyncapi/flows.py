"""What the app receives and what it sends, by topic: read off the description of a bus."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eventbus.event import Command, Event, Reply, TypedMessage, Undone, reply_of
from eventbus.transport import dead_topic

if TYPE_CHECKING:
    from eventbus.bus import Description
    from eventbus.codec import Registry
    from eventbus.pubsub.routes import Handler, Routes

_OURS = "eventbus."  # messages and modules of the framework
_REPLIES = ".replies"


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of messages: a class of the app, or a name of which nothing else is known."""

    name: str  # of the type; or "user.*"
    cls: type[TypedMessage] | None = None

    @property
    def key(self) -> str:
        """Its name inside the document; a class's has the version."""
        if self.cls is not None and self.cls.__wire__ is not None:
            return f"{self.name}.v{self.cls.__wire__.version}"
        return self.name.replace("*", "any_type")

    @property
    def word(self) -> str:
        """What it is: nobody need send a command, nobody need receive an event."""
        if self.cls is None:
            return "reply" if self.name.startswith(_OURS) else "event"
        if issubclass(self.cls, Command):
            return "command"
        return "reply" if issubclass(self.cls, Reply) else "event"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One operation."""

    name: str
    action: Literal["receive", "send"]
    topic: str
    kinds: tuple[Kind, ...]
    group: str | None = None
    letters: bool = False  # what was received goes on as it came
    answers: tuple[Kind, ...] = ()  # they go to the topic that the message itself names


def flows_of(description: "Description") -> list[Flow]:
    """By name; each name once.

    Every handler receives, once for each topic that it reads. Publishing needs no registration, so
    a type is sent where the app otherwise shows that it is its own: the class was handed over, an
    aggregate applies it, or a projection reads it from the log; a saga sends it as a command;
    nobody here handles it; or its topic is called like the service or like one of the groups.
    """
    received = [
        flow
        for group, routes in description.groups.items()
        for handler in routes.handlers
        for flow in _received(group, handler, routes, description.types)
    ]
    return list(
        _named_apart([*received, *_sent(description, received), *_letters(description, received)])
    )


def _received(
    group: str, handler: "Handler", routes: "Routes", types: "Registry"
) -> Iterator[Flow]:
    topics: dict[str, dict[Kind, None]] = {}
    for topic, kind in _read(handler, routes, types):
        topics.setdefault(topic, {})[kind] = None
    name = group if handler.batches else f"{group}.{handler.name}"
    for topic, kinds in topics.items():
        yield Flow(
            name=name if len(topics) == 1 else f"{name}.{topic.removeprefix(f'{name}.')}",
            action="receive",
            topic=topic,
            kinds=tuple(kinds),
            group=group,
            answers=tuple(_answers(handler)),
        )


def _read(handler: "Handler", routes: "Routes", types: "Registry") -> Iterator[tuple[str, Kind]]:
    replies = next((one for one in routes.interest().topics if one.endswith(_REPLIES)), None)
    for what in handler.what:
        if isinstance(what, str):
            for kind in _called(what, types):
                yield replies if handler.batches and replies else _topic_of(kind), kind
            continue
        for cls in _concrete(what, types):
            kind = Kind(_type(cls), cls)
            if handler.batches and _is_ours(cls):
                continue
            of_saga = handler.batches is not None and issubclass(cls, Reply)
            yield replies if of_saga and replies else _topic_of(kind), kind


def _called(name: str, types: "Registry") -> Iterator[Kind]:
    if not name.endswith(".*"):
        yield Kind(name, types.get(name))
        return
    for cls in types.classes:
        if _type(cls).startswith(name[:-1]):
            yield Kind(_type(cls), cls)
    yield Kind(name)


def _concrete(what: type[TypedMessage], types: "Registry") -> Sequence[type[TypedMessage]]:
    """The class, or of a base class without a wire type all that is known below it."""
    if what.__wire__ is not None:
        return [what]
    return [cls for cls in types.classes if issubclass(cls, what)]


def _answers(handler: "Handler") -> Iterator[Kind]:
    if handler.kind == "undo":
        yield Kind(_type(Undone), Undone)
    elif handler.kind == "command":
        for what in handler.what:
            assert isinstance(what, type)  # noqa: S101 - @handles takes classes only
            if issubclass(what, Command):
                reply = reply_of(what)
                for cls in (*(() if reply is None else (reply,)), *what.__rejects__):
                    yield Kind(_type(cls), cls)


def _sent(description: "Description", received: Sequence[Flow]) -> Iterator[Flow]:
    handled = {kind.name for flow in received for kind in flow.kinds}
    own = {description.service, *description.groups}
    by_sagas = {cls for saga in description.sagas for cls in saga.messages}
    for cls in description.types.classes:
        if issubclass(cls, Reply) or _is_ours(cls):
            continue
        kind = Kind(_type(cls), cls)
        commanded = issubclass(cls, Command) and cls in by_sagas
        is_own = issubclass(cls, Event) and _topic_of(kind) in own
        if cls in description.own or commanded or is_own or kind.name not in handled:
            yield Flow(
                name=f"send.{kind.name}", action="send", topic=_topic_of(kind), kinds=(kind,)
            )


def _letters(description: "Description", received: Sequence[Flow]) -> Iterator[Flow]:
    for interest in description.interests:
        if not interest.letters:
            continue
        for topic in interest.topics:
            kinds = _kinds(f for f in received if f.group == interest.group and f.topic == topic)
            name = dead_topic(topic, interest.group)
            yield Flow(
                name=f"send.{name}", action="send", topic=name, kinds=tuple(kinds), letters=True
            )


def _kinds(flows: Iterable[Flow]) -> Mapping[Kind, None]:
    return {kind: None for flow in flows for kind in flow.kinds}


def _named_apart(flows: Iterable[Flow]) -> Iterator[Flow]:
    """Two handlers of a group may be called alike: the second one is `billing.bill.2`."""
    from dataclasses import replace

    taken: set[str] = set()
    for flow in sorted(flows, key=_place):
        name, number = flow.name, 2
        while name in taken:
            name, number = f"{flow.name}.{number}", number + 1
        taken.add(name)
        yield replace(flow, name=name)


def _place(flow: Flow) -> tuple[str, ...]:
    return (flow.name, flow.topic, *(kind.key for kind in flow.kinds))


def _topic_of(kind: Kind) -> str:
    wire: Any = None if kind.cls is None else kind.cls.__wire__
    topic: str = kind.name.partition(".")[0] if wire is None else wire.topic
    return topic


def _type(cls: type[TypedMessage]) -> str:
    assert cls.__wire__ is not None  # noqa: S101 - registries hold wire types only
    return cls.__wire__.type


def _is_ours(cls: type[TypedMessage]) -> bool:
    """What the framework tells itself; participants know of `Undone`."""
    return cls is not Undone and cls.__module__.startswith(_OURS) and _type(cls).startswith(_OURS)
