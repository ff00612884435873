"""Whether a build can go on with sagas that are open: what `eventbus saga check` asks."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from eventbus.saga.definition import Definition
from eventbus.saga.family import Family
from eventbus.saga.migration import name_since
from eventbus.storage.sagas import DefinitionRow, InFlight

INITIAL = "initial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where open sagas of one version stand."""

    saga: str
    version: int
    digest: bytes
    graph: bytes | None  # of that version, as it was registered
    state: str | None  # of a process
    step: str | None

    @property
    def known(self) -> DefinitionRow | None:
        """The version, for the linter."""
        if self.graph is None:
            return None
        return DefinitionRow(
            saga=self.saga, version=self.version, digest=self.digest, graph=self.graph
        )


def left_alone(open_ones: Iterable[InFlight], families: Mapping[str, Family]) -> Iterable[str]:
    """What a worker with these families should know of open sagas that it cannot go on with.

    Sagas of a name that it lacks are others' business.
    """
    found = Counter[tuple[str, int, str]]()
    for one in open_ones:
        family = families.get(one.saga)
        why = None if family is None else stranded(_standing(one), family)
        if why is not None:
            found[one.saga, one.definition, why] += one.count
    for (saga, version, why), count in sorted(found.items()):
        yield f"{count:,} open of {saga} v{version} wait for a worker that knows them: {why}"


def _standing(one: InFlight) -> Standing:
    return Standing(
        saga=one.saga,
        version=one.definition,
        digest=one.digest,
        graph=one.graph,
        state=one.state,
        step=one.step,
    )


def stranded(one: Standing, family: Family | None) -> str | None:
    """Why no class of the build can go on with them; None: one can."""
    definition = None if family is None else family.reading(one.version)
    if family is None:
        return "the app has no such saga"
    if definition is None:
        return "no class has this version, and no @migrates leads from it"
    if definition.version == one.version:
        changed = definition.digest != one.digest
        return "the class was changed without a new version" if changed else None
    graph: Mapping[str, Any] = {} if one.graph is None else orjson.loads(one.graph)
    reasons = [*_steps(one, definition, graph), *_states(one, definition, graph)]
    return "; ".join(reasons) or None


def _steps(one: Standing, definition: Definition, graph: Mapping[str, Any]) -> Iterable[str]:
    """Declared steps that they have begun: the undo of each may be needed."""
    if not definition.steps:
        return
    declared = [str(step["name"]) for step in graph.get("steps", ())]
    for name in _begun(declared, one.step):
        if name_since(definition, one.version, name) not in definition.by_name:
            yield f"step {name!r} is gone without renamed_from= or @migrates(steps=…)"


def _begun(declared: Sequence[str], step: str | None) -> Sequence[str]:
    if step not in declared:
        return declared if step is None else [step]
    return declared[: declared.index(step) + 1]


def _states(one: Standing, definition: Definition, graph: Mapping[str, Any]) -> Iterable[str]:
    """Of a process: the state, what it takes there, and the undos that its log may name."""
    if definition.steps or one.state is None:
        return
    state = name_since(definition, one.version, one.state)
    shape: Mapping[str, Any] = definition.shape
    if state != INITIAL and state not in shape["states"]:
        yield f"state {one.state!r} is gone without @migrates(steps=…)"
        return
    takes = _taken(shape, state)
    for what in sorted(_taken(graph, one.state) - takes):
        yield f"state {state!r} does not take {what} any more"
    for undo in sorted({*graph.get("undos", ())} - {*shape["undos"]}):
        yield f"undo {undo!r} is gone"


def _taken(shape: Mapping[str, Any], state: str) -> set[str]:
    return {what for what, when, _ in shape.get("transitions", ()) if state in when}
