"""The fault matrix: what breaks, and the tests that break it on purpose.

`python -m tests.faults.matrix` prints the files, for `make faults`. A test is named by its file and
its function; one of a suite that runs on every adapter by `tests/conformance` and the function.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FAULTS, POSTGRES, BROKERS = (
    "tests/faults",
    "tests/integration/postgres",
    "tests/integration/brokers",
)
KAFKA, RABBIT, SOURCING = (f"tests/integration/{name}" for name in ("kafka", "rabbit", "sourcing"))
INTEGRATION = "tests/integration"
SUITES = "tests/conformance"

BANK = (
    f"{FAULTS}/bank/test_bank.py"
    "::test_a_bank_on_a_broker_that_fails_too_keeps_its_money_and_its_order"
)
SAGA_BANK = (
    f"{FAULTS}/saga_bank/test_saga_bank.py"
    "::test_sagas_under_kills_drains_pauses_and_crashes_end_with_all_their_effects_or_none"
)
KILLED = (
    f"{FAULTS}/test_killed.py::test_killed_at_a_round_trip_nothing_is_lost_doubled_or_overtaken"
)
SWEPT = (
    f"{FAULTS}/test_crash_sweep.py"
    "::test_a_process_killed_at_any_call_loses_doubles_and_overtakes_nothing"
)
DYING = (
    f"{FAULTS}/test_saga_dying.py"
    "::test_a_worker_killed_at_any_call_leaves_sagas_that_another_one_ends"
)
PROJECTING = (
    f"{FAULTS}/test_projecting.py::test_a_process_killed_at_any_call_leaves_what_a_replay_gives"
)
APPENDING = (
    f"{FAULTS}/test_appending.py::test_every_verdict_is_true_and_every_reader_sees_all_in_one_order"
)
POISON = (
    f"{BROKERS}/test_handlers.py"
    "::test_a_poison_message_stops_its_key_alone_and_redriven_lets_it_go_on_in_order"
)
WORKERS = f"{POSTGRES}/test_workers.py::test_one_four_and_one_again_while_messages_are_published"


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and who sees to it."""

    number: int
    fault: str
    tests: Sequence[str]


def _row(number: int, fault: str, *tests: str) -> Row:
    return Row(number, fault, tests)


ROWS: Sequence[Row] = (
    _row(
        1,
        "a consumer is killed at every commit point",
        KILLED,
        SWEPT,
        f"{KAFKA}/test_membership.py"
        "::test_what_a_killed_member_had_comes_again_flagged_and_nothing_else",
        BANK,
    ),
    _row(
        2,
        "a relay is killed",
        KILLED,
        SWEPT,
        f"{FAULTS}/test_killed.py::test_a_second_crash_at_each_named_point_is_survived_too",
    ),
    _row(3, "a worker of sagas is killed", DYING, SAGA_BANK),
    _row(4, "a projection is killed", PROJECTING),
    _row(
        5,
        "an appender is killed",
        f"{FAULTS}/test_killed_appender.py"
        "::test_killed_anywhere_nothing_is_half_there_and_the_same_ids_again_double_nothing",
    ),
    _row(
        6,
        "SIGTERM under load",
        f"{BROKERS}/test_processes.py"
        "::test_a_signal_lets_what_runs_end_and_the_next_process_does_the_rest_once",
        f"{INTEGRATION}/test_drain.py"
        "::test_a_signal_lets_the_running_handler_end_and_starts_no_other",
        BANK,
    ),
    _row(
        7,
        "a second signal, and one during the start",
        f"{BROKERS}/test_processes.py::test_a_signal_while_it_starts_ends_a_process",
        f"{BROKERS}/test_processes.py::test_a_second_signal_ends_a_process_at_once",
        f"{INTEGRATION}/test_drain.py::test_a_second_signal_ends_the_process_at_once",
    ),
    _row(
        8,
        "a zombie goes on past its lease",
        f"{FAULTS}/test_killed.py"
        "::test_a_zombie_that_goes_on_after_its_leases_ran_out_changes_nothing",
        f"{FAULTS}/test_saga_dying.py"
        "::test_a_worker_that_stood_still_past_its_leases_changes_nothing_any_more",
        f"{FAULTS}/test_projecting_live.py"
        "::test_a_worker_that_wakes_past_its_lease_writes_nothing_more",
    ),
    _row(
        9,
        "a broker restarts",
        f"{RABBIT}/test_failures.py"
        "::test_a_broker_that_restarts_loses_nothing_and_is_used_again_within_10_seconds",
        f"{KAFKA}/test_faults.py::test_a_group_goes_on_after_its_broker_was_away",
        BANK,
    ),
    _row(
        10,
        "a broker is killed",
        f"{RABBIT}/test_failures.py::test_what_was_confirmed_survives_a_broker_that_was_killed",
        f"{KAFKA}/test_publishing.py"
        "::test_a_key_keeps_its_order_though_the_broker_dies_in_mid_publish",
        BANK,
    ),
    _row(
        11,
        "a broker freezes",
        f"{RABBIT}/test_failures.py"
        "::test_a_frozen_broker_means_unknown_by_the_deadline_and_first_ones_stay_in_order",
        f"{KAFKA}/test_publishing.py"
        "::test_a_frozen_broker_leaves_the_outcome_unknown_by_the_deadline",
        BANK,
    ),
    _row(
        12,
        "the link to the broker goes dark",
        f"{KAFKA}/test_links.py::test_publishing_and_consuming_go_on_after_a_black_hole",
        f"{KAFKA}/test_links.py::test_a_producer_ends_though_what_it_sent_is_never_answered",
        BANK,
    ),
    _row(
        13,
        "the link to the database goes dark",
        f"{BROKERS}/test_sharing.py"
        "::test_a_database_that_is_out_of_reach_for_a_while_costs_nothing",
        f"{POSTGRES}/test_failures.py::test_a_server_that_says_nothing_is_left_at_the_deadline",
    ),
    _row(
        14,
        "a slow link",
        f"{POSTGRES}/test_failures.py::test_a_slow_link_is_only_slow",
        f"{INTEGRATION}/test_relay.py::test_over_a_slow_link_fewer_go_at_once_and_all_arrive",
        BANK,
    ),
    _row(
        15,
        "a link that loses packets",
        f"{BROKERS}/test_sharing.py::test_a_link_that_loses_packets_loses_no_message",
    ),
    _row(
        16,
        "a flapping link",
        f"{POSTGRES}/test_failures.py::test_a_flapping_link_leaves_the_pool_whole",
        f"{RABBIT}/test_failures.py::test_flapping_for_seconds_loses_nothing",
        BANK,
    ),
    _row(
        17,
        "the database restarts or crashes",
        f"{POSTGRES}/test_server.py"
        "::test_a_server_that_restarts_under_load_loses_and_invents_nothing",
        f"{FAULTS}/test_projecting_live.py::test_a_database_that_restarts_loses_and_doubles_no_row",
        BANK,
        SAGA_BANK,
    ),
    _row(
        18,
        "a connection is lost inside a transaction",
        f"{POSTGRES}/test_failures.py"
        "::test_terminated_between_two_statements_nothing_is_kept_and_the_next_one_works",
        KILLED,
    ),
    _row(
        19,
        "COMMIT gets no answer",
        f"{POSTGRES}/test_commit.py"
        "::test_a_lost_answer_to_a_commit_that_happened_resolves_to_committed",
        f"{POSTGRES}/test_commit.py::test_a_commit_that_never_arrived_resolves_to_rolled_back",
        APPENDING,
        BANK,
    ),
    _row(
        20,
        "a failover, or a backup that is restored",
        f"{SOURCING}/test_after_failover.py"
        "::test_who_stands_ahead_of_the_log_stops_and_a_rebuild_puts_it_right",
        f"{SOURCING}/test_restored.py::test_rows_that_nobody_trusts_are_rebuilt",
        f"{POSTGRES}/test_rewound.py::test_an_older_copy_in_the_place_of_the_server_is_noticed",
    ),
    _row(
        21,
        "serialization failures and deadlocks",
        f"{POSTGRES}/test_failures.py"
        "::test_two_that_wait_for_each_other_the_loser_is_told_to_run_again",
        f"{INTEGRATION}/test_pipeline.py"
        "::test_a_message_whose_transaction_never_gets_through_is_parked_and_its_neighbours_are_done",
    ),
    _row(
        22,
        "a lock that is held for long",
        f"{POSTGRES}/test_failures.py::test_a_lock_that_takes_too_long_is_no_fault_of_the_message",
    ),
    _row(
        23,
        "too many connections; a pooler",
        f"{POSTGRES}/test_failures.py::test_no_connection_left_says_what_to_change",
        f"{POSTGRES}/test_pgbouncer.py::test_more_transactions_than_server_connections_all_commit",
    ),
    _row(
        24,
        "a disk without space for tables",
        f"{POSTGRES}/test_disk_full.py"
        "::test_without_space_for_tables_nothing_half_is_kept_and_work_waits",
        f"{POSTGRES}/test_disk_full_rebuilding.py"
        "::test_a_disk_that_fills_up_during_the_copy_leaves_what_serves",
        "tests/unit/sqlite/test_session.py::test_a_full_disk_is_named_and_passes",
    ),
    _row(
        25,
        "a disk without space for the server's log",
        f"{POSTGRES}/test_disk_full.py"
        "::test_without_space_for_its_log_the_server_crashes_and_nothing_committed_is_lost",
    ),
    _row(
        26,
        "a disk that refuses to flush",
        f"{FAULTS}/test_failed_flush.py::test_who_lives_is_told_the_truth_when_it_asks",
        f"{FAULTS}/test_failed_flush.py::test_who_dies_leaves_it_whole_or_not_at_all",
    ),
    _row(
        27,
        "many writers and processes at one SQLite file",
        "tests/unit/sqlite/test_storage.py::test_a_second_bus_on_a_file_is_refused",
        "tests/unit/sqlite/test_session.py"
        "::test_a_writer_in_another_process_is_waited_for_without_holding_the_loop",
        f"{SUITES}::test_every_message_has_one_effect_and_every_key_its_order",
    ),
    _row(
        28,
        "a message is delivered again, also to two consumers at once",
        f"{FAULTS}/test_simulation.py::test_no_schedule_breaks_a_promise_or_gets_stuck",
        f"{POSTGRES}/test_retention.py::test_a_duplicate_after_midnight_goes_to_the_same_day",
        BANK,
    ),
    _row(
        29,
        "messages are delivered in another order",
        POISON,
        f"{SUITES}::test_nothing_of_a_key_overtakes_what_was_given_back",
        f"{FAULTS}/test_simulation.py::test_no_schedule_breaks_a_promise_or_gets_stuck",
    ),
    _row(
        30,
        "members come and go without a pause",
        f"{BROKERS}/test_sharing.py"
        "::test_members_that_come_and_go_under_load_double_and_overtake_nothing",
    ),
    _row(
        31,
        "a former owner acknowledges",
        f"{KAFKA}/test_membership.py::test_a_stopped_member_that_goes_on_later_changes_nothing",
        f"{SUITES}::test_a_verdict_after_leaving_counts_for_nothing",
    ),
    _row(
        32,
        "a clock jumps",
        f"{POSTGRES}/test_workers.py"
        "::test_wrong_clocks_move_no_lease_no_delay_no_retry_and_no_retention",
        SAGA_BANK,
    ),
    _row(33, "a message at which its handler always fails", POISON),
    _row(
        34,
        "messages that nobody can read",
        f"{BROKERS}/test_envelopes.py"
        "::test_everything_that_cannot_be_read_is_buried_and_nothing_else",
    ),
    _row(
        35,
        "messages that are too large",
        f"{BROKERS}/test_envelopes.py"
        "::test_a_body_over_the_limit_is_refused_here_and_buried_from_others",
    ),
    _row(
        36,
        "a handler hangs",
        f"{BROKERS}/test_handlers.py::test_a_handler_that_hangs_is_ended_counted_and_tried_again",
    ),
    _row(
        37,
        "a handler blocks the event loop",
        f"{BROKERS}/test_blocked.py"
        "::test_who_blocks_the_loop_is_told_with_its_stack_and_another_process_goes_on",
    ),
    _row(
        38,
        "a handler swallows its cancellation",
        f"{BROKERS}/test_processes.py"
        "::test_a_handler_that_ignores_its_end_does_not_keep_the_worker",
        f"{POSTGRES}/test_zombies.py::test_its_connection_is_cut_and_its_locks_are_free",
    ),
    _row(
        39,
        "a message kills its process",
        f"{BROKERS}/test_processes.py"
        "::test_a_message_that_kills_its_process_is_buried_and_its_neighbours_are_done_once",
        f"{FAULTS}/test_crash_sweep.py"
        "::test_a_handler_that_kills_its_process_becomes_a_dead_letter_and_its_neighbours_do_not",
    ),
    _row(
        40,
        "old and new code, old and new schemas",
        f"{SOURCING}/test_old_and_new.py::test_each_reads_what_the_other_records_as_far_as_it_may",
        f"{SOURCING}/test_old_and_new.py::test_a_log_of_an_older_schema_is_read_and_gone_on_with",
        f"{FAULTS}/saga_bank/test_saga_bank.py::test_old_and_new_builds_side_by_side_lose_no_saga",
    ),
    _row(
        41,
        "our tables are upgraded beside workers",
        f"{POSTGRES}/test_upgrades.py"
        "::test_an_expanding_upgrade_beside_workers_of_the_old_version_disturbs_nothing",
        f"{POSTGRES}/test_upgrades.py"
        "::test_a_contracting_upgrade_waits_until_no_worker_of_an_older_version_is_left",
    ),
    _row(42, "relays come and go", WORKERS, KILLED),
    _row(43, "appends to the same streams at once", APPENDING),
    _row(
        44,
        "workers race for one saga",
        f"{FAULTS}/saga_races/test_saga_races.py"
        "::test_of_eight_workers_at_one_saga_one_at_a_time_moves_it",
        f"{FAULTS}/saga_races/test_saga_races.py"
        "::test_a_call_that_outlives_its_lease_is_finished_by_one_owner",
    ),
    _row(
        45,
        "an answer and its time-out at once",
        f"{FAULTS}/saga_races/test_saga_races.py"
        "::test_an_answer_and_its_time_out_at_once_have_one_winner",
        f"{POSTGRES}/test_saga_stress.py::test_a_reply_and_its_timer_at_once_have_one_winner",
    ),
    _row(
        46,
        "a compensation fails, or dies, or its answer is late",
        f"{INTEGRATION}/sagas/test_running.py"
        "::test_an_undo_that_keeps_failing_makes_it_stuck_and_frees_it_when_it_succeeds",
        f"{POSTGRES}/test_saga_stress.py"
        "::test_undo_and_forward_in_any_order_leave_a_ledger_in_balance",
        DYING,
    ),
    _row(
        47,
        "a batch is published in part",
        f"{KAFKA}/test_publishing.py"
        "::test_of_a_refused_batch_nothing_is_stored_and_the_guilty_one_is_found",
        f"{KAFKA}/test_publishing.py::test_a_key_keeps_its_order_through_changes_of_the_leader",
        f"{RABBIT}/test_failures.py"
        "::test_a_lost_confirm_means_unknown_and_resolving_makes_repeats_only",
        f"{SUITES}::test_nothing_of_a_key_is_stored_behind_a_refusal",
    ),
    _row(
        48,
        "a message that no queue takes",
        f"{RABBIT}/test_topology.py"
        "::test_a_type_that_nobody_wants_is_rejected_and_the_rest_is_confirmed",
    ),
    _row(
        49,
        "an alarm of the broker",
        f"{RABBIT}/test_failures.py::test_an_alarm_blocks_publishers_and_nobody_else",
    ),
    _row(
        50,
        "a queue or topic is deleted while it is used",
        f"{RABBIT}/test_failures.py::test_a_deleted_queue_is_made_again",
        f"{KAFKA}/test_faults.py"
        "::test_a_topic_deleted_while_consuming_stops_neither_leaving_nor_others",
    ),
    _row(
        51,
        "credentials are revoked",
        f"{BROKERS}/test_credentials.py"
        "::test_credentials_that_are_revoked_are_told_without_a_tight_loop",
    ),
    _row(
        52,
        "wake-ups are lost",
        f"{POSTGRES}/test_wakeups.py"
        "::test_a_listener_that_was_killed_comes_back_and_says_there_may_be_work",
    ),
    _row(
        53,
        "a long transaction in the database",
        f"{SOURCING}/test_standing.py"
        "::test_an_append_that_stays_open_is_told_and_nothing_is_skipped",
        f"{SOURCING}/test_standing.py"
        "::test_a_transaction_that_stays_open_and_appends_nothing_holds_nobody",
    ),
    _row(
        54,
        "nothing is pruned",
        f"{POSTGRES}/test_growth.py::test_ten_times_the_rows_cost_no_more_pages",
    ),
    _row(
        55,
        "processes, broker and database stand still for seconds",
        f"{POSTGRES}/test_server.py"
        "::test_a_server_that_freezes_under_load_loses_and_invents_nothing",
        BANK,
        SAGA_BANK,
    ),
    _row(
        56,
        "what handlers need is down",
        f"{INTEGRATION}/test_pipeline.py"
        "::test_a_dependency_that_is_down_pauses_the_group_instead_of_burying_its_messages",
    ),
    _row(
        57,
        "a rebuild is interrupted",
        PROJECTING,
        f"{SOURCING}/test_rebuilding.py"
        "::test_a_rebuild_that_was_cut_off_in_a_phase_is_gone_on_with",
    ),
    _row(
        58,
        "an upgrade is interrupted",
        f"{POSTGRES}/test_upgrades.py"
        "::test_an_upgrade_that_is_cut_in_any_file_is_completed_by_the_next_one",
    ),
    _row(
        59,
        "forgetting somebody is interrupted",
        f"{FAULTS}/test_forgetting.py::test_killed_at_any_call_it_is_all_or_nothing",
    ),
    _row(
        60,
        "effects outside of the database are repeated",
        DYING,
        SAGA_BANK,
        f"{INTEGRATION}/test_participant.py"
        "::test_a_failed_attempt_outside_is_made_again_under_one_key",
    ),
    _row(
        61,
        "an undo races its command",
        f"{FAULTS}/saga_races/test_participants.py"
        "::test_undos_that_race_their_commands_leave_the_ledger_in_balance",
    ),
    _row(
        62,
        "the caller's transaction is rolled back, dies, or swallows our error",
        f"{POSTGRES}/test_joined.py::test_what_the_caller_rolls_back_was_never_there",
        f"{POSTGRES}/test_joined.py"
        "::test_a_caller_that_dies_before_its_commit_leaves_neither_row_nor_event",
        f"{POSTGRES}/test_joined.py::test_a_caller_that_swallows_our_error_cannot_commit_the_half",
    ),
    _row(
        63,
        "parked messages are redelivered under load",
        f"{INTEGRATION}/test_pipeline.py"
        "::test_a_key_under_constant_load_leaves_the_parking_soon_after_its_retry",
        KILLED,
        f"{FAULTS}/test_killed.py::test_a_second_crash_at_each_named_point_is_survived_too",
    ),
)


def rows_of(node: str) -> Iterator[Row]:
    """The rows that a test is named in: by its id in pytest."""
    file, _, rest = node.partition("::")
    name = rest.partition("[")[0].rpartition("::")[2]
    known = {f"{file}::{name}", f"{SUITES}::{name}"} if SUITES in file else {f"{file}::{name}"}
    return (row for row in ROWS if not known.isdisjoint(row.tests))


def files() -> Sequence[str]:
    """Where they are; of the suites the folder."""
    return sorted({test.partition("::")[0] for row in ROWS for test in row.tests})


if __name__ == "__main__":
    print(" ".join(files()))
