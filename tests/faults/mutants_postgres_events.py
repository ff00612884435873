"""Mutants of the event log on PostgreSQL: one seam each, with the test that sees it."""

from dataclasses import replace
from typing import Any

import pytest

from eventbus.postgres import events as postgres
from eventbus.postgres import feed, loading, upgrade
from eventbus.storage.events import FeedPage
from tests.faults.mutants_storage import Mutant, Patch, both, instead, text
from tests.integration.postgres.event_races import RACES as EVENT_RACES

LATER = "test_nothing_is_lost_repeated_or_inverted_under_all_kinds_of_writers"


RACES = "EventRaces"  # of tests/integration/postgres/event_races.py, beside the names of suites
ONE, SEVERAL, OUT, WITHIN, LOADED, EARLY, BOUND = EVENT_RACES


def migrated(old: str, new: str) -> Patch:
    """Replace a part of the last migration that says it: a later one may replace functions."""

    def patch(patching: pytest.MonkeyPatch) -> None:
        known = upgrade.migrations()
        places = [n for n, each in enumerate(known) if old in each.text]
        assert places, f"no migration has {old!r} any more: mend the mutant"
        place = places[-1]
        mutated = replace(known[place], text=known[place].text.replace(old, new, 1))
        everything = (*known[:place], mutated, *known[place + 1 :])
        patching.setattr(upgrade, "migrations", lambda: everything)

    return patch


NAIVE = migrated("bound := least(head, coalesce(_lowest, head));", "bound := head;")
_ENDED = " AND xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_NOT_LOCKED = "PERFORM ({schema}.lock_key"
_TOGETHER = (
    "WITH b AS MATERIALIZED (SELECT bound FROM {schema}.read_bound())"
    " SELECT (SELECT bound FROM b) AS bound, array(SELECT position FROM {schema}.events"
    " WHERE position > $1 AND position <= (SELECT bound FROM b)) AS positions"
)


def _in_one_statement(real: Any) -> Any:
    """The bound and what stands below it are of one snapshot."""

    async def read_all(self: postgres.PostgresEvents, *, after: Any, **more: Any) -> Any:
        sql = _TOGETHER.format(schema=self._session.schema)
        ((bound, positions),) = await self._session.look(sql, after, where="events.read_all")
        page = await real(self, after=after, **more)
        events = [each for each in page.events if each.position in positions]
        return FeedPage(events=events, read_to=bound, bound=bound)

    return read_all


_TABLE: dict[str, list[tuple[str, Patch, str]]] = {
    "EventSuite": [
        (
            "a retry is told by the count",
            migrated("IF _seen = _ids THEN\n        status", "IF true THEN\n        status"),
            "test_as_many_other_events_are_no_retry",
        ),
        (
            "a retry without a version is not told",
            migrated("ELSIF _expected < -1 AND _v > _n THEN", "ELSIF false THEN"),
            "test_the_same_ids_again_are_a_retry",
        ),
        (
            "a closed stream takes events",
            migrated("WHERE t.state = 0\n", "WHERE true\n"),
            "test_a_stream_that_is_closed",
        ),
        (
            "a snapshot of another hash is kept",
            text(postgres, " OR n.schema_hash <> excluded.schema_hash", "", "_SNAPSHOT"),
            "test_a_snapshot_of_another_schema_is_ignored_and_replaced",
        ),
    ],
    "MergedAppendSuite": [
        (
            "outbox rows of losers are written",
            migrated("WHERE _status[r] = 'ok' ORDER BY o) u;", "ORDER BY o) u;"),
            "test_each_caller_has_its_own_verdict",
        ),
    ],
    "FeedSuite": [
        (
            "the bound does not wait for who writes",
            NAIVE,
            LATER,
        ),
        (
            "an append does not say that it writes",
            migrated(
                "IF current_setting('eventbus.entered_{schema}', true)\n"
                "     IS DISTINCT FROM pg_current_xact_id()::text THEN",
                "IF false THEN",
            ),
            LATER,
        ),
    ],
    RACES: [
        (
            "one event is not announced",
            migrated("PERFORM pg_advisory_xact_lock_shared(\n    {schema}.lock_key", _NOT_LOCKED),
            ONE,
        ),
        (
            "several events are not announced",
            migrated("PERFORM {schema}.enter_append();\n  WITH ins", "WITH ins"),
            SEVERAL,
        ),
        (
            "events that go out are not announced",
            migrated("PERFORM {schema}.enter_append();\n  RETURN QUERY WITH", "RETURN QUERY WITH"),
            OUT,
        ),
        (
            "an append in a transaction is not announced",
            migrated("PERFORM {schema}.enter_append();\n  WITH ins", "WITH ins"),
            WITHIN,
        ),
        (
            "a bulk load is not announced",
            text(loading, "{schema}.enter_append()", "1", "_ENTER"),
            LOADED,
        ),
        ("a cursor on positions", NAIVE, EARLY),
        (
            "a cursor on positions that waits for older transactions",
            both(NAIVE, text(feed, "{only}", _ENDED + "{only}", "_FEED")),
            EARLY,
        ),
        (
            "bound and events in one statement",
            instead(postgres.PostgresEvents, "read_all", _in_one_statement),
            BOUND,
        ),
    ],
}


GIVEN: dict[str, dict[str, object]] = {
    "test_the_same_ids_again_are_a_retry": {"expected": "any"},
    "test_as_many_other_events_are_no_retry": {"expected": 1},
    "test_a_stream_that_is_closed": {"expected": "any", "state": "tombstoned"},
}

MUTANTS = [
    Mutant(name, patch, suite, test, GIVEN.get(test, {}))
    for suite, mutants in _TABLE.items()
    for name, patch, test in mutants
]
