"""Mutants of saga rows on SQLite: one seam each, with the test that must see it."""

from collections.abc import Callable
from typing import Any

from eventbus.message import Message
from eventbus.sqlite import (
    saga_calls,
    saga_effects,
    saga_instances,
    saga_stash,
    saga_sweep,
    saga_timers,
)
from eventbus.storage import saga_verdicts
from tests.faults.mutants_storage import Mutant, Patch, instead, text


def _never_ended(real: Callable[..., None]) -> Callable[..., None]:
    def write(connection: Any, change: Any, *, ended: bool) -> None:
        real(connection, change, ended=False)

    return write


def _key_by_key(real: Callable[..., Any]) -> Callable[..., Any]:
    def drain(connection: Any, keys: Any) -> list[Any]:
        return [one for key in keys for one in real(connection, [key])]

    return drain


def _as_asked(_: Any) -> Callable[[Any], list[str]]:
    def in_order(ids: Any) -> list[str]:
        return [str(one) for one in ids]

    return in_order


def _shared_key(_: Any) -> Callable[[Message], str | None]:
    def own_key(message: Message) -> str | None:
        return message.key

    return own_key


_TABLE: dict[str, list[tuple[str, Patch, str]]] = {
    "SagaSuite": [
        (
            "a finished saga frees its key",
            text(
                saga_instances,
                "ON CONFLICT (saga_type, business_key) DO NOTHING",
                "ON CONFLICT (saga_type, business_key) DO UPDATE SET saga_id = excluded.saga_id",
                "_START",
            ),
            "test_a_business_key_that_stands_wins_even_when_its_saga_is_over",
        ),
        (
            "save does not compare versions",
            text(saga_instances, "AND version = ?", "AND ? >= 0", "_VERSION"),
            "test_a_change_without_the_lock_is_refused_and_nothing_is_written",
        ),
        (
            "an upsert forgets the reply",
            text(saga_instances, "reply = excluded.reply, error", "error", "_STEP"),
            "test_a_step_is_changed_by_number_and_phase",
        ),
        (
            "a digest is not compared",
            text(
                saga_instances,
                "SELECT digest FROM",
                "SELECT digest FROM (SELECT * FROM eventbus_saga_definition WHERE false) AS",
                "_KNOWN",
            ),
            "test_a_known_version_with_another_digest_is_refused",
        ),
        (
            "records come as asked",
            instead(saga_instances, "sorted_ids", _as_asked),
            "test_records_come_in_the_order_of_their_ids",
        ),
        (
            "a timer fires before its time",
            text(saga_timers, "due_at <= eventbus_now()", "due_at > 0", "_DUE", "_FIRE"),
            "test_a_timer_fires_once_after_its_delay",
        ),
        (
            "arming again keeps the old time",
            text(saga_timers, "due_at = excluded.due_at, ", "", "_ARM"),
            "test_timers_are_moved_and_disarmed",
        ),
        (
            "timers of every version fire",
            text(saga_timers, "t.def_version = ?", "? > 0", "_DUE"),
            "test_only_own_definitions_fire_and_at_most_so_many_sagas",
        ),
        (
            "a timer keeps the version at which it was armed",
            text(saga_timers, "?1 WHERE saga_id", "def_version WHERE ?1 AND saga_id", "_MOVE"),
            "test_timers_follow_their_saga_to_another_version",
        ),
        (
            "a pause forgets what was left",
            text(saga_timers, "eventbus_now() + remaining", "eventbus_now()", "_THAW"),
            "test_a_pause_freezes_timers_and_keeps_what_was_left",
        ),
        (
            "a saga that ended keeps its timers",
            instead(saga_timers, "write", _never_ended),
            "test_a_saga_that_ended_has_no_timers",
        ),
        (
            "a claim draws no fence",
            text(saga_calls, "fence = fence + 1, ", "", "_CLAIM"),
            "test_a_call_is_claimed_by_one_and_taken_over_when_its_lease_ended",
        ),
        (
            "a zombie ends a call",
            text(saga_calls, "AND fence = ?", "AND ? >= 0", "_FINISH"),
            "test_a_call_is_claimed_by_one_and_taken_over_when_its_lease_ended",
        ),
        (
            "a claimed call is free",
            text(saga_calls, "AND due_at <= eventbus_now()", "", "_CLAIM"),
            "test_a_call_is_kept_by_renewing_and_given_back_at_once",
        ),
        (
            "the stash is drained key by key",
            instead(saga_stash, "drain", _key_by_key),
            "test_early_inputs_are_drained_once_in_the_order_of_arrival",
        ),
        (
            "an expired input holds its key",
            instead(saga_verdicts, "own_key", _shared_key),
            "test_an_expired_input_becomes_a_dead_letter_that_holds_no_other",
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
            text(
                saga_effects,
                "state = 'executing' AND lease_until <= eventbus_now()",
                "state = 'fenced'",
                "_TAKE_OVER",
            ),
            "test_an_undo_before_its_forward_command_bars_it_for_ever",
        ),
        (
            "the reply is not stored",
            text(saga_effects, "reply = ?3", "reply = substr(?3, 1, 0)", "_END"),
            "test_a_reply_is_stored_and_said_again",
        ),
        (
            "an undo overwrites the reply",
            text(
                saga_effects,
                "undo_reply_type = ?, undo_reply = ?",
                "reply_type = ?, reply = ?",
                "_UNDONE",
            ),
            "test_an_undo_keeps_both_replies_and_happens_once",
        ),
        (
            "a lease is taken over while it runs",
            text(saga_effects, "AND lease_until <= eventbus_now()", "", "_TAKE_OVER"),
            "test_work_under_a_lease_is_taken_over_when_it_ended",
        ),
        (
            "a worker whose lease ended stores its outcome",
            text(saga_effects, "AND fence = ?", "AND ? >= 0", "_STATE"),
            "test_work_under_a_lease_is_taken_over_when_it_ended",
        ),
        (
            "what was rejected is undone",
            instead(saga_effects, "_AFTER", lambda real: real | {"undone": {"done", "rejected"}}),
            "test_what_never_ran_or_was_rejected_is_not_undone",
        ),
        (
            "effects go with sagas",
            instead(saga_sweep, "EFFECTS_ARE_KEPT", lambda kept: kept / 3),
            "test_effects_are_kept_as_long_as_commands_may_come",
        ),
    ],
}


MUTANTS = [
    Mutant(name, patch, suite, test)
    for suite, mutants in _TABLE.items()
    for name, patch, test in mutants
]
