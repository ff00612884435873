"""Mutants of the keys of personal data on PostgreSQL: one seam each, and the test that sees it."""

from typing import Any

from eventbus.postgres import subject_keys
from eventbus.postgres.subject_keys import PostgresSubjectKeys
from tests.faults.mutants_storage import Mutant, instead, text
from tests.faults.mutants_subject_keys import all_kept, of_any_tenant

_STAYS = "SET tenant = k.tenant"
_ANEW = "SET key_id = excluded.key_id, wrapped_key = excluded.wrapped_key"
_IN_IT = "position(uuid_send($2) IN data) > 0"


def without_a_row(shred: Any) -> Any:
    """Deletes the row, and the subject is unknown again."""

    async def mutated(self: PostgresSubjectKeys, subject: Any, **told: Any) -> Any:
        done = await shred(self, subject, **told)
        delete = f"DELETE FROM {self._session.schema}.subject_keys WHERE subject = $1"
        await self._session.fetch(delete, subject.name, where="subject_keys.shred")
        return done

    return mutated


MUTANTS = [
    Mutant(f"subject keys: {name}", patch, "SubjectKeySuite", test, arguments)
    for name, patch, test, arguments in (
        (
            "the last key of a subject stays",
            text(subject_keys, _STAYS, _ANEW, "_ADD"),
            "test_the_first_key_of_a_subject_stays",
            {},
        ),
        (
            "who adds second gets nothing",
            text(subject_keys, f"DO UPDATE {_STAYS}", "DO NOTHING", "_ADD"),
            "test_two_that_add_a_subject_at_once_get_one_key",
            {},
        ),
        (
            "a key follows a shredded one",
            text(subject_keys, _STAYS, f"{_ANEW}, shredded_at = NULL", "_ADD"),
            "test_no_key_follows_a_shredded_one",
            {},
        ),
        (
            "what may be rolled back is told as kept",
            instead(PostgresSubjectKeys, "_keys", all_kept),
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
            instead(PostgresSubjectKeys, "shred", without_a_row),
            "test_who_had_no_key_stays_forgotten_too",
            {},
        ),
        (
            "another tenant's subject of that name is forgotten too",
            instead(PostgresSubjectKeys, "shred", of_any_tenant),
            "test_a_subject_is_of_its_tenant",
            {},
        ),
        (
            "the snapshots stay",
            text(subject_keys, _IN_IT, f"{_IN_IT} AND false", "_SNAPSHOTS"),
            "test_the_snapshots_that_it_was_part_of_go_with_it",
            {"first": True},
        ),
        (
            "every sealed snapshot goes",
            text(subject_keys, _IN_IT, "$2::uuid IS NOT NULL", "_SNAPSHOTS"),
            "test_the_snapshots_that_it_was_part_of_go_with_it",
            {"first": True},
        ),
        (
            "the forgotten are listed backwards",
            text(subject_keys, "ORDER BY tenant, subject", "ORDER BY 1 DESC, 2 DESC", "_SHREDDED"),
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
            text(subject_keys, "key_id <> $3", "$3::uuid IS NOT NULL", "_LISTED"),
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
            text(subject_keys, "wrapped_key IS NOT NULL AND", "", "_LISTED"),
            "test_what_stands_is_listed_in_one_order",
            {},
        ),
        (
            "what changed meanwhile is rewrapped",
            text(subject_keys, " AND k.wrapped_key = u.before", "", "_REWRAP"),
            "test_what_changed_since_it_was_read_is_not_rewrapped",
            {},
        ),
    )
]
