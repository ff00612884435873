"""FaultPlan: which call of the contracts meets which fault, and what the fault does to it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random
from typing import Any, Self, TypeVar

from eventbus.errors import ConcurrencyError
from eventbus.message import Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise this error instead of the call."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer until the adapter's own deadline; then the outcome is unknown, done or not."""

    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Delay:
    """The call begins so much later."""

    seconds: float = 0.05


@dataclass(frozen=True, slots=True)
class LoseReply:
    """Done, but the caller gets `PublishUnknownError` or `CommitUnknownError`."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The process dies here: before the call, or after it and before its return."""

    after: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A published batch is stored so many times more."""

    times: int = 1


@dataclass(frozen=True, slots=True)
class Reorder:
    """Neighbours within the window change places, those of one key never."""

    window: int = 8


@dataclass(frozen=True, slots=True)
class Unroutable:
    """The first message of the batch is refused, the others are not sent."""


@dataclass(frozen=True, slots=True)
class ZombieOwner:
    """A second consumer gets what the first one still holds; if alone, the first gets it twice."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The database gives way to another transaction: this one is doomed, nothing is kept."""


@dataclass(frozen=True, slots=True)
class LoseLease:
    """Somebody else draws a higher epoch just before the call, and lets go at once."""


@dataclass(frozen=True, slots=True)
class DropConfirmed:
    """Beyond the contract: confirmed and not stored."""


@dataclass(frozen=True, slots=True)
class BreakKeyOrder:
    """Beyond the contract: the batch is stored backwards."""


Fault = (
    Fail
    | Hang
    | Delay
    | LoseReply
    | Kill
    | Duplicate
    | Reorder
    | Unroutable
    | ZombieOwner
    | Conflict
    | LoseLease
    | DropConfirmed
    | BreakKeyOrder
)

_SYNCHRONOUS = frozenset({"ack", "nack"})
_LEASED = frozenset(
    {
        "outbox.promote",
        "outbox.settle",
        "outbox.defer",
        "parking.park",
        "parking.due",
        "parking.behind",
        "parking.settle",
        "leases.renew",
        "checkpoints.save",
    }
)
_TRANSPORT = frozenset({"enter", "examine", "subscribe", "flush", "backlog", "next", "wait"})


def fits(fault: Fault, call: str) -> bool:
    """Whether real services showed a fault of this kind at this call."""
    match fault:
        case Kill():
            return True
        case Duplicate() | Reorder() | Unroutable() | DropConfirmed() | BreakKeyOrder():
            return call == "publish"
        case LoseReply():
            return call in {"publish", "commit"}
        case ZombieOwner():
            return call == "next"
        case LoseLease():
            return call in _LEASED
        case Conflict():
            return call not in _SYNCHRONOUS | _TRANSPORT | {"publish", "savepoint"}
        case Hang():
            return call not in _SYNCHRONOUS | _TRANSPORT | {"savepoint", "outbox.add"}
        case Delay() | Fail():
            return call not in _SYNCHRONOUS


POINTS: Mapping[str, tuple[str, bool]] = {
    "publish.written": ("publish:commit", False),
    "publish.commit_sent": ("publish:commit", True),
    "relay.leased": ("relay:outbox.read", False),
    "relay.sent": ("relay:publish", False),
    "relay.confirmed": ("relay:publish", True),
    "relay.settle_sent": ("relay:commit+outbox.settle", True),
    "consumer.delivered": ("consumer:next", True),
    "consumer.counted": ("consumer:commit+inbox.count", True),
    "consumer.received": ("consumer:inbox.receive", True),
    "consumer.handled": ("consumer:savepoint", True),
    "consumer.parked": ("consumer:parking.park", True),
    "consumer.commit_sent": ("consumer:commit+inbox.receive", True),
    "consumer.committed": ("consumer:ack", False),
    "consumer.acked": ("consumer:ack", True),
    "consumer.outside": ("consumer:inbox.receive", False),
    "deadletter.sent": ("consumer:publish", False),
    "deadletter.confirmed": ("consumer:publish", True),
    "redelivery.claimed": ("redelivery:commit+inbox.count", True),
    "redelivery.handled": ("redelivery:parking.settle", False),
    "redelivery.commit_sent": ("redelivery:commit+parking.settle", True),
    "projection.read": ("projection:events.read_all", True),
    "projection.applied": ("projection:projections.write", True),
    "projection.commit_sent": ("projection:commit+checkpoints.save", True),
    "projection.switching": ("projection:commit+projections.switch", True),
    "saga.received": ("consumer:sagas.lock", False),
    "saga.advanced": ("consumer:sagas.save", False),
    "saga.commanded": ("consumer:commit+sagas.save", False),
    "saga.commit_sent": ("consumer:commit+sagas.save", True),
    "saga.compensating": ("consumer:commit+undo", False),
    "saga.timer_fired": ("timers:commit+sagas.save", False),
    "saga.call_claimed": ("calls:commit+claimed", True),
    "saga.call_done": ("calls:sagas.finish_calls", False),
    "participant.fenced": ("consumer:sagas.begin_effect", True),
}
"""Crash points: the call, with the role of its task, and whether the process dies after it."""

_ROLES = frozenset(
    {
        *("relay", "consumer", "redelivery", "retention", "projection", "bus"),
        *("timers", "calls", "archive"),
    }
)


def role_of(task: "asyncio.Task[Any] | None") -> str:
    """The role in the task's name; who publishes is in no task of ours."""
    role = "" if task is None else task.get_name().partition(":")[0]
    return role if role in _ROLES else "publish"


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that happened: at which call of the plan's adapters, counted from 1."""

    number: int
    role: str
    call: str
    fault: Fault
    points: tuple[str, ...] = ()  # of a kill: the crash points at which the process died


def points_at(role: str, calls: Sequence[str], fault: Fault) -> tuple[str, ...]:
    """The crash points of a kill at a call that goes by these names."""
    if not isinstance(fault, Kill):
        return ()
    places = {(f"{role}:{call}", fault.after) for call in calls}
    return tuple(point for point, place in POINTS.items() if place in places)


@dataclass(slots=True)
class _Rule:
    pattern: str
    nth: int
    fault: Fault
    seen: int = 0


class FaultPlan:
    """Which call meets which fault: by place, by chance, or both. Shared by the wrappers of a bus.

    Args:
        seed: of everything left to chance.
        beyond_contract: allow faults that no real service shows; they serve to test checkers.
    """

    def __init__(self, *, seed: int = 0, beyond_contract: bool = False) -> None:
        self.seed = seed
        self.hits: list[Hit] = []
        self.calls: int = 0
        self.trace: list[str] | None = None  # a list here gets each call as "role:call"
        self.frozen: bool = False
        self.on_kill: Callable[[], None] | None = None  # a real process: kill it here
        self._random = Random(seed)  # noqa: S311 - repeatable, not secret
        self._beyond = beyond_contract
        self._rules: list[_Rule] = []
        self._rate = 0.0
        self._kinds: Sequence[Fault] = ()

    @classmethod
    def at(cls, call: str, nth: int, fault: Fault, *, beyond_contract: bool = False) -> Self:
        """One fault at one place: see `add`."""
        return cls(beyond_contract=beyond_contract).add(call, nth, fault)

    @classmethod
    def seeded(
        cls,
        seed: int,
        *,
        rate: float = 0.02,
        kinds: Sequence[Fault | Callable[[], Fault]] = (Duplicate, Delay, Hang, LoseReply),
        beyond_contract: bool = False,
    ) -> Self:
        """Faults by chance: see `sprinkle`."""
        return cls(seed=seed, beyond_contract=beyond_contract).sprinkle(rate=rate, kinds=kinds)

    def add(self, call: str, nth: int, fault: Fault) -> Self:
        """The n-th such call from now on, counted from 1, meets the fault.

        Args:
            call: "publish", "commit", "inbox.receive", …; with a role "relay:publish"; "*" for
                any; or a crash point like "relay.confirmed", and then the fault is a `Kill`.
            nth: from 1.
            fault: what happens.

        Raises:
            ValueError: no real service shows this fault, or not at this call.
        """
        if call in POINTS:
            call, after = POINTS[call]
            fault = Kill(after=after) if isinstance(fault, Kill) else fault
        name = call.rpartition(":")[2].partition("+")[0]
        if name != "*" and not fits(fault, name):
            raise ValueError(f"{fault} does not happen at {call!r}")
        self._refuse_beyond(fault)
        self._rules.append(_Rule(call, nth, fault))
        return self

    def sprinkle(self, *, rate: float, kinds: Sequence[Fault | Callable[[], Fault]]) -> Self:
        """From now on each call meets, with this probability, one of the kinds that fit it."""
        faults = [kind() if callable(kind) else kind for kind in kinds]
        for fault in faults:
            self._refuse_beyond(fault)
        self._rate, self._kinds = rate, faults
        return self

    def _refuse_beyond(self, fault: Fault) -> None:
        if isinstance(fault, DropConfirmed | BreakKeyOrder) and not self._beyond:
            raise ValueError(f"{fault} breaks the contract: beyond_contract=True")

    def heal(self) -> None:
        """No further faults."""
        self._rules.clear()
        self._rate = 0.0

    def kill(self) -> None:
        """Freeze: from now on no call through this plan has an effect or an answer."""
        self.frozen = True
        if self.on_kill is not None:
            self.on_kill()

    def meet(self, call: str, *also: str) -> Fault | None:
        """Count a call; the fault it meets."""
        role = role_of(asyncio.current_task())
        self.calls += 1
        if self.trace is not None:
            self.trace.append(f"{role}:{call}")
        fault = self._planned(role, (call, *also)) or self._by_chance(call)
        if fault is not None:
            points = points_at(role, (call, *also), fault)
            self.hits.append(Hit(self.calls, role, call, fault, points))
        return fault

    def _planned(self, role: str, calls: Sequence[str]) -> Fault | None:
        found: Fault | None = None
        for rule in self._rules:
            names = [*calls, *(f"{role}:{call}" for call in calls)]
            if any(fnmatchcase(name, rule.pattern) for name in names):
                rule.seen += 1
                if rule.seen == rule.nth and fits(rule.fault, calls[0]):
                    found = rule.fault
        return found

    def _by_chance(self, call: str) -> Fault | None:
        if not self._rate or self._random.random() >= self._rate:
            return None
        kinds = [fault for fault in self._kinds if fits(fault, call)]
        return self._random.choice(kinds) if kinds else None

    def flip(self) -> bool:
        """One of the two truths behind an unknown outcome."""
        return self._random.random() < 0.5

    def reordered(self, messages: Sequence[Message], window: int) -> list[int]:
        """The places of the messages in a new order that keeps the order of each key."""
        weights = [place + self._random.uniform(0, window) for place in range(len(messages))]
        queues: dict[str | None, list[int]] = {}
        order = sorted(range(len(messages)), key=weights.__getitem__)
        for place, message in enumerate(messages):
            queues.setdefault(message.key, []).append(place)
        return [queues[messages[place].key].pop(0) for place in order]

    async def dead(self) -> None:
        """What awaits a call of the dead: nothing, or with a cancelled task its end."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        await asyncio.get_running_loop().create_future()

    async def through(
        self,
        call: str,
        act: Callable[[Fault | None], Awaitable[T]],
        unknown: Callable[[bool], Exception],
        *also: str,
    ) -> T:
        """The call, with what it meets; for the wrappers.

        Args:
            call: its name.
            act: does it; it is told of faults that only it knows how to show.
            unknown: the error of a reply that is lost or late, given whether it was done.
            also: further names by which rules may know the call.
        """
        if self.frozen:
            await self.dead()
        match fault := self.meet(call, *also):
            case Fail(error):
                raise error
            case Conflict():
                raise _conflict(call)
            case Kill(after=False):
                self.kill()
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Hang(seconds):
                await self._hang(seconds, act, unknown, done=call in _KEPT and self.flip())
        if self.frozen:
            await self.dead()
        result = await act(fault)
        if isinstance(fault, Kill):
            self.kill()
        if self.frozen:
            await self.dead()
        if isinstance(fault, LoseReply):
            raise unknown(True)
        return result

    async def _hang(
        self,
        seconds: float,
        act: Callable[[Fault | None], Awaitable[T]],
        unknown: Callable[[bool], Exception],
        *,
        done: bool,
    ) -> None:
        if done:
            await act(None)
        await asyncio.sleep(seconds)
        if not self.frozen:
            raise unknown(done)


_KEPT = frozenset({"publish", "commit"})  # calls whose effect outlives a lost reply


def _conflict(call: str) -> ConcurrencyError:
    return ConcurrencyError(
        "EB5007",
        "the database gave way to another transaction",
        where=call,
        why="a fault of the test's plan: serialization failure or deadlock",
        next="run the transaction again",
    )
