"""What a broker adapter implements, and finding one by URL."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, cast, runtime_checkable

from eventbus.errors import ConfigurationError, Finding
from eventbus.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What is promised; the conformance suite holds the adapter to it."""

    durable: bool  # what publish() returned for survives a broker restart
    ordered_by_key: bool  # also after a member of the group died
    consumer_groups: bool  # the members of a group share its messages
    replays_history: bool  # a new group sees what was published before it existed
    filters_types: bool  # a group gets only what it asked for
    stops_at_refusal: (
        bool  # stores nothing of a key behind a refused or unknown message of the same call
    )
    max_body: int  # bytes; publish() refuses more


class Delivery(Protocol):
    """A message waiting for its verdict."""

    @property
    def message(self) -> Message: ...
    @property
    def malformed(self) -> str | None:
        """Why the envelope could not be read; mapping never raises."""
        ...

    @property
    def partition(self) -> str:
        """The unit inside which the broker keeps order: "shop/3" or a queue."""
        ...

    @property
    def offset(self) -> str:
        """Offset or delivery tag; the origin of a dead letter is "kafka:<partition>/<offset>"."""
        ...

    @property
    def redelivered(self) -> bool:
        """True whenever an earlier start cannot be ruled out."""
        ...

    @property
    def lost(self) -> bool:
        """Somebody else may get it: do not start it; a verdict may come too late."""
        ...


OnLost = Callable[[Sequence[Delivery], float], Awaitable[None]]
"""Drop what waits, end what runs by the deadline (loop time)."""


class Subscription(Protocol):
    """Yields what is there, never an empty batch.

    Not asking is back-pressure, and membership goes on meanwhile.
    """

    def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]: ...
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Record the verdict; it is sent in batches.

        Twice, or of lost ones: counted, never sent.
        """
        ...

    def nack(self, deliveries: Sequence[Delivery]) -> None:
        """Give back what was not started; never a retry (B7)."""
        ...

    async def flush(self) -> None:
        """Return when every recorded verdict is with the broker."""
        ...

    async def backlog(self) -> int | None:
        """How many wait for this group at the broker; None: unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What one group wants of the broker: for subscribe, examine and topology alike."""

    group: str
    topics: tuple[str, ...]
    types: tuple[str, ...]  # names, or "user.*"; () all
    order: Literal["key", "none"] = "key"
    start: Literal["earliest", "latest"] = (
        "earliest"  # of a group that the broker does not know yet
    )
    lanes: int = 16
    max_in_flight: int = 1000
    timeout: timedelta = timedelta(seconds=30)
    letters: bool = False  # without a storage what is given up goes to `dead_topic` of each topic

    @property
    def dead_topics(self) -> tuple[str, ...]:
        """Where its dead letters go at the broker; none if a storage takes them."""
        return tuple(dead_topic(topic, self.group) for topic in self.topics if self.letters)


def dead_topic(topic: str, group: str) -> str:
    """Of what a group without a storage gives up of a topic: a topic or a queue of this name."""
    return f"{topic}.{group}.dlq"


class Transport(AbstractAsyncContextManager["Transport"], Protocol):
    """Moves bytes: at least once, in order per key."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def trouble(self) -> str | None:
        """Why it can do nothing at the moment, one line without secrets; never awaits."""
        ...

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once the broker holds all of them, in the order given.

        Bounded in time. Concurrent calls are allowed; order holds inside a call and between calls
        that follow each other.
        Cancelled in mid-call means unknown. Never repeats under a new message id.

        Raises:
            PublishError: `results` says what became of each; `PublishUnknownError` if at least one
                is unknown.
        """
        ...

    def subscribe(
        self, interest: Interest, *, on_lost: OnLost
    ) -> AbstractAsyncContextManager[Subscription]:
        """Join the group; leaving gives back every delivery without a verdict."""
        ...

    async def examine(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """What the configuration, and once entered the broker, mean for the promises."""
        ...


@runtime_checkable
class Volatile(Protocol):
    """A transport that is not durable says when every group is done with a message.

    Until then its outbox row stays: a process that dies finds there what the broker inside it
    forgot.
    """

    async def publish_again(self, messages: Sequence[Message]) -> None:
        """Publish what an earlier process may have handed out: it is delivered as `redelivered`."""
        ...

    def on_handled(self, tell: Callable[[Sequence[Message]], None]) -> None:
        """Call `tell` with messages that every known group has acknowledged, in partition order.

        Once each.
        """
        ...


@runtime_checkable
class Rebuilding(Protocol):
    """Optional, of a transport: how often it threw a client away and has built another one."""

    @property
    def rebuilds(self) -> int: ...


@runtime_checkable
class Rebalancing(Protocol):
    """Optional, of a subscription: how often its group divided its work anew, joining included."""

    @property
    def rebalances(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step of a topology plan."""

    what: str
    destructive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A topic, an exchange or a queue that groups need."""

    kind: Literal["topic", "exchange", "queue"]
    name: str
    state: Literal["there", "missing", "different"]
    what: str  # what the broker says of it, or how it differs


@runtime_checkable
class HasTopology(Protocol):
    """Optional: topics, exchanges and queues as a reviewed difference."""

    async def plan(self, interests: Sequence[Interest]) -> Sequence[Change]:
        """What must change at the broker until the groups can work; nothing is changed."""
        ...

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make what `plan` answered; nothing of it if one change is destructive."""
        ...

    async def status(self, interests: Sequence[Interest]) -> Sequence[Place]:
        """What the groups need, and how it stands; nothing is changed."""
        ...


class HasHistory(Protocol):
    """Optional: a bounded replay, outside any group."""

    def replay(
        self,
        topics: Sequence[str],
        *,
        start: datetime | Literal["first"],
        stop: datetime | Literal["now"],
    ) -> AsyncIterator[Sequence[Delivery]]: ...


@runtime_checkable
class Browsable(Protocol):
    """Optional: an operator looks at a topic or a queue, and takes nothing away."""

    async def browse(self, place: str, *, limit: int) -> Sequence[Delivery]:
        """The first `limit` messages there, per partition in order; none of them is consumed.

        Raises:
            TransportError: there is no such place, or the broker does not let us look.
        """
        ...


@runtime_checkable
class Takeable(Protocol):
    """Optional: an operator takes messages away from a queue; a log keeps what it has."""

    async def take(
        self, place: str, *, limit: int, wanted: Callable[[Delivery], Awaitable[bool]]
    ) -> None:
        """Ask `wanted` for the first `limit` messages in order; where it says True, it is gone.

        Whatever it raises ends the call; nothing of what it has not answered is taken.

        Raises:
            TransportError: there is no such place, or the broker does not let us.
        """
        ...


class Addresses(Protocol):
    """Where others find what travels, as objects of AsyncAPI 3; from the configuration alone."""

    @property
    def servers(self) -> Mapping[str, Mapping[str, Any]]:
        """By name: host, protocol, security; no secrets."""
        ...

    @property
    def prefix(self) -> str:
        """Of CloudEvents attributes among the headers: `ce_`."""
        ...

    def channel(self, topic: str, types: Sequence[str]) -> Mapping[str, Any]:
        """The address and the bindings of a topic, or of a dead topic, with these types."""
        ...

    def receiving(self, group: str) -> Mapping[str, Any]:
        """The bindings of an operation by which a group receives."""
        ...

    def sending(self) -> Mapping[str, Any]:
        """The bindings of an operation that sends."""
        ...

    def message(self, *, keyed: bool) -> Mapping[str, Any]:
        """The bindings of a message with or without a key."""
        ...


@runtime_checkable
class HasAddresses(Protocol):
    """Optional: it can tell others where they would find what travels (decision 0006)."""

    @property
    def addresses(self) -> Addresses: ...


REDRIVEN_TO = "native:eventbus-redriven-to"
"""A dead letter that stands at its topic again, for this group: those without an inbox pass it."""


Factory = Callable[[str, str], Transport]
"""(url, service) -> Transport: what an entry point of `eventbus.transports` names."""


def open_transport(url: str, service: str) -> Transport:
    """The transport whose entry point is named like the scheme of the URL; connects to nothing.

    Raises:
        ConfigurationError: EB1003, no such scheme; or what the adapter says of the URL.
    """
    scheme, separator, _ = url.partition("://")
    known = {entry.name: entry for entry in entry_points(group="eventbus.transports")}
    if not separator or scheme not in known:
        raise ConfigurationError(
            "EB1003",
            f"no transport is installed for {scheme!r}",
            where=f"transport={scheme}://…" if separator else "transport= without a scheme",
            why=f"installed are: {', '.join(sorted(known)) or 'none'}",
            next="mend the URL, or install the extra that brings the adapter",
        )
    return cast("Factory", known[scheme].load())(url, service)
