"""Mutants of the engine of sagas: one seam each, with the test that must see it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from eventbus.pubsub.verdict import Verdicts
from eventbus.saga import advance, calls, engine, timers
from eventbus.saga.calls import CallWorker
from eventbus.saga.handover import Handover
from eventbus.saga.migration import migrated
from eventbus.saga.outgoing import Sender
from eventbus.saga.transition import Transition
from eventbus.sqlite.sagas import SqliteSagas
from eventbus.storage.sagas import Correlation
from tests.faults.mutants_storage import Mutant, Patch, instead


def _nothing(_: Callable[..., Any]) -> Callable[..., Any]:
    async def mutated(*args: Any, **keywords: Any) -> None:
        return None

    return mutated


def _nothing_now(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **keywords: None


def _no_tenant(_: Any) -> Any:
    return property(lambda self: "")


def _whatever_the_fence(_: Callable[..., Any]) -> Callable[..., Any]:
    async def mutated(self: Any, given: Sequence[Any]) -> Sequence[Any]:
        return given

    return mutated


def _without_commands(write: Callable[..., Any]) -> Callable[..., Any]:
    async def mutated(tx: Any, transitions: Sequence[Transition], *others: Any) -> None:
        for each in transitions:
            each.messages.clear()
        await write(tx, transitions, *others)

    return mutated


def _of_nothing(reminder: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, keys, cause: reminder(self, (), cause)


def _never_again(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda spec, call: False


def _as_it_is(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda definition, call: call


def _without_timer(change: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *, worker: replace(change(self, worker=worker), arm=())


def _by_another_name(self: Any, key: Any) -> Any:
    return Correlation(self.family.name, f"not {key.name}", key.value)


_TABLE: list[tuple[str, Patch, str]] = [
    (
        "commands are not in the state's transaction",
        instead(engine, "write", _without_commands),
        "test_a_saga_whose_steps_succeed_is_completed",
    ),
    (
        "timers send nothing",
        instead(timers, "write", _without_commands),
        "test_what_is_sent_at_a_timer_belongs_to_the_tenant_of_the_saga",
    ),
    (
        "what came before its saga is not offered",
        instead(Transition, "_offer_again", _nothing),
        "test_a_cancel_before_its_saga_waits_for_it",
    ),
    (
        "a key that was added does not remind",
        instead(Sender, "reminder", _of_nothing),
        "test_an_event_for_a_key_of_the_state_may_come_before_its_saga",
    ),
    (
        "a key that was added finds nothing",
        instead(Transition, "_correlation", lambda _: _by_another_name),
        "test_local_steps_calls_and_waits_run_in_the_worker",
    ),
    (
        "a paused saga takes its inputs",
        instead(Transition, "is_closed", lambda _: property(lambda self: False)),
        "test_a_pause_holds_inputs_and_timers_until_it_is_resumed",
    ),
    (
        "what is held is forgotten",
        instead(Transition, "_hold", _nothing_now),
        "test_a_pause_holds_inputs_and_timers_until_it_is_resumed",
    ),
    (
        "a timer forgets the tenant",
        instead(Sender, "tenant", _no_tenant),
        "test_what_is_sent_at_a_timer_belongs_to_the_tenant_of_the_saga",
    ),
    (
        "an end counts whatever its fence",
        instead(SqliteSagas, "finish_calls", _whatever_the_fence),
        "test_a_zombie_whose_call_somebody_else_ended_changes_nothing",
    ),
    (
        "a call is not tried again",
        instead(calls, "_may_try_again", _never_again),
        "test_a_call_that_fails_is_tried_again_under_its_effect_id",
    ),
    (
        "an end that cannot be taken is lost",
        instead(CallWorker, "_stuck", _nothing),
        "test_an_end_that_the_code_cannot_take_makes_it_stuck_and_the_call_runs_again",
    ),
    (
        "what is handed over calls for nobody",
        instead(Handover, "change", _without_timer),
        "test_an_answer_at_a_worker_without_the_version_is_taken_by_one_that_has_it",
    ),
    (
        "what was handed over is not taken",
        instead(Transition, "take_over", _nothing),
        "test_an_answer_at_a_worker_without_the_version_is_taken_by_one_that_has_it",
    ),
    (
        "what comes late is kept for ever",
        instead(Handover, "has_ended", lambda _: property(lambda self: False)),
        "test_an_input_of_an_ended_saga_is_late_at_a_worker_without_its_version",
    ),
    (
        "a call is not migrated",
        instead(calls, "migrated_call", _as_it_is),
        "test_a_migrating_version_takes_over_steps_and_calls_under_their_new_names",
    ),
    (
        "who gives up migrates",
        instead(advance, "as_it_stands", lambda _: migrated),
        "test_a_saga_that_a_migration_cannot_read_is_stuck_and_keeps_its_version",
    ),
    (
        "nobody hears of a dead letter",
        instead(Verdicts, "buried", _nothing),
        "test_an_input_that_fails_every_time_makes_its_saga_stuck_and_retry_redrives_it",
    ),
]


MUTANTS = [Mutant(name, patch, "", test, {}) for name, patch, test in _TABLE]
