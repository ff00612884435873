"""How sagas join a bus: their groups, what they lend from it, their services."""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from uuid import uuid4

from eventbus.codec import Registry
from eventbus.errors import Finding, WiringError
from eventbus.event import Command, TypedMessage
from eventbus.handler import Group, RetryPolicy, UnitOfWork
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.pubsub.batch_routes import BatchRoutes
from eventbus.pubsub.routes import Routes
from eventbus.pubsub.unit_of_work import Publishing, Unit, held
from eventbus.saga.calls import CallWorker
from eventbus.saga.definition import wire_name
from eventbus.saga.engine import Engine
from eventbus.saga.family import Family
from eventbus.saga.incoming import Unreadable
from eventbus.saga.lint import ELSEWHERE, lint
from eventbus.saga.outgoing import KeysAdded, Tools
from eventbus.saga.timers import Timers
from eventbus.service import Service
from eventbus.storage import Storage, Transaction

AT_ONCE = 100  # messages in one transaction
AT_ONCE_WITH_SQL = 8
LANES = 2  # what counts is round trips per batch: few lanes with large ones
# Held x time / 2 lanes: within half of the time after which RabbitMQ takes it all back (15 min);
# the time is within a drain (EB1106).
MOST_HELD, TIME = 200, timedelta(seconds=9)
MOST_HELD_WITH_SQL, TIME_WITH_SQL = 60, timedelta(seconds=30)
_OURS = (KeysAdded, Unreadable)
_BARE = ("eventbus.cancelled", "eventbus.forgotten", "eventbus.unsettled")  # answers of any step


@dataclass(frozen=True, slots=True)
class SagaServices:
    """What works beside the group of a saga."""

    timers: Timers
    calls: CallWorker

    @property
    def progress(self) -> int:
        """Grows with everything that was done."""
        return self.timers.fired + self.calls.finished

    async def idle(self) -> bool:
        """Whether nothing is due."""
        return await self.timers.idle() and await self.calls.idle()

    def troubles(self) -> Iterable[str | None]:
        """Why it is not ready."""
        yield self.timers.trouble
        yield self.calls.trouble


def register_messages(families: Mapping[str, Family], registry: Registry) -> None:
    """Reading and, under `strict`, writing knows what sagas name, and what they use themselves."""
    for family in families.values():
        classes: tuple[type[TypedMessage], ...] = (*family.messages, *_OURS)
        for cls in classes:
            registry.add(cls)


def engines(
    families: Mapping[str, Family],
    publishing: Publishing,
    instrumentation: Instrumentation | None,
) -> dict[str, Engine]:
    """One per saga."""

    async def encode(
        what: TypedMessage, headers: Mapping[str, str], cause: Message | None, tx: Transaction
    ) -> Message:
        keys = await publishing.keys([what], headers, cause, "", tx)
        return publishing.message(what, None, None, headers, cause, keys=keys)

    tools = Tools(
        encode=encode,
        decode=publishing.registry.decode,
        unit=lambda tx, cause: _unit(publishing, tx, cause),
        worker=f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}",
        random=Random(),  # noqa: S311 - jitter
        instrumentation=instrumentation,
    )
    return {name: Engine(family, tools) for name, family in families.items()}


@contextmanager
def _unit(publishing: Publishing, tx: Transaction, cause: Message | None) -> Iterator[UnitOfWork]:
    unit = Unit(publishing, tx, cause=cause)
    token = held.set(unit)
    try:
        yield unit
    finally:
        unit.open = False
        held.reset(token)


def saga_groups(
    made: Mapping[str, Engine], groups: Mapping[str, Routes], registry: Registry
) -> dict[str, Routes]:
    """The group of each saga has its name.

    Raises:
        WiringError: EB7064, a group of handlers has the name as well.
    """
    found: dict[str, Routes] = {}
    for name, engine in made.items():
        if name in groups:
            raise _taken(name, groups[name])
        family = engine.family
        with_sql = family.has_local_steps
        found[name] = BatchRoutes(
            Group(
                name,
                retry=RetryPolicy(in_place=0),
                batch_messages=AT_ONCE_WITH_SQL if with_sql else AT_ONCE,
                lanes=LANES,
                max_in_flight=MOST_HELD_WITH_SQL if with_sql else MOST_HELD,
                timeout=TIME_WITH_SQL if with_sql else TIME,
            ),
            engine,
            reads=tuple(family.routes),
            answers=(*family.answers, *_OURS, *_BARE),
            topic=family.replies,
            registry=registry,
        )
    return found


def saga_services(made: Mapping[str, Engine], storage: Storage) -> dict[str, SagaServices]:
    """By saga."""
    return {
        name: SagaServices(Timers(engine, storage), CallWorker(engine, storage))
        for name, engine in made.items()
    }


def housekeeping(
    made: Mapping[str, Engine], storage: Storage, instrumentation: Instrumentation | None
) -> Service:
    """What forgets: beside sagas, and beside participants."""
    from eventbus.saga.archive import Archive

    families = {name: engine.family for name, engine in made.items()}
    return Archive(storage, families=families, instrumentation=instrumentation)


async def register(families: Mapping[str, Family], storage: Storage) -> None:
    """Remember the versions of all sagas.

    Raises:
        ConfigurationError: EB7031, a version that is known was changed.
    """
    rows = [each.row for family in families.values() for each in family.definitions.values()]
    if rows:
        async with storage.transaction() as tx:
            await tx.sagas.register(rows)


def handled_by(groups: Mapping[str, Routes]) -> frozenset[str]:
    """Wire types of the commands that some group of the bus handles."""
    found = (
        wire_name(cls)
        for routes in groups.values()
        for handler in routes.handlers
        for cls in handler.what
        if isinstance(cls, type) and issubclass(cls, Command)
    )
    return frozenset(name for name in found if name is not None)


def linted(families: Mapping[str, Family], groups: Mapping[str, Routes]) -> Iterable[Finding]:
    """What the linter says of sagas that start.

    That nobody here handles a command is no warning: its participant may be another service.
    """
    handled = handled_by(groups)
    for family in families.values():
        for definition in family.definitions.values():
            for finding in lint(definition, handled=handled):
                level = "say" if finding.code == ELSEWHERE else finding.level
                what = f"saga {family.name!r}: {finding.what}"
                yield replace(finding, level=level, what=what)


def without_storage(families: Mapping[str, Family]) -> Iterable[Finding]:
    """EB7065: sagas that have no place."""
    if families:
        yield Finding(
            level="refuse",
            code="EB7065",
            what=f"saga {next(iter(families))!r} on a bus without a storage",
            why="its state, timers and commands stand in the storage, in one transaction",
            next='EventBus(…, storage="sqlite:///app.db")',
        )


def _taken(name: str, routes: Routes) -> WiringError:
    return WiringError(
        "EB7064",
        f"group {name!r} has the name of a saga",
        where=routes.handlers[0].where,
        why="a saga is a group of its own, of its name",
        next="rename the group",
    )
