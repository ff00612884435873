"""Mutants of the event log on PostgreSQL: one seam each, with the test that sees it."""

from dataclasses import replace

import pytest

from eventbus.postgres import events as postgres
from eventbus.postgres import upgrade
from tests.faults.mutants_storage import Mutant, Patch, text

LATER = "test_nothing_is_lost_repeated_or_inverted_under_all_kinds_of_writers"


def migrated(old: str, new: str) -> Patch:
    """Replace a part of the migration of the event log."""

    def patch(patching: pytest.MonkeyPatch) -> None:
        known = upgrade.migrations()
        (place,) = (n for n, each in enumerate(known) if "position_seq" in each.text)
        assert old in known[place].text, f"the migration has no {old!r} any more: mend the mutant"
        mutated = replace(known[place], text=known[place].text.replace(old, new, 1))
        everything = (*known[:place], mutated, *known[place + 1 :])
        patching.setattr(upgrade, "migrations", lambda: everything)

    return patch


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
            migrated("bound := least(head, coalesce(_lowest, head));", "bound := head;"),
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
