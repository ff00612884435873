"""All versions of one saga that a bus has, and how its messages find them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

from eventbus.errors import WiringError
from eventbus.event import Event, Reply, TypedMessage, Undone
from eventbus.saga.definition import Definition, Route, definition_of
from eventbus.saga.lint import refuse
from eventbus.saga.process import Process
from eventbus.saga.steps import Saga

REPLIES = ".replies"


@dataclass(frozen=True)
class Family:
    """One saga: the class, and older ones that open sagas are pinned to."""

    name: str
    definitions: Mapping[int, Definition]  # by version

    @cached_property
    def newest(self) -> Definition:
        """The one that starts sagas."""
        return self.definitions[max(self.definitions)]

    @property
    def replies(self) -> str:
        """The topic of its replies."""
        return f"{self.name}{REPLIES}"

    @cached_property
    def messages(self) -> tuple[type[TypedMessage], ...]:
        """All that its methods name."""
        found = (cls for each in self.definitions.values() for cls in each.messages)
        return tuple(dict.fromkeys((*found, Undone)))

    @cached_property
    def answers(self) -> tuple[type[Reply], ...]:
        """What comes back to it."""
        return tuple(cls for cls in self.messages if issubclass(cls, Reply))

    @cached_property
    def routes(self) -> Mapping[type[Event], tuple[Route, ...]]:
        """By event; of the newest version first."""
        found: dict[type[Event], dict[tuple[bool, str | None], Route]] = {}
        for version in sorted(self.definitions, reverse=True):
            for route in self.definitions[version].routes:
                if route.starts and version != self.newest.version:
                    continue
                known = found.setdefault(route.event, {})
                known.setdefault((route.starts, route.by), route)
        return {event: tuple(routes.values()) for event, routes in found.items()}

    @cached_property
    def reads(self) -> tuple[tuple[str, int], ...]:
        """The versions whose timers and calls a worker with this family looks for."""
        versions = {v for each in self.definitions.values() for v in each.reads_from}
        return tuple((self.name, version) for version in sorted(versions))

    @cached_property
    def has_local_steps(self) -> bool:
        """Whether authors' SQL runs in its transitions."""
        return any(each.has_local_steps for each in self.definitions.values())

    @cached_property
    def has_calls(self) -> bool:
        """Whether a worker with this family may have to execute calls."""
        migrates = any(len(each.reads_from) > 1 for each in self.definitions.values())
        return migrates or any(each.has_calls for each in self.definitions.values())

    def reading(self, version: int) -> Definition | None:
        """That version, or the newest one that takes its sagas over; None: not here."""
        exact = self.definitions.get(version)
        if exact is not None:
            return exact
        newest_first = sorted(self.definitions, reverse=True)
        found = (self.definitions[one] for one in newest_first)
        return next((each for each in found if version in each.reads_from), None)


def is_saga(thing: object) -> bool:
    """Whether a thing that was handed over is a saga class."""
    front_ends = (Saga, Process)
    return isinstance(thing, type) and issubclass(thing, front_ends) and thing not in front_ends


def sagas_in(things: Iterable[object]) -> Sequence[type[Any]]:
    """The saga classes among what was handed over, and in modules that were."""
    found: dict[type[Any], None] = {}
    for thing in things:
        if isinstance(thing, ModuleType):
            for value in vars(thing).values():
                if is_saga(value) and value.__module__ == thing.__name__:
                    found[value] = None
        elif isinstance(thing, type) and is_saga(thing):
            found[thing] = None
    return tuple(found)


def families(classes: Iterable[type[Any]]) -> dict[str, Family]:
    """By name.

    Raises:
        WiringError: EB1230, a class cannot be read; EB1232, it has errors; EB7060, two classes are
            the same version of one saga.
    """
    found: dict[str, dict[int, Definition]] = {}
    for cls in classes:
        definition = definition_of(cls)
        refuse(definition)
        versions = found.setdefault(definition.saga, {})
        other = versions.setdefault(definition.version, definition)
        if other is not definition:
            raise _twice(other, definition)
    return {name: Family(name, versions) for name, versions in found.items()}


def _twice(one: Definition, other: Definition) -> WiringError:
    return WiringError(
        "EB7060",
        f"two classes are version {one.version} of saga {one.saga!r}",
        where=f"{_path(one)}, {_path(other)}",
        why="an open saga is pinned to one class by name and version",
        next="raise version= of the newer one, or rename it",
    )


def _path(definition: Definition) -> str:
    return f"{definition.source.__module__}.{definition.source.__qualname__}"
