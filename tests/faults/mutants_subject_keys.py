"""Mutants of the keys of personal data on SQLite: one seam each, and the test that sees it."""

from dataclasses import replace
from typing import Any

from eventbus.sqlite import subject_keys
from eventbus.sqlite.subject_keys import SqliteSubjectKeys
from tests.faults.mutants_storage import Mutant, instead, text

_ANEW = "DO UPDATE SET key_id = excluded.key_id, wrapped_key = excluded.wrapped_key"
SHRED = SqliteSubjectKeys.shred


def of_any_tenant(shred: Any) -> Any:
    """Takes the same name in another tenant along."""

    async def mutated(self: Any, subject: Any, **told: Any) -> Any:
        for tenant in ("t1", "t2"):
            done = await shred(self, subject._replace(tenant=tenant), **told)
        return done

    return mutated


async def shred_without_a_row(self: Any, subject: Any, **told: Any) -> Any:
    """Deletes the row, and the subject is unknown again."""
    done = await SHRED(self, subject, **told)
    await self._session.run(
        "shred",
        lambda db: db.execute(
            "DELETE FROM eventbus_subject_keys WHERE subject = ?", (subject.name,)
        ),
    )
    return done


def all_kept(original: Any) -> Any:
    """Whatever was read is said to be committed."""
    return lambda *given: [replace(one, kept=True) for one in original(*given)]


MUTANTS = [
    Mutant(name, patch, "SubjectKeySuite", test, arguments)
    for name, patch, test, arguments in (
        (
            "the last key of a subject stays",
            text(subject_keys, "DO NOTHING", f"(tenant, subject) {_ANEW}", "_ADD"),
            "test_the_first_key_of_a_subject_stays",
            {},
        ),
        (
            "a key follows a shredded one",
            text(
                subject_keys, "DO NOTHING", f"(tenant, subject) {_ANEW}, shredded_at = NULL", "_ADD"
            ),
            "test_no_key_follows_a_shredded_one",
            {},
        ),
        (
            "what may be rolled back is told as kept",
            instead(SqliteSubjectKeys, "_keys", all_kept),
            "test_what_this_transaction_made_may_yet_be_rolled_back",
            {},
        ),
        (
            "forgotten again is forgotten later",
            text(subject_keys, " WHERE k.shredded_at IS NULL", "", "_SHRED"),
            "test_shredded_again_nothing_changes",
            {},
        ),
        (
            "the row goes with the key",
            instead(SqliteSubjectKeys, "shred", lambda _: shred_without_a_row),
            "test_who_had_no_key_stays_forgotten_too",
            {},
        ),
        (
            "another tenant's subject of that name is forgotten too",
            instead(SqliteSubjectKeys, "shred", of_any_tenant),
            "test_a_subject_is_of_its_tenant",
            {},
        ),
        (
            "the snapshots stay",
            text(subject_keys, "DELETE FROM", "SELECT 1 FROM", "_SNAPSHOTS"),
            "test_the_snapshots_that_it_was_part_of_go_with_it",
            {"first": True},
        ),
        (
            "every sealed snapshot goes",
            text(subject_keys, "instr(state, ?2) > 0", "?2 IS NOT NULL", "_SNAPSHOTS"),
            "test_the_snapshots_that_it_was_part_of_go_with_it",
            {"first": True},
        ),
        (
            "a page of the forgotten skips",
            text(
                subject_keys,
                "(tenant, subject) > (?, ?)",
                "(tenant, subject || 'z') > (?, ? || 'zz')",
                "_SHREDDED",
            ),
            "test_who_is_forgotten_is_listed_in_one_order",
            {},
        ),
        (
            "a shredded key is tried",
            text(subject_keys, "wrapped_key IS NOT NULL", "wrapped_key IS NULL", "_ANY"),
            "test_any_is_one_that_opens",
            {},
        ),
        (
            "a page begins with the last of the page before",
            text(subject_keys, "key_id <> ?", "?3 IS NOT NULL", "_LISTED"),
            "test_a_subject_without_a_name_is_listed",
            {},
        ),
        (
            "who has no name is passed over",
            text(subject_keys, "(tenant, subject) >= ", "(tenant, subject) > ", "_LISTED"),
            "test_a_subject_without_a_name_is_listed",
            {},
        ),
        (
            "the shredded are listed",
            text(subject_keys, "wrapped_key IS NOT NULL AND", "1 AND", "_LISTED"),
            "test_what_stands_is_listed_in_one_order",
            {},
        ),
        (
            "what changed meanwhile is rewrapped",
            text(
                subject_keys,
                "AND wrapped_key = ?",
                "AND ? NOTNULL AND wrapped_key NOTNULL",
                "_REWRAP",
            ),
            "test_what_changed_since_it_was_read_is_not_rewrapped",
            {},
        ),
    )
]
