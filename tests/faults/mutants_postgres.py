"""Mutants of the PostgreSQL storage: one seam each, with the suite's test or race that sees it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import count
from typing import Any

import pytest

from eventbus.message import Message
from eventbus.postgres import (
    checkpoints,
    completion,
    inbox,
    leases,
    outbox,
    parking,
    rows,
    session,
    transaction,
    upgrade,
    verbs,
)
from tests.faults.mutants_storage import ARGUMENTS, Mutant, Patch, both, instead, text

RACES = "Races"  # of tests/integration/postgres/races.py, beside the names of suites


def migrated(old: str, new: str) -> Patch:
    """Replace a part of the first migration: functions stand there."""

    def patch(patching: pytest.MonkeyPatch) -> None:
        known = upgrade.migrations()
        assert old in known[0].text, f"the migration has no {old!r} any more: mend the mutant"
        mutated = (replace(known[0], text=known[0].text.replace(old, new, 1)), *known[1:])
        patching.setattr(upgrade, "migrations", lambda: mutated)

    return patch


def _flushed_first(add: Any) -> Any:
    async def mutated(self: Any, messages: Any, *, delay: Any = None) -> None:
        await add(self, messages, delay=delay)
        await outbox.flush(self._session)

    return mutated


def _backwards(flush: Any) -> Any:
    async def mutated(owner: session.Session) -> None:
        owner.outgoing.reverse()
        await flush(owner)

    return mutated


def _kept_in_python(_: Any) -> Any:
    async def mutated(self: session.Session, point: Any) -> None:
        if point.name is not None and self.connection is not None:
            self._unreleased = point.name

    return mutated


def _never_doomed(_: Any) -> Any:
    def mutated(self: session.Session, failure: Any) -> None:
        return None

    return mutated


def _by_the_clock(_: Any) -> Any:
    days = count()

    def mutated(message: Message) -> date:
        return date.today() + timedelta(days=next(days) % 7)

    return mutated


def _by_id_alone(original: Any) -> Any:
    def mutated(messages: Sequence[Message]) -> Any:
        return original([replace(message, source="") for message in messages])

    return mutated


def _committed(_: Any) -> Any:
    async def mutated(owner: session.Session) -> None:
        await completion.commit(owner, lambda work: None)

    return mutated


EVERY_EPOCH = "AND l.epoch = e.epoch"
HELD = """  SELECT array_agg(k.key) INTO held
    FROM (SELECT key FROM {schema}.parked_keys
           WHERE group_name = _group AND key = ANY(_keys) ORDER BY key FOR KEY SHARE) k;
"""
KEEPS = "CASE WHEN _lease IS NULL OR excluded.due_at = '-infinity' THEN k.due_at"
STATES = "CASE WHEN _lease IS NULL OR excluded.due_at = '-infinity' THEN k.state"
ONE_EFFECT = "test_every_message_has_one_effect_and_every_key_its_order"
FENCED = "nobody_takes_over_before_what_is_written_under_the_lease_is_committed"


def _held_first(patching: pytest.MonkeyPatch) -> None:
    known = upgrade.migrations()
    sql = known[0].text
    assert HELD in sql, "receive reads the keys in another way: mend the mutant"
    begin = "BEGIN\n  WITH ins AS ("
    sql = sql.replace(HELD, "", 1).replace(begin, f"BEGIN\n{HELD}  WITH ins AS (", 1)
    mutated = (replace(known[0], text=sql), *known[1:])
    patching.setattr(upgrade, "migrations", lambda: mutated)


def _left_open(_: Any) -> Any:
    def mutated(connection: Any) -> None:
        return None

    return mutated


_TABLE: dict[str, list[tuple[str, Patch, str]]] = {
    "AbandonedSuite": [
        (
            "given up, its connection stays",
            instead(session, "cut", _left_open),
            "test_others_get_what_it_held_while_its_task_is_still_in_it",
        ),
        (
            "given up, it goes on",
            instead(session.Session, "_fail", _never_doomed),
            "test_before_its_first_statement_it_never_begins",
        ),
    ],
    "TransactionSuite": [
        (
            "a rollback commits",
            instead(transaction, "roll_back", _committed),
            "test_a_rollback_leaves_nothing",
        ),
        (
            "a savepoint's rollback leaves SQL rows",
            instead(session.Session, "_back_to", _kept_in_python),
            "test_a_rolled_back_savepoint_leaves_nothing_and_the_rest_stays",
        ),
        (
            "a failed statement dooms nothing",
            instead(session.Session, "_fail", _never_doomed),
            "test_a_failed_statement_dooms_and_the_next_one_says_why",
        ),
    ],
    "LeaseSuite": [
        (
            "acquire ignores until",
            text(leases, "AND until < statement_timestamp()", "", "_ACQUIRE"),
            "test_a_name_has_one_owner",
        ),
        (
            "the epoch does not rise",
            text(leases, "epoch = l.epoch + 1", "epoch = l.epoch", "_ACQUIRE"),
            "test_a_lease_runs_out_and_the_epoch_rises",
        ),
        (
            "renew revives what another has taken",
            both(
                text(leases, "AND l.epoch = h.epoch", "", "_RENEW"),
                text(leases, "RETURNING l.name, l.epoch", "RETURNING l.name, h.epoch", "_RENEW"),
            ),
            "test_after_a_loss_renewing_fails_and_harms_nobody",
        ),
        (
            "release frees what another has taken",
            text(leases, "AND l.epoch = h.epoch", "", "_RELEASE"),
            "test_after_a_loss_releasing_changes_nothing",
        ),
        (
            "renew does not extend",
            text(
                leases,
                "statement_timestamp() + $3::interval",
                "l.until + 0 * $3::interval",
                "_RENEW",
            ),
            "test_renewing_extends",
        ),
        (
            "owners count what ran out",
            text(leases, "AND until >= statement_timestamp()", "", "_OWNERS"),
            "test_owners_are_counted_while_they_hold",
        ),
        (
            "a prefix is a pattern",
            text(leases, "starts_with(name, $1)", "name LIKE $1 || '%'", "_OWNERS"),
            "test_names_with_a_common_prefix_stay_apart",
        ),
    ],
    "OutboxSuite": [
        (
            "rows are flushed first",
            instead(outbox.PostgresOutbox, "add", _flushed_first),
            "test_rows_are_written_when_the_block_is_left",
        ),
        (
            "rows are flushed backwards",
            instead(completion, "flush", _backwards),
            "test_rows_leave_in_the_order_in_which_they_were_added",
        ),
        (
            "settle without the epoch",
            text(outbox, EVERY_EPOCH, "", "_SETTLE"),
            "test_settling_under_a_lost_lease_keeps_the_rows",
        ),
        (
            "defer without the epoch",
            text(outbox, EVERY_EPOCH, "", "_DEFER"),
            "test_deferring_under_a_lost_lease_changes_nothing",
        ),
        (
            "who is no owner promotes",
            text(outbox, EVERY_EPOCH, "", "_PROMOTE"),
            "test_only_the_owner_promotes",
        ),
        (
            "a deferred row does not hold its key",
            text(outbox, "AND d.due_at > statement_timestamp()", "AND false", "_READ"),
            "test_a_deferred_row_holds_its_key_and_no_other",
        ),
        (
            "a deferred row holds other keys",
            text(outbox, "AND d.key = b.key", "", "_READ"),
            "test_a_deferred_row_holds_its_key_and_no_other",
        ),
        (
            "a failed row is retried by itself",
            text(outbox, "'infinity'", "statement_timestamp()", "_DEFER"),
            "test_a_failed_row_stays_and_its_key_waits",
        ),
        (
            "promote ignores the due time",
            text(outbox, "b.due_at <= statement_timestamp()", "true", "_PROMOTE", "_ANY_DUE"),
            "test_a_delayed_row_comes_when_it_is_promoted_and_holds_nothing_before",
        ),
    ],
    "InboxSuite": [
        (
            "dead keys are not held",
            migrated("AND key = ANY(_keys) ORDER", "AND state = 0 AND key = ANY(_keys) ORDER"),
            "test_keys_that_are_held_are_told",
        ),
        (
            "the day comes from the clock",
            instead(rows, "day_of", _by_the_clock),
            "test_a_duplicate_after_midnight_is_recognised",
        ),
        (
            "ids go without their source",
            instead(inbox, "identities_and_days", _by_id_alone),
            "test_foreign_ids_are_equal_only_within_their_source",
        ),
        (
            "forget forgets for every group",
            text(inbox, "i.group_name = $1", "$1 <> ''", "_FORGET"),
            "test_what_is_forgotten_is_new_again",
        ),
        (
            "a parked message is counted apart",
            both(
                text(inbox, "WHERE group_name = $1 AND", "WHERE false AND $1 <> '' AND", "_COUNT"),
                text(inbox, "WHERE NOT EXISTS", "WHERE true OR NOT EXISTS", "_COUNT"),
            ),
            "test_a_parked_message_is_counted_where_it_is_parked",
        ),
        (
            "attempts fall when it is parked again",
            migrated("greatest(p.attempts, excluded.attempts)", "excluded.attempts"),
            "test_attempts_of_a_parked_message_never_fall",
        ),
    ],
    "ParkingSuite": [
        (
            "park without the epoch",
            migrated("name = _lease AND epoch = _epoch", "name = _lease"),
            "test_parking_under_a_lost_lease_is_refused",
        ),
        (
            "settle without the epoch of parking",
            text(parking, "AND epoch = $2", "AND $2 > 0", "_SETTLE"),
            "test_settling_under_a_lost_lease_is_refused",
        ),
        (
            "a dead key is redelivered",
            text(parking, "AND state = 0 ", "", "_DUE"),
            "test_a_failure_without_delay_is_dead_and_holds_its_key",
        ),
        (
            "a row without a failure makes its key dead",
            migrated("WHEN d IS NULL AND re IS NOT NULL THEN 1", "WHEN d IS NULL THEN 1"),
            "test_the_redelivery_speaks_for_the_key",
        ),
        (
            "a lane moves what a held key waits for",
            both(
                migrated(KEEPS, KEEPS.replace("_lease IS NULL OR ", "")),
                migrated(STATES, STATES.replace("_lease IS NULL OR ", "")),
            ),
            "test_a_lane_does_not_move_what_a_held_key_waits_for",
        ),
        (
            "the redelivery does not speak for the key",
            both(
                migrated(KEEPS, KEEPS.replace("_lease IS NULL OR", "true OR")),
                migrated(STATES, STATES.replace("_lease IS NULL OR", "true OR")),
            ),
            "test_the_redelivery_speaks_for_the_key",
        ),
        (
            "a closing round frees a key that is not empty",
            text(parking, "NOT EXISTS", "true OR NOT EXISTS", "_FREE"),
            "test_a_closing_round_that_leaves_something_keeps_its_key",
        ),
    ],
    "CheckpointSuite": [
        (
            "a checkpoint without compare",
            text(checkpoints, "AND position = $3", "AND $3 >= 0", "_SAVE"),
            "test_a_save_after_another_position_is_refused",
        ),
        (
            "a checkpoint without the epoch",
            text(checkpoints, "AND epoch = $5", "AND $5 > 0", "_SAVE"),
            "test_a_save_under_a_lost_lease_is_refused",
        ),
    ],
    "InspectionSuite": [
        (
            "a retry keeps the attempts",
            text(verbs, ", attempts = 0", "", "_RETRY"),
            "test_a_retried_row_of_the_outbox_goes_first_of_its_key",
        ),
        (
            "a restored letter goes to the end",
            text(verbs, "OVERRIDING SYSTEM VALUE", "OVERRIDING USER VALUE", "_RESTORE"),
            "test_a_discarded_letter_lets_the_next_go_and_restored_it_goes_first",
        ),
        (
            "a pause runs out",
            text(verbs, "'infinity'", "statement_timestamp() + interval '1 s'", "_PAUSE"),
            "test_what_is_paused_is_a_lease_until_it_is_resumed",
        ),
    ],
    RACES: [
        (
            "names that are known are inserted again",
            both(
                text(leases, "WHERE NOT EXISTS", "WHERE true OR NOT EXISTS", "_KNOW"),
                text(leases, "AND cardinality($1::text[]) = (", "AND 0 < (", "_ACQUIRE"),
            ),
            "who_acquires_names_of_which_one_is_just_being_taken_gets_the_rest_at_once",
        ),
        (
            "without FOR KEY SHARE a key is freed under a lane",
            migrated("ORDER BY key FOR KEY SHARE", "ORDER BY key"),
            "a_key_that_a_lane_saw_held_stays_held_for_all",
        ),
        (
            "a key is freed in one statement",
            text(parking, " FOR UPDATE SKIP LOCKED", "", "_EMPTY"),
            "who_frees_a_key_waits_and_looks_again",
        ),
        (
            "the fence of parking does not last to the commit",
            migrated("AND epoch = _epoch FOR SHARE", "AND epoch = _epoch"),
            FENCED,
        ),
        (
            "the fence of settling does not last to the commit",
            text(parking, "epoch = $2 FOR SHARE", "epoch = $2", "_SETTLE"),
            FENCED,
        ),
        (
            "held keys are read before the ids are inserted",
            _held_first,
            "keys_parked_by_whom_one_waited_for_are_held",
        ),
        (
            "a key row that is there is not locked by who parks",
            migrated(
                "ON CONFLICT (group_name, key) DO UPDATE SET\n      due_at = ",
                "ON CONFLICT (group_name, key) DO NOTHING;\n"
                "  UPDATE {schema}.parked_keys k SET due_at = due_at FROM"
                " (SELECT '-infinity'::timestamptz AS due_at, 0 AS state) excluded"
                " WHERE false AND k.due_at = ",
            ),
            "a_key_row_that_was_there_is_locked_by_who_parks",
        ),
        (
            "a closing round does not lock its key",
            migrated("AND state = 0 FOR UPDATE", "AND state = 0"),
            "a_lane_with_the_key_and_a_closing_round_never_meet",
        ),
        (
            "the lock of a closing round keeps its time-out for the handlers",
            migrated(
                "VOLATILE SET lock_timeout = '1s' AS $$\nBEGIN",
                "VOLATILE AS $$\nBEGIN\n  PERFORM set_config('lock_timeout', '1s', true);",
            ),
            "the_lock_of_a_closing_round_leaves_handlers_their_own_time_out",
        ),
    ],
    "StressSuite": [
        (
            "held keys are not reported to busy lanes",
            migrated("WHERE group_name = _group AND key = ANY(_keys)", "WHERE false AND true"),
            ONE_EFFECT,
        ),
        (
            "zombies park and settle",
            both(
                migrated("name = _lease AND epoch = _epoch", "name = _lease"),
                text(parking, "AND epoch = $2", "AND $2 > 0", "_SETTLE", "_FENCE"),
            ),
            ONE_EFFECT,
        ),
    ],
}
GIVEN = ARGUMENTS | {"test_names_with_a_common_prefix_stay_apart": {"other": "_"}}
MUTANTS = [
    Mutant(name, patch, suite, test, GIVEN.get(test, {}))
    for suite, found in _TABLE.items()
    for name, patch, test in found
]
