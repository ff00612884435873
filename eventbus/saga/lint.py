"""What is wrong with a saga class, found before it runs (G6)."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

import orjson
from pydantic import BaseModel

from eventbus.errors import Finding, WiringError
from eventbus.event import TypedMessage
from eventbus.saga.definition import Definition, StepSpec, wire_name
from eventbus.saga.purity import accepts_none, impurities
from eventbus.storage.sagas import DefinitionRow

WIDEST = 32  # parallel steps share one row
ELSEWHERE = "SAGA020"  # a command that nobody here handles


def lint(
    definition: Definition,
    *,
    known: Sequence[DefinitionRow] = (),
    handled: Collection[str] | None = None,
) -> list[Finding]:
    """Everything that is wrong, in the order of the steps; `refuse` must not start.

    Args:
        definition: one version of a saga class.
        known: versions of the same saga that stood before.
        handled: wire types of the commands that some group handles; None: not known.
    """
    return [
        *_steps(definition),
        *_pivots(definition),
        *_parallel(definition),
        *_routes(definition),
        *_state(definition),
        *_methods(definition),
        *_versions(definition, known),
        *_handlers(definition, handled),
        *definition.flow.findings(definition),
    ]


def refuse(definition: Definition, **facts: Any) -> None:
    """Let a definition pass that has no error; warnings pass.

    Args:
        definition: one version of a saga class.
        facts: as of `lint`.

    Raises:
        WiringError: EB1232, it has errors; all of them are named.
    """
    errors = [each for each in lint(definition, **facts) if each.level == "refuse"]
    if errors:
        raise WiringError(
            "EB1232",
            f"saga {definition.saga!r} has {len(errors)} error{'s' * (len(errors) != 1)}",
            where=f"{definition.source.__module__}.{definition.source.__qualname__}",
            why="; ".join(f"{each.code} {each.what}" for each in errors),
            next="; ".join(dict.fromkeys(each.next for each in errors)),
        )


def _steps(definition: Definition) -> Iterator[Finding]:
    passed = False
    for spec in definition.steps:
        if spec.pivot or passed:
            if spec.undo is not None:
                yield _error(
                    "SAGA003",
                    f"{spec.name} has an undo, but the pivot is not undone, nor what follows it",
                    "after the pivot a saga only goes forward, so the undo would never run",
                    "remove the undo, or move the step before the pivot",
                )
        else:
            yield from _before_the_pivot(spec)
        if spec.kind in {"command", "call"} and spec.timeout is None:
            yield _error(
                "SAGA005",
                f"{spec.name} has no time limit",
                "if its answer is lost, the saga waits for ever and nobody is told",
                "say timeout= on the step, or step_timeout= on the saga",
            )
        passed = passed or spec.pivot


def _before_the_pivot(spec: StepSpec) -> Iterator[Finding]:
    if spec.kind == "wait":
        if spec.timeout is None and spec.delay is None:
            yield _warning(
                "SAGA011",
                f"{spec.name} waits without a limit",
                "effects of the steps before it are held without end",
                "say timeout= on the wait",
            )
    elif spec.undo is None and spec.no_undo is None:
        yield _error(
            "SAGA001",
            f"{spec.name} has neither an undo nor a reason for having none",
            "when the saga turns back, its effect would stay",
            f"write @{spec.name}.undo, or say no_undo='why it needs none'",
        )


def _pivots(definition: Definition) -> Iterator[Finding]:
    pivots = [spec for spec in definition.steps if spec.pivot]
    for spec in pivots[1:]:
        yield _error(
            "SAGA002",
            f"{spec.name} is a second pivot after {pivots[0].name}",
            "after the first one nothing turns back, so a second says nothing",
            "keep the one after which the saga only goes forward",
        )
    for spec in pivots:
        if spec.kind != "local" and spec.on_unknown not in {"resolve", "stuck"}:
            yield _error(
                "SAGA016",
                f"the pivot {spec.name} does not say what follows when its outcome is unknown",
                "nothing can be undone while it may have taken effect",
                'say on_unknown="resolve", or "stuck"',
            )


def _parallel(definition: Definition) -> Iterator[Finding]:
    for name, group in groupby(definition.steps, key=lambda spec: spec.parallel):
        steps = list(group)
        if name is not None and (len(steps) > WIDEST or any(spec.pivot for spec in steps)):
            wide = f"is {len(steps)} wide" if len(steps) > WIDEST else "has the pivot in it"
            yield _error(
                "SAGA019",
                f"the parallel group {name!r} {wide}",
                f"at most {WIDEST} steps share one saga, and the pivot stands alone",
                "send one command for the batch, or take the pivot out of the group",
            )


def _routes(definition: Definition) -> Iterator[Finding]:
    for route in definition.routes:
        name = route.event.__name__
        wire = route.event.__wire__
        if route.starts and (wire is None or wire.key is None):
            yield _error(
                "SAGA007",
                f"{name} starts the saga and has no key",
                "the key of the starting event is the business key, by which others find the saga",
                f"class {name}(Event, …, key=…)",
            )
        elif not route.starts and route.by is None and (wire is None or wire.key is None):
            yield _error(
                "SAGA007",
                f"{name} has no key, and no by= says how it finds its saga",
                "it would find none",
                "say by= with a field of the event, or give the event a key",
            )
        if route.by is not None and route.by not in route.event.model_fields:
            yield _missing(route.by, name)
        if route.by is not None and definition.by_field and route.by not in _fields(definition):
            yield _missing(route.by, definition.state.__name__)


def _fields(definition: Definition) -> Collection[str]:
    return definition.state.model_fields


def _missing(field: str, name: str) -> Finding:
    return _error(
        "SAGA007",
        f"by={field!r} names no field of {name}",
        "the event and the saga are compared by it",
        f"add the field to {name}, or name another one",
    )


def _state(definition: Definition) -> Iterator[Finding]:
    for path, cls in _messages_in(definition.state, definition.state.__name__, set()):
        yield _error(
            "SAGA008",
            f"{path} stores the message class {cls.__name__}",
            "a message changes with its wire, a stored state with the saga's version",
            "copy the fields that the saga needs",
        )


def _messages_in(
    model: type[BaseModel], path: str, seen: set[type[Any]]
) -> Iterator[tuple[str, type[Any]]]:
    seen.add(model)
    for name, field in model.model_fields.items():
        for cls in _classes_in(field.annotation):
            if issubclass(cls, TypedMessage):
                yield f"{path}.{name}", cls
            elif issubclass(cls, BaseModel) and cls not in seen:
                yield from _messages_in(cls, f"{path}.{name}", seen)


def _classes_in(annotation: Any) -> Iterator[type[Any]]:
    arguments = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and not arguments:
        yield annotation
    for argument in arguments:
        yield from _classes_in(argument)


def _methods(definition: Definition) -> Iterator[Finding]:
    for step, function in definition.undoing.items():
        if not accepts_none(function, 1):
            yield _error(
                "SAGA004",
                f"the undo of {step} does not take None",
                "the outcome may be unknown, then there is no reply",
                "annotate it: reply: … | None",
            )
    for function in definition.pure:
        for what in impurities(function):
            yield _error(
                "SAGA009",
                f"{getattr(function, '__name__', function)} uses {what}",
                "methods of sagas are run again on replays, previews and in the explorer",
                "take time and ids from the event or the reply; do I/O in local and call steps",
            )
    for spec in definition.steps:
        forward, back = spec.command, spec.undo_command
        if forward is None or back is None or forward.__wire__ is None or back.__wire__ is None:
            continue
        if forward.__wire__.key != back.__wire__.key:
            yield _warning(
                "SAGA013",
                f"{back.__name__} has another key than {forward.__name__}",
                "with one key both share a lane at the participant, and deadlocks are rare",
                f"class {back.__name__}(…, key={forward.__wire__.key!r})",
            )


def _versions(definition: Definition, known: Sequence[DefinitionRow]) -> Iterator[Finding]:
    for row in known:
        if row.saga != definition.saga:
            continue
        if row.version == definition.version and row.digest != definition.digest:
            yield _error(
                "SAGA017",
                f"version {row.version} was another one",
                "open sagas are pinned to it",
                "raise version=, and hand the old class over while sagas of it are open",
            )
        if row.version < definition.version and row.version in definition.reads_from:
            yield from _gone(definition, row)


def _gone(definition: Definition, row: DefinitionRow) -> Iterator[Finding]:
    """Steps that a saga of that version may be in, and that this one does not know."""
    names = {each["name"] for each in orjson.loads(row.graph)["steps"]}
    for migration in sorted(definition.migrations, key=lambda each: each.from_version):
        if migration.from_version >= row.version:
            names = {migration.steps.get(name, name) for name in names}
    renamed = {spec.renamed_from for spec in definition.steps}
    for name in sorted(names - renamed - definition.by_name.keys()):
        yield _error(
            "SAGA010",
            f"step {name} of version {row.version} is gone",
            "an open saga may be in it",
            "say renamed_from= on the step that takes its place, or steps= in @migrates",
        )


def _handlers(definition: Definition, handled: Collection[str] | None) -> Iterator[Finding]:
    sent = Counter(
        name
        for spec in definition.steps
        for cls in (spec.command, spec.undo_command)
        if (name := wire_name(cls)) is not None
    )
    for name in sent:
        if handled is not None and name not in handled:
            yield _warning(
                ELSEWHERE,
                f"no group known here handles {name}",
                "it may be another service's; if not, the saga waits for its time limit",
                "hand the @handles function to a bus, and look at the name",
            )


def _error(code: str, what: str, why: str, next: str) -> Finding:
    return Finding(level="refuse", code=code, what=what, why=why, next=next)


def _warning(code: str, what: str, why: str, next: str) -> Finding:
    return Finding(level="warn", code=code, what=what, why=why, next=next)
