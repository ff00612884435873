"""Mutants of the event log on SQLite: one seam each, with the test that must see it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventbus.sqlite import appends, events, feed
from eventbus.sqlite.rows import outgoing_row
from eventbus.storage import merging
from eventbus.storage.events import Append, Appended
from tests.faults.mutants_storage import Mutant, Patch, both, instead, text


def _always(_: Any) -> Callable[..., bool]:
    def as_expected(append: Append, version: int) -> bool:
        return True

    return as_expected


def _never(_: Any) -> Callable[..., Appended | None]:
    def repeated(connection: Any, append: Append, head: Any) -> Appended | None:
        return None

    return repeated


def _by_count(real: Callable[..., Appended | None]) -> Callable[..., Appended | None]:
    """As many events as were to be appended stand there: taken for a retry."""

    def repeated(connection: Any, append: Append, head: Any) -> Appended | None:
        after = append.expected if isinstance(append.expected, int) else 0
        if head is None or append.expected == "any" or head.version < after + len(append.messages):
            return real(connection, append, head)
        position = feed.head_of_feed(connection)
        return Appended(version=after + len(append.messages), position=position, repeated=True)

    return repeated


def _not_told(_: Any) -> Callable[..., list[Any]]:
    def going_out(append: Append, version: int) -> Sequence[Any]:
        return append.publish

    return going_out  # type: ignore[return-value]


def _one_late(real: Callable[..., Any]) -> Callable[..., Any]:
    def going_out(append: Append, version: int) -> Any:
        return real(append, version - 1)

    return going_out


def _highest_left(_: Any) -> Callable[..., Any]:
    """The bound is that of what still stands."""

    def head_of_feed(connection: Any) -> Any:
        return connection.execute(
            "SELECT coalesce(max(position), 0) FROM eventbus_events"
        ).fetchone()[0]

    return head_of_feed


def _without(real: Callable[..., Any]) -> Callable[..., Any]:
    """The winner's events do not come with the error."""

    async def append(self: Any, append: Append, *, conflicting: bool = False) -> Any:
        return await real(self, append)

    return append


def _of_nobody(real: Callable[..., str]) -> Callable[..., str]:
    def checked(append: Append) -> str:
        real(append)
        return ""

    return checked


def _unchecked(_: Any) -> Callable[..., str]:
    def checked(append: Append) -> str:
        return next((message.tenant for message in append.messages), "")

    return checked


def _published_by_losers(real: Any) -> Any:
    async def append_all(self: Any, appends: Any) -> Any:
        for append in appends:
            self._session.buffer.now += [outgoing_row(each) for each in append.publish]
        return await real(self, [replace(append, publish=()) for append in appends])

    return append_all


def _forgets_where_it_began(real: Any) -> Any:
    def keep(self: Any, append: Any, appended: Any) -> None:
        real(self, append, appended)
        self._session.appended_after = None

    return keep


def _none_waits(_: Any) -> Any:
    def take(self: merging.Merging) -> Any:
        batch = [each for each in self._queue if not each.verdict.cancelled()]
        self._queue.clear()
        return batch[::-1]

    return take


def _first_verdict(real: Any) -> Any:
    async def verdicts(self: merging.Merging, batch: Any) -> Any:
        found = await real(self, batch)
        return [found[0]] * len(found)

    return verdicts


_TABLE: Mapping[str, Sequence[tuple[str, Patch, str, Mapping[str, object]]]] = {
    "EventSuite": [
        (
            "a second note changes nothing",
            text(events, "data = excluded.data, ", "", "_NOTE"),
            "test_a_stream_is_told_with_what_was_noted_on_it",
            {},
        ),
        (
            "what was noted outlives its stream",
            text(events, "WHERE stream_id IN", "WHERE 0 AND stream_id IN", "_UNNOTED"),
            "test_a_stream_is_told_with_what_was_noted_on_it",
            {},
        ),
        (
            "a tombstone is noted on",
            text(events, "AND state < 2", "", "_NOTE"),
            "test_what_no_stream_can_be_noted_is_refused",
            {},
        ),
        (
            "every version is expected",
            instead(appends, "_as_expected", _always),
            "test_who_loses_gets_the_events_of_the_winner_and_may_go_on",
            {},
        ),
        (
            "a retry is written twice",
            instead(appends, "_repeated", _never),
            "test_the_same_ids_again_are_a_retry",
            {"expected": "any"},
        ),
        (
            "a retry is told by its number of events",
            instead(appends, "_repeated", _by_count),
            "test_as_many_other_events_are_no_retry",
            {"expected": 1},
        ),
        (
            "a conflict without the winner's events",
            instead(events.SqliteEvents, "append", _without),
            "test_who_loses_gets_the_events_of_the_winner_and_may_go_on",
            {},
        ),
        (
            "all tenants share their streams",
            instead(events, "checked", _of_nobody),
            "test_tenants_have_streams_of_their_own",
            {},
        ),
        (
            "arguments are not checked",
            both(
                instead(events, "checked", _unchecked),
                instead(merging, "checked", _unchecked),
            ),
            "test_arguments_that_no_stream_can_take_are_refused",
            {},
        ),
        (
            "a closed stream goes on",
            text(events, "SET state = :state", "SET state = state", "_CLOSE"),
            "test_a_stream_that_is_closed",
            {"state": "archived", "expected": "any"},
        ),
        (
            "a tombstoned stream is opened again",
            text(events, "AND state < :state", "", "_CLOSE"),
            "test_a_stream_that_is_closed",
            {"state": "tombstoned", "expected": "any"},
        ),
        (
            "what is cut is read",
            text(events, "e.version >= s.kept_from AND", "", "_STREAM"),
            "test_a_truncated_stream_begins_later",
            {},
        ),
        (
            "reads ignore the moment",
            text(events, "e.recorded_at <= :until", "1", "_STREAM"),
            "test_a_stream_is_read_by_version_backwards_and_until_a_moment",
            {},
        ),
        (
            "snapshots of any schema",
            text(events, "AND schema_hash = ?", "AND ? IS NOT NULL", "_KEPT"),
            "test_a_snapshot_of_another_schema_is_ignored_and_replaced",
            {},
        ),
        (
            "an older snapshot replaces a newer one",
            text(events, "WHERE n.version < excluded.version OR", "WHERE 1 OR", "_SNAPSHOT"),
            "test_an_older_snapshot_never_replaces_a_newer_one",
            {},
        ),
        (
            "the snapshot of another schema stays",
            text(events, " OR n.schema_hash <> excluded.schema_hash", "", "_SNAPSHOT"),
            "test_a_snapshot_of_another_schema_is_ignored_and_replaced",
            {},
        ),
        (
            "the tail begins with the snapshot's event",
            text(events, "version > ? ORDER", "version >= ? ORDER", "_TAIL"),
            "test_a_load_is_the_snapshot_and_what_came_after",
            {},
        ),
        (
            "what goes out does not say its stream",
            instead(events, "going_out", _not_told),
            "test_what_goes_out_says_which_version_of_which_stream",
            {},
        ),
        (
            "what goes out says another version",
            instead(events, "going_out", _one_late),
            "test_what_goes_out_says_which_version_of_which_stream",
            {},
        ),
        (
            "outbox rows of a loser are written",
            instead(events.SqliteEvents, "append_all", _published_by_losers),
            "test_who_loses_gets_the_events_of_the_winner_and_may_go_on",
            {},
        ),
    ],
    "FeedSuite": [
        (
            "a transaction reads what it may yet undo",
            instead(events.SqliteEvents, "_keep", _forgets_where_it_began),
            "test_what_this_transaction_appended_is_not_in_it_yet",
            {},
        ),
        (
            "positions come again",
            instead(feed, "head_of_feed", _highest_left),
            "test_a_position_never_comes_again",
            {},
        ),
        (
            "it goes beyond where it should",
            text(feed, "AND position <= :end", "AND :end IS NOT NULL", "_FEED"),
            "test_it_goes_up_to_a_position_and_no_further",
            {},
        ),
        (
            "categories are prefixes",
            text(feed, "= :category)", "LIKE :category || '%')", "_FEED"),
            "test_a_filter_is_decided_in_the_database",
            {},
        ),
        (
            "tenants are not asked for",
            text(feed, "OR tenant = :tenant", "OR 1", "_FEED"),
            "test_a_filter_is_decided_in_the_database",
            {},
        ),
        (
            "the latest come first",
            text(feed, "ORDER BY position LIMIT", "ORDER BY position DESC LIMIT", "_FEED"),
            "test_it_has_everything_once_in_the_order_of_positions",
            {},
        ),
        (
            "a page begins with the last one's end",
            text(feed, "position > :after", "position >= :after", "_FEED"),
            "test_it_has_everything_once_in_the_order_of_positions",
            {},
        ),
    ],
    "MergedAppendSuite": [
        (
            "a stream is twice in a call, the last first",
            instead(merging.Merging, "_take", _none_waits),
            "test_appends_to_one_stream_go_in_the_order_in_which_they_came",
            {},
        ),
        (
            "all callers get the first verdict",
            instead(merging.Merging, "_verdicts", _first_verdict),
            "test_each_caller_has_its_own_verdict",
            {},
        ),
    ],
}

MUTANTS = [
    Mutant(name, patch, suite, test, arguments)
    for suite, rows in _TABLE.items()
    for name, patch, test, arguments in rows
]
