"""Bringing an open saga to a newer version of its class: its state, the names in its log."""

from datetime import datetime
from typing import Any

import orjson

from eventbus.errors import SagaError
from eventbus.saga.definition import Definition, Migration
from eventbus.saga.draft import Draft, method_failed
from eventbus.saga.instance import Instance, Steps
from eventbus.saga.step_log import StepLog, changed


def migrated(definition: Definition, saga: Instance, steps: Steps, now: datetime) -> Draft:
    """The saga as the definition reads it; what was renamed is written with the transition.

    Raises:
        SagaError: EB7007, nothing leads from its version to this one.
        SagaMethodError: EB7002, a migration failed.
    """
    draft = Draft(definition, saga, StepLog(list(steps)), now)
    if saga.version == 0 or saga.data_version == definition.version:
        return draft
    if saga.data_version not in definition.reads_from:
        raise _no_way(draft)
    data: dict[str, Any] = orjson.loads(saga.data)
    for migration in sorted(definition.migrations, key=lambda each: each.from_version):
        if migration.from_version >= saga.data_version:
            data = _changed(draft, migration, data)
            _rename(draft, migration.steps)
    renames = {spec.renamed_from: spec.name for spec in definition.steps if spec.renamed_from}
    _rename(draft, renames)
    draft.replace_data(orjson.dumps(data))
    return draft


def _changed(draft: Draft, migration: Migration, data: dict[str, Any]) -> dict[str, Any]:
    try:
        return migration.function(data)
    except Exception as error:  # the author's function: whatever it raises
        raise method_failed(migration.function, draft.where, error) from error


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
