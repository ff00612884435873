"""Mutants of saga rows on PostgreSQL: one seam each, with the suite's test or race that sees it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eventbus.postgres import (
    saga_calls,
    saga_effects,
    saga_instances,
    saga_save,
    saga_stash,
    saga_sweep,
    saga_timers,
)
from tests.faults.mutants_storage import Mutant, Patch, both, instead, text

SAGA_RACES = "SagaRaces"  # of tests/integration/postgres/saga_races.py
EARLY = "an_early_event_that_was_first_is_drained_by_the_start"


def _steps_before_the_lock(real: Callable[..., Any]) -> Callable[..., Any]:
    async def lock(session: Any, ids: Any) -> Any:
        sql = saga_instances._STEPS.format(schema=session.schema)
        before = await session.fetch(sql, list(ids), where="sagas.lock")
        found = await real(session, ids)
        return found if before else [_without_steps(record) for record in found]

    return lock


def _without_steps(record: Any) -> Any:
    return replace(record, steps=[])


def _no_lock(_: Any) -> Callable[..., Any]:
    async def lock_keys(session: Any, keys: Any) -> None:
        return None

    return lock_keys


def _all_new(_: Any) -> Callable[..., bool]:
    return lambda effect, fresh: True


_TABLE: dict[str, list[tuple[str, Patch, str]]] = {
    "SagaSuite": [
        (
            "save does not compare versions",
            text(saga_save, " AND s.version = c.was FOR", " FOR", "_SAVE"),
            "test_a_change_without_the_lock_is_refused_and_nothing_is_written",
        ),
        (
            "an upsert forgets the reply",
            text(saga_save, "reply = excluded.reply, error", "error", "_SAVE"),
            "test_a_step_is_changed_by_number_and_phase",
        ),
        (
            "a digest is not compared",
            text(
                saga_instances,
                "DO NOTHING",
                "(saga_type, version) DO UPDATE SET digest = excluded.digest",
                "_REGISTER",
            ),
            "test_a_known_version_with_another_digest_is_refused",
        ),
        (
            "a timer fires before its time",
            both(
                text(saga_timers, "x.due_at <= statement_timestamp()", "true", "_LOCK_DUE"),
                text(saga_timers, "due_at <= statement_timestamp()", "true", "_FIRE"),
            ),
            "test_a_timer_fires_once_after_its_delay",
        ),
        (
            "arming again keeps the old time",
            text(
                saga_save,
                "epoch = excluded.epoch, due_at = excluded.due_at",
                "epoch = excluded.epoch",
                "_SAVE",
            ),
            "test_timers_are_moved_and_disarmed",
        ),
        (
            "timers of every version fire",
            text(saga_timers, "x.def_version = t.def_version", "true", "_LOCK_DUE"),
            "test_only_own_definitions_fire_and_at_most_so_many_sagas",
        ),
        (
            "a timer keeps the version at which it was armed",
            text(saga_save, "t.def_version <> i.def_version OR", "false OR", "_SAVE"),
            "test_timers_follow_their_saga_to_another_version",
        ),
        (
            "a pause forgets what was left",
            text(
                saga_save,
                "ELSE statement_timestamp() + t.remaining",
                "ELSE statement_timestamp()",
                "_SAVE",
            ),
            "test_a_pause_freezes_timers_and_keeps_what_was_left",
        ),
        (
            "a saga that ended keeps its timers",
            text(saga_save, "WHERE i.final OR", "WHERE false OR", "_SAVE"),
            "test_a_saga_that_ended_has_no_timers",
        ),
        (
            "a zombie ends a call",
            text(saga_calls, "AND c.fence = h.fence", "", "_FINISH"),
            "test_a_call_is_claimed_by_one_and_taken_over_when_its_lease_ended",
        ),
        (
            "a claimed call is free",
            text(saga_calls, "AND x.due_at <= statement_timestamp()", "", "_CLAIM"),
            "test_a_call_is_kept_by_renewing_and_given_back_at_once",
        ),
        (
            "the sweep leaves correlations",
            instead(saga_sweep, "_HANGS_ON_IT", lambda _: ()),
            "test_a_sweep_forgets_what_finished_long_ago_and_frees_its_key",
        ),
    ],
    "EffectSuite": [
        (
            "no tombstone: a late command runs after its undo",
            instead(saga_effects, "_is_first", _all_new),
            "test_an_undo_before_its_forward_command_bars_it_for_ever",
        ),
        (
            "the reply is not stored",
            text(saga_effects, "ELSE u.reply END", "ELSE e.reply END", "_FINISH"),
            "test_a_reply_is_stored_and_said_again",
        ),
        (
            "an undo overwrites the reply",
            text(saga_effects, "THEN e.reply ELSE", "THEN u.reply ELSE", "_FINISH"),
            "test_an_undo_keeps_both_replies_and_happens_once",
        ),
        (
            "a lease is taken over while it runs",
            both(
                text(saga_effects, "AND lease_until <= statement_timestamp()", "", "_STANDS"),
                text(saga_effects, "AND e.lease_until <= statement_timestamp()", "", "_TAKE_OVER"),
            ),
            "test_work_under_a_lease_is_taken_over_when_it_ended",
        ),
        (
            "a worker whose lease ended stores its outcome",
            text(saga_effects, "e.fence = u.fence AND", "", "_FINISH"),
            "test_work_under_a_lease_is_taken_over_when_it_ended",
        ),
        (
            "what was rejected is undone",
            text(saga_effects, "IN ('done', 'unknown')", "IN ('done', 'rejected')", "_FINISH"),
            "test_what_never_ran_or_was_rejected_is_not_undone",
        ),
        (
            "effects go with sagas",
            instead(saga_sweep, "EFFECTS_ARE_KEPT", lambda kept: kept / 3),
            "test_effects_are_kept_as_long_as_commands_may_come",
        ),
    ],
    SAGA_RACES: [
        (
            "steps are read before the lock",
            instead(saga_instances, "lock", _steps_before_the_lock),
            "who_waited_for_a_saga_reads_its_steps_of_now",
        ),
        (
            "a timer waits for a busy saga",
            text(saga_timers, "OF i SKIP LOCKED", "OF i", "_LOCK_DUE"),
            "a_timer_leaves_a_saga_whose_reply_is_at_work",
        ),
        (
            "a timer takes no lock",
            text(saga_timers, " FOR NO KEY UPDATE OF i SKIP LOCKED", "", "_LOCK_DUE"),
            "a_timer_leaves_a_saga_whose_reply_is_at_work",
        ),
        (
            "a saga is read without its lock",
            text(saga_instances, " FOR NO KEY UPDATE", "", "_LOCK"),
            "a_reply_waits_for_the_timer_and_sees_what_it_did",
        ),
        ("keys are not locked", instead(saga_instances, "lock_keys", _no_lock), EARLY),
        (
            "keys are not locked for the event",
            instead(saga_instances, "lock_keys", _no_lock),
            "an_early_event_that_is_second_finds_its_saga",
        ),
        (
            "starts go in as they came",
            text(
                saga_instances, 'ORDER BY t COLLATE "C", k COLLATE "C", o', "ORDER BY o", "_START"
            ),
            "batches_that_start_the_same_sagas_take_them_in_one_order",
        ),
        (
            "of a batch is written what fits",
            text(
                saga_save, "AND (SELECT count(*) FROM held) = (SELECT count(*) FROM c)", "", "_SAVE"
            ),
            "without_the_lock_nothing_of_a_batch_is_written",
        ),
        (
            "a claim takes what another claims",
            text(saga_calls, "FOR UPDATE SKIP LOCKED", "", "_CLAIM"),
            "a_call_has_one_owner",
        ),
        (
            "the fence does not wait",
            text(saga_effects, "ORDER BY effect_id FOR UPDATE", "ORDER BY effect_id", "_STANDS"),
            "of_two_undos_the_second_waits_and_finds_it_undone",
        ),
        (
            "the last one to insert wins",
            text(
                saga_effects,
                "ON CONFLICT (effect_id) DO NOTHING",
                "ON CONFLICT (effect_id) DO UPDATE SET state = excluded.state",
                "_BEGIN",
            ),
            "a_forward_command_that_waited_for_its_undo_meets_the_tombstone",
        ),
        (
            "a duplicate runs again",
            instead(saga_effects, "_is_first", _all_new),
            "a_duplicate_that_waited_gets_the_answer_of_the_first",
        ),
        (
            "the sweep waits for who holds a saga",
            text(
                saga_sweep,
                "LIMIT {limit} FOR UPDATE SKIP LOCKED",
                "LIMIT {limit} FOR UPDATE",
                "_OLD",
            ),
            "the_sweep_leaves_a_saga_that_a_late_reply_holds",
        ),
        (
            "the sweep waits for who drains",
            text(saga_stash, "FOR UPDATE SKIP LOCKED", "FOR UPDATE", "_EXPIRE"),
            "the_sweep_takes_no_input_that_its_saga_drains",
        ),
    ],
}
GIVEN = {"test_a_reply_is_stored_and_said_again": {"state": "done"}}
MUTANTS = [
    Mutant(name, patch, suite, test, GIVEN.get(test, {}))
    for suite, found in _TABLE.items()
    for name, patch, test in found
]
