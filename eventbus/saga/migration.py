"""Bringing an open saga to a newer version of its class: its state, the names in its log."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from eventbus.errors import SagaError
from eventbus.saga.definition import Definition, Migration
from eventbus.saga.draft import Draft, method_failed
from eventbus.saga.instance import Instance, Steps
from eventbus.saga.step_log import StepLog, changed
from eventbus.storage.sagas import Call


def migrated(definition: Definition, saga: Instance, steps: Steps, now: datetime) -> Draft:
    """The saga as the definition reads it; what was renamed is written with the transition.

    Raises:
        SagaError: EB7007, nothing leads from its version to this one.
        SagaMethodError: EB7002, a migration failed.
    """
    draft = as_it_stands(definition, saga, steps, now)
    draft.data_version = definition.version
    if saga.version == 0 or saga.data_version == definition.version:
        return draft
    if saga.data_version not in definition.reads_from:
        raise _no_way(draft)
    data: dict[str, Any] = orjson.loads(saga.data)
    for migration in _from(definition, saga.data_version):
        data = _changed(draft.where, migration, data)
        _rename(draft, migration.steps)
    _rename(draft, _renames(definition))
    draft.replace_data(orjson.dumps(data))
    return draft


def as_it_stands(definition: Definition, saga: Instance, steps: Steps, now: datetime) -> Draft:
    """The saga of whatever version, to be told something that needs no method of its class."""
    return Draft(definition, saga, StepLog(list(steps)), now)


def name_since(definition: Definition, version: int, step: str) -> str:
    """What a step of that version is called now; the same name if nothing says otherwise."""
    for migration in _from(definition, version):
        step = migration.steps.get(step, step)
    return step if version == definition.version else _renames(definition).get(step, step)


def migrated_call(definition: Definition, call: Call) -> Call:
    """A call as the definition reads it: the state in it, and the name of its step.

    Raises:
        SagaMethodError: EB7002, a migration failed.
    """
    packed: dict[str, Any] = orjson.loads(call.input)
    # Its row moves to a newer version with the saga, what is in it does not.
    version = packed.get("version", call.definition)
    if version == definition.version:
        return call
    state: dict[str, Any] = orjson.loads(packed["state"])
    for migration in _from(definition, version):
        state = _changed(f"{call.saga} {call.saga_id}", migration, state)
    packed["state"] = orjson.dumps(state).decode()
    step = name_since(definition, version, call.step)
    return replace(call, step=step, input=orjson.dumps(packed))


def _from(definition: Definition, version: int) -> Sequence[Migration]:
    known = sorted(definition.migrations, key=lambda each: each.from_version)
    return [each for each in known if each.from_version >= version]


def _renames(definition: Definition) -> dict[str, str]:
    return {spec.renamed_from: spec.name for spec in definition.steps if spec.renamed_from}


def _changed(where: str, migration: Migration, data: dict[str, Any]) -> dict[str, Any]:
    try:
        return migration.function(data)
    except Exception as error:  # the author's function: whatever it raises
        raise method_failed(migration.function, where, error) from error


def _rename(draft: Draft, names: Any) -> None:
    for row in draft.log.rows:
        if row.name in names:
            draft.log.put(changed(row, name=names[row.name]))
    if draft.state_name is not None:
        draft.state_name = names.get(draft.state_name, draft.state_name)


def _no_way(draft: Draft) -> SagaError:
    version, saga = draft.before.data_version, draft.definition
    return SagaError(
        "EB7007",
        f"saga {draft.where} is at version {version}, which version {saga.version} cannot read",
        where=saga.source.__qualname__,
        why="no @migrates leads from there",
        next=f"hand the class of version {version} to the bus as well, or write @migrates",
    )
