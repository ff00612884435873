"""Mutants of the SQLite storage: one seam each, patched by name, with the test that must see it."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from eventbus.message import Message
from eventbus.sqlite import (
    checkpoints,
    desk,
    inbox,
    inspection,
    leases,
    outbox,
    parking,
    session,
    sql,
    transaction,
    verbs,
)
from eventbus.storage.inbox import Received
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import Outgoing
from eventbus.storage.parking import Parked
from eventbus.testing.conformance import abandoned, transactions

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A wrong adapter, and who notices."""

    name: str
    patch: Patch
    suite: str
    test: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The adapter is wrong inside the block."""
        with pytest.MonkeyPatch.context() as patching:
            self.patch(patching)
            yield


def text(module: ModuleType, old: str, new: str, *names: str) -> Patch:
    """Replace a part of SQL texts; it must be there, or the mutant mutates nothing."""

    def patch(patching: pytest.MonkeyPatch) -> None:
        for name in names:
            statement = getattr(module, name)
            assert old in statement, f"{name} has no {old!r} any more: mend the mutant"
            patching.setattr(module, name, statement.replace(old, new))

    return patch


def instead(owner: Any, name: str, replacement: Callable[[Any], Any]) -> Patch:
    """Replace a function by what `replacement` makes of the original."""

    def patch(patching: pytest.MonkeyPatch) -> None:
        patching.setattr(owner, name, replacement(getattr(owner, name)))

    return patch


def both(*patches: Patch) -> Patch:
    """One after the other."""

    def patch(patching: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(patching)

    return patch


def _only_doomed(_: Any) -> Any:
    def mutated(self: session.Session) -> None:
        self._doom = self._doom or (0, BaseException("given up"))

    return mutated


def _nothing_given_up(_: Any) -> Any:
    def mutated(self: session.Session) -> None:
        return None

    return mutated


def _kept_in_savepoint(leave: Any) -> Any:
    def mutated(self: session.Session, block: Any, *, keep: bool) -> None:
        lengths, buffer = block.lengths, self.buffer
        leave(self, block, keep=True)
        if not keep:
            buffer.cut(lengths)

    return mutated


def _committed(_: Any) -> Any:
    def mutated(self: session.Session) -> None:
        if self.desk.worker.connection.in_transaction:
            self.desk.worker.connection.execute("COMMIT")

    return mutated


def _never_doomed(failure: Any) -> Any:
    def mutated(self: session.Session, *arguments: Any) -> Exception:
        error: Exception = failure(self, *arguments)
        self._doom = None
        return error

    return mutated


def _begun_at_once(enter: Any) -> Any:
    async def mutated(self: Any) -> Any:
        tx = await enter(self)
        await tx.session.run("begin", lambda connection: None)
        return tx

    return mutated


def _flushed_first(add: Any) -> Any:
    async def mutated(self: outbox.SqliteOutbox, messages: Any, *, delay: Any = None) -> None:
        await add(self, messages, delay=delay)
        owner = self._session
        await owner.run("add", lambda connection: outbox.flush(connection, owner))
        owner.buffer.cut((0, 0, 0))

    return mutated


def _backwards(flush: Any) -> Any:
    def mutated(connection: sqlite3.Connection, owner: session.Session) -> None:
        owner.buffer.now.reverse()
        flush(connection, owner)

    return mutated


def _by_cursor(read: Any) -> Any:
    last = 0

    async def mutated(self: Any, of: Any, *, limit: int) -> Sequence[Outgoing]:
        nonlocal last
        rows = [row for row in await read(self, of, limit=limit) if row.row > last]
        last = max((row.row for row in rows), default=last)
        return rows

    return mutated


def _all_of_them(_: Any) -> Any:
    def mutated(connection: sqlite3.Connection, given: Collection[Lease]) -> list[Lease]:
        return list(given)

    return mutated


def _no_fence(_: Any) -> Any:
    def mutated(connection: sqlite3.Connection, lease: Lease) -> None:
        return None

    return mutated


def _none_held(_: Any) -> Any:
    def mutated(*arguments: object) -> frozenset[str]:
        return frozenset()

    return mutated


def _repeated_are_old(receive: Any) -> Any:
    async def mutated(self: Any, messages: Sequence[Message], **options: Any) -> Received:
        found: Received = await receive(self, messages, **options)
        identities = [message.identity for message in messages]
        new = frozenset(one for one in found.new if identities.count(one) == 1)
        return Received(new=new, held=found.held)

    return mutated


def _recording(_: Any) -> Any:
    return inbox.SqliteInbox.receive


def _by_id_alone(_: Any) -> Any:
    def mutated(messages: Sequence[Message]) -> dict[str, UUID]:
        return {message.id.lower(): message.identity for message in messages}

    return mutated


def _in_memory(_: Any) -> Any:
    counts: dict[tuple[str, UUID], int] = {}

    async def mutated(self: Any, messages: Sequence[Message], *, group: str) -> dict[UUID, int]:
        for identity in {message.identity for message in messages}:
            counts[group, identity] = counts.get((group, identity), 0) + 1
        return {m.identity: counts[group, m.identity] for m in messages}

    return mutated


def _dead_without_delay(heads: Any) -> Any:
    def mutated(parked: Sequence[Parked], group: str, *, speaks: bool) -> list[Any]:
        first: dict[str, Parked] = {}
        for one in parked:
            first.setdefault(one.key, one)
        dead = {key for key, one in first.items() if one.delay is None}
        rows = heads(parked, group, speaks=speaks)
        return [
            (g, key, parking.DEAD, 0, 0, said)
            if key in dead
            else (g, key, state, wait, again, said)
            for g, key, state, wait, again, said in rows
        ]

    return mutated


def _from_the_rows(_: Any) -> Any:
    def mutated(args: Sequence[object]) -> tuple[object, ...]:
        return tuple(args)

    return mutated


def _without(option: str) -> Callable[[Any], Any]:
    def replacement(change: Any) -> Any:
        async def mutated(self: Any, *arguments: Any, **options: Any) -> int:
            options.pop(option, None)
            changed: int = await change(self, *arguments, **options)
            return changed

        return mutated

    return replacement


def _local_times(patching: pytest.MonkeyPatch) -> None:
    patching.setitem(sql._CONVERSIONS, datetime, datetime.isoformat)


def _impatient(patching: pytest.MonkeyPatch) -> None:
    patching.setattr(transactions, "DEADLINE", 0.5)  # it waits for ever, and need not do so long


FIRST_PLACE = "(SELECT coalesce(min(seq), 1000) - 1 FROM eventbus_parked)"
LAST_PLACE = "SELECT group_name, key, message, seq + 1000000"
ALL_THERE = "SELECT json_array_length(?2) WHERE ?1 IS NOT NULL"
READS = ("_READ_ALL", "_READ_SOME")
FOREIGN = "test_foreign_ids_are_equal_only_within_their_source"
IGNORES_EPOCHS = text(leases, "AND l.epoch = h.value ->> 1", "", "_HELD")
FROM_THE_ROWS = instead(sql, "bound", _from_the_rows)
FREES_TOO_MUCH = text(parking, "NOT EXISTS", "EXISTS (SELECT 1) OR NOT EXISTS", "_FREE_ONE")
UNFENCED_OUTBOX = instead(outbox, "held", _all_of_them)
UNFENCED_PARKING = instead(parking, "fence", _no_fence)
UNFENCED_CHECKPOINTS = instead(checkpoints, "fence", _no_fence)

_TABLE: dict[str, list[tuple[str, Patch, str]]] = {
    "AbandonedSuite": [
        (
            "given up, it keeps its turn",
            both(
                instead(session.Session, "abandon", _only_doomed),
                instead(abandoned, "DEADLINE", lambda _: 0.5),
            ),
            "test_others_get_what_it_held_while_its_task_is_still_in_it",
        ),
        (
            "given up, it goes on",
            instead(session.Session, "abandon", _nothing_given_up),
            "test_before_its_first_statement_it_never_begins",
        ),
    ],
    "TransactionSuite": [
        (
            "a rollback commits",
            instead(session.Session, "_undo", _committed),
            "test_a_rollback_leaves_nothing",
        ),
        (
            "a savepoint's rollback leaves SQL rows",
            instead(session.Session, "leave", _kept_in_savepoint),
            "test_a_rolled_back_savepoint_leaves_nothing_and_the_rest_stays",
        ),
        (
            "a failed statement dooms nothing",
            instead(session.Session, "_failure", _never_doomed),
            "test_a_failed_statement_dooms_and_the_next_one_says_why",
        ),
        (
            "a doomed transaction commits",
            instead(session.Session, "_failure", _never_doomed),
            "test_a_doomed_transaction_never_commits",
        ),
        (
            "a transaction begins before its first statement",
            both(_impatient, instead(transaction.Entry, "__aenter__", _begun_at_once)),
            "test_a_block_that_did_nothing_yet_holds_nobody_up",
        ),
    ],
    "SqlSuite": [
        (
            "arguments go by the order of appearance",
            FROM_THE_ROWS,
            "test_placeholders_in_any_order_and_repeated",
        ),
        (
            "times keep their zones",
            _local_times,
            "test_times_of_different_zones_sort_by_the_instant",
        ),
    ],
    "LeaseSuite": [
        (
            "acquire ignores until",
            text(leases, "AND until < eventbus_now()", "", "_ACQUIRE"),
            "test_a_name_has_one_owner",
        ),
        (
            "the epoch does not rise",
            text(leases, "epoch = epoch + 1", "epoch = epoch", "_ACQUIRE"),
            "test_a_lease_runs_out_and_the_epoch_rises",
        ),
        (
            "renew revives what another has taken",
            IGNORES_EPOCHS,
            "test_after_a_loss_renewing_fails_and_harms_nobody",
        ),
        (
            "release frees what another has taken",
            IGNORES_EPOCHS,
            "test_after_a_loss_releasing_changes_nothing",
        ),
        (
            "renew does not extend",
            text(leases, "eventbus_now() + ?", "until + 0 * ?", "_EXTEND"),
            "test_renewing_extends",
        ),
        (
            "owners count what ran out",
            text(leases, "AND until >= eventbus_now()", "", "_OWNERS"),
            "test_owners_are_counted_while_they_hold",
        ),
    ],
    "OutboxSuite": [
        (
            "a savepoint's rollback keeps buffered rows",
            instead(desk.Buffer, "cut", lambda _: lambda self, lengths: None),
            "test_a_rolled_back_savepoint_leaves_no_row_and_keeps_the_order",
        ),
        (
            "rows are flushed first",
            instead(outbox.SqliteOutbox, "add", _flushed_first),
            "test_rows_are_written_when_the_block_is_left",
        ),
        (
            "rows are flushed backwards",
            instead(transaction, "flush", _backwards),
            "test_rows_leave_in_the_order_in_which_they_were_added",
        ),
        (
            "the outbox is read by cursor",
            instead(outbox.SqliteOutbox, "read", _by_cursor),
            "test_what_was_not_settled_is_read_again_from_the_first_row",
        ),
        (
            "settle without the epoch",
            UNFENCED_OUTBOX,
            "test_settling_under_a_lost_lease_keeps_the_rows",
        ),
        (
            "defer without the epoch",
            UNFENCED_OUTBOX,
            "test_deferring_under_a_lost_lease_changes_nothing",
        ),
        ("who is no owner promotes", UNFENCED_OUTBOX, "test_only_the_owner_promotes"),
        (
            "a deferred row does not hold its key",
            text(outbox, "d.due_at > eventbus_now()", "0", *READS),
            "test_a_deferred_row_holds_its_key_and_no_other",
        ),
        (
            "a deferred row holds other keys",
            text(outbox, "d.key = b.key", "1", *READS),
            "test_a_deferred_row_holds_its_key_and_no_other",
        ),
        (
            "a failed row is retried by itself",
            text(outbox, "THEN ? ELSE", "THEN eventbus_now() + 0 * ? ELSE", "_DEFER"),
            "test_a_failed_row_stays_and_its_key_waits",
        ),
        (
            "promote ignores the due time",
            text(outbox, "due_at <= eventbus_now() AND", "", "_DUE"),
            "test_a_delayed_row_comes_when_it_is_promoted_and_holds_nothing_before",
        ),
        (
            "promote goes by id",
            text(outbox, "ORDER BY due_at, id", "ORDER BY id", "_PROMOTE"),
            "test_delayed_rows_come_back_whole_and_in_the_order_in_which_they_are_due",
        ),
    ],
    "InboxSuite": [
        (
            "an attempt is not taken back",
            instead(inbox, "_UNCOUNT", lambda _: ()),
            "test_an_attempt_can_be_taken_back_where_it_stands",
        ),
        (
            "held keys are not reported",
            instead(inbox, "_held", _none_held),
            "test_keys_that_are_held_are_told",
        ),
        (
            "dead keys are not held",
            text(inbox, "WHERE", "WHERE state = 0 AND", "_HELD"),
            "test_keys_that_are_held_are_told",
        ),
        (
            "what a batch has twice is a duplicate",
            instead(inbox.SqliteInbox, "receive", _repeated_are_old),
            "test_a_message_given_twice_is_recorded_and_returned_once",
        ),
        (
            "look records",
            instead(inbox.SqliteInbox, "look", _recording),
            "test_looking_answers_the_same_and_records_nothing",
        ),
        (
            "forget forgets nothing",
            text(inbox, "WHERE", "WHERE 0 AND", "_FORGET"),
            "test_what_is_forgotten_is_new_again",
        ),
        (
            "forget forgets for every group",
            text(inbox, "group_name = ?", "? IS NOT NULL", "_FORGET"),
            "test_what_is_forgotten_is_new_again",
        ),
        (
            "only today's messages are known",
            text(inbox, "WHERE", "WHERE seen > eventbus_now() - 86400000 AND", "_LOOK"),
            "test_a_duplicate_after_midnight_is_recognised",
        ),
        ("ids go without their source", instead(inbox, "_by_text", _by_id_alone), FOREIGN),
        (
            "attempts are counted in memory only",
            instead(inbox.SqliteInbox, "count", _in_memory),
            "test_a_count_that_was_rolled_back_did_not_happen",
        ),
        (
            "a parked message is counted apart",
            text(inbox, "WHERE", "WHERE 0 AND", "_COUNT_PARKED"),
            "test_a_parked_message_is_counted_where_it_is_parked",
        ),
        (
            "attempts fall when it is parked again",
            text(parking, "max(p.attempts, excluded.attempts)", "excluded.attempts", "_PARK"),
            "test_attempts_of_a_parked_message_never_fall",
        ),
    ],
    "ParkingSuite": [
        (
            "park puts at the front",
            both(
                text(parking, "parked_at)", "parked_at, seq)", "_PARK"),
                text(parking, "eventbus_now())", f"eventbus_now(), {FIRST_PLACE})", "_PARK"),
            ),
            "test_what_queues_behind_a_failed_head_waits_with_it_in_order",
        ),
        (
            "parked again it goes to the end",
            text(
                parking,
                "attempts = max",
                "seq = (SELECT max(seq) + 1 FROM eventbus_parked), attempts = max",
                "_PARK",
            ),
            "test_parked_again_it_keeps_its_place_and_the_last_failure",
        ),
        (
            "a key is freed while messages remain",
            text(parking, "NOT EXISTS", "EXISTS", "_FREE"),
            "test_a_failed_message_is_due_after_its_delay",
        ),
        (
            "a closing round frees a key that is not empty",
            FREES_TOO_MUCH,
            "test_a_closing_round_that_leaves_something_keeps_its_key",
        ),
        (
            "an empty key is never freed",
            text(parking, "WHERE k.group_name", "WHERE 0 AND k.group_name", "_FREE"),
            "test_a_settled_key_is_held_until_it_is_found_empty",
        ),
        (
            "a dead key is redelivered",
            text(parking, "AND state = 0 ", "", "_DUE"),
            "test_a_failure_without_delay_is_dead_and_holds_its_key",
        ),
        (
            "the delay is ignored",
            text(parking, "AND due_at <= eventbus_now()", "", "_DUE"),
            "test_a_failed_message_is_due_after_its_delay",
        ),
        (
            "a row without failure makes its key dead",
            both(
                instead(parking, "_heads", _dead_without_delay),
                text(parking, "AND excluded.due_at <>", "AND -7 <>", "_HOLD"),
            ),
            "test_a_row_without_a_failure_never_makes_its_key_dead",
        ),
        (
            "a lane moves what a held key waits for",
            text(parking, "WHERE ? AND", "WHERE (? OR 1) AND", "_HOLD"),
            "test_a_lane_does_not_move_what_a_held_key_waits_for",
        ),
        (
            "the redelivery does not speak for the key",
            text(parking, "WHERE ? AND", "WHERE 0 * ? AND", "_HOLD"),
            "test_the_redelivery_speaks_for_the_key",
        ),
        (
            "park without the epoch",
            UNFENCED_PARKING,
            "test_parking_under_a_lost_lease_is_refused",
        ),
        (
            "settle of parked rows without the epoch",
            UNFENCED_PARKING,
            "test_settling_under_a_lost_lease_is_refused",
        ),
        (
            "settle does not look what is there",
            instead(parking, "_THERE", lambda _: ALL_THERE),
            "test_what_somebody_settled_cannot_be_settled_again",
        ),
    ],
    "CheckpointSuite": [
        (
            "a checkpoint without compare",
            text(checkpoints, "AND position = ?", "AND ? IS NOT NULL", "_SAVE"),
            "test_a_save_after_another_position_is_refused",
        ),
        (
            "a checkpoint without the epoch",
            UNFENCED_CHECKPOINTS,
            "test_a_save_under_a_lost_lease_is_refused",
        ),
    ],
    "InspectionSuite": [
        (
            "a dry run commits",
            instead(inspection.SqliteInspection, "change", _without("dry_run")),
            "test_a_redrive_in_a_dry_run_counts_and_changes_nothing",
        ),
        (
            "a redrive ignores its rate",
            instead(inspection.SqliteInspection, "change", _without("rate")),
            "test_a_redrive_with_a_rate_releases_key_by_key",
        ),
        (
            "a retry keeps the attempts",
            text(verbs, ", attempts = 0", "", "_RETRY"),
            "test_a_retried_row_of_the_outbox_goes_first_of_its_key",
        ),
        (
            "a restored letter goes to the end",
            text(verbs, "SELECT group_name, key, message, seq", LAST_PLACE, "_RESTORE"),
            "test_a_discarded_letter_lets_the_next_go_and_restored_it_goes_first",
        ),
        (
            "a pause runs out",
            text(verbs, "excluded.until", "eventbus_now() + 1000", "_PAUSE"),
            "test_what_is_paused_is_a_lease_until_it_is_resumed",
        ),
    ],
    "StressSuite": [
        (
            "held keys are not reported to busy lanes",
            instead(inbox, "_held", _none_held),
            "test_every_message_has_one_effect_and_every_key_its_order",
        ),
        (
            "zombies park and settle",
            UNFENCED_PARKING,
            "test_every_message_has_one_effect_and_every_key_its_order",
        ),
    ],
}
ARGUMENTS: dict[str, dict[str, object]] = {
    "test_what_is_paused_is_a_lease_until_it_is_resumed": {
        "place": "outbox",
        "group": None,
        "lease": "paused/outbox/",
    }
}
MUTANTS = [
    Mutant(name, patch, suite, test, ARGUMENTS.get(test, {}))
    for suite, rows in _TABLE.items()
    for name, patch, test in rows
]
