"""What operators see and change, beyond the suite: audit rows, rules, counts that stop."""

import json
from typing import Any

import pytest

from eventbus.errors import ConfigurationError, StorageError
from eventbus.inspection import Selection, Verb
from eventbus.postgres import PostgresStorage
from eventbus.testing.conformance.samples import (
    failed,
    queued,
    some_message,
    some_messages,
    take_partitions,
)

Admin = Any  # asyncpg's connection, whose stubs want a record class

VERBS: list[tuple[Verb, Any, dict[str, Any]]] = [
    ("retry", "outbox", {}),
    ("release", "parked", {}),
    ("bury", "parked", {}),
    ("redrive", "dead-letter", {}),
    ("discard", "dead-letter", {}),
    ("restore", "dead-letter", {}),
    ("pause", "outbox", {}),
    ("resume", "outbox", {}),
    ("pause", "parked", {"group": "g"}),
]


@pytest.mark.parametrize(("verb", "place", "selection"), VERBS)
async def test_every_verb_leaves_one_audit_row_and_a_dry_run_none(
    storage: PostgresStorage, admin: Admin, verb: Verb, place: Any, selection: dict[str, Any]
) -> None:
    what = Selection(place=place, **selection)
    change = storage.inspection.change
    counted = await change(verb, what, actor="ops", reason="why", dry_run=True)
    assert await admin.fetch(f"SELECT * FROM {storage.config.schema}.audit") == []
    assert await change(verb, what, actor="ops", reason="why") == counted
    (row,) = await admin.fetch(f"SELECT * FROM {storage.config.schema}.audit")
    assert (row["verb"], row["actor"], row["reason"], row["changed"]) == (
        verb,
        "ops",
        "why",
        counted,
    )
    assert f'"{place}"' in row["selection"]


async def test_what_does_not_fit_is_refused_and_leaves_nothing(
    storage: PostgresStorage, admin: Admin
) -> None:
    wrong: list[tuple[Verb, Selection, str]] = [
        ("redrive", Selection(place="outbox"), "EB8001"),
        ("redrive", Selection(place="saga"), "EB8001"),
        ("retry", Selection(place="outbox", group="g"), "EB8001"),
        ("pause", Selection(place="parked"), "EB8003"),
        ("edit", Selection(place="dead-letter", ids=["a", "b"]), "EB8001"),
        ("edit", Selection(place="dead-letter", ids=["a"]), "EB8004"),
    ]
    for verb, what, code in wrong:
        with pytest.raises(ConfigurationError) as caught:
            await storage.inspection.change(verb, what, actor="ops", payload=b"{}")
        assert caught.value.code == code
    assert await admin.fetch(f"SELECT * FROM {storage.config.schema}.audit") == []
    with pytest.raises(ConfigurationError):
        await storage.inspection.find(Selection(place="saga"), limit=1)
    assert storage.pools.idle() == storage.pools.size()


async def test_a_letter_of_several_groups_is_edited_by_group(storage: PostgresStorage) -> None:
    letter = some_message(key="k")
    for group in ("a", "b"):
        async with storage.transaction() as tx:
            await tx.parking.park([failed(letter, delay=None)], group=group)
    one, every = (
        Selection(place="dead-letter", ids=[letter.id], group=group) for group in ("a", None)
    )
    with pytest.raises(ConfigurationError):
        await storage.inspection.change("edit", every, actor="ops", payload=b"7")
    assert await storage.inspection.change("edit", one, actor="ops", payload=b"7") == 1
    rows = await storage.inspection.find(Selection(place="dead-letter"), limit=10)
    assert {row["group"]: row["payload"] for row in rows} == {"a": b"7", "b": b"0"}


async def test_rows_say_what_waits_behind_them(storage: PostgresStorage) -> None:
    letter, *behind = some_messages(3, key="k")
    leases = await take_partitions(storage)
    async with storage.transaction() as tx:
        await tx.parking.park([failed(letter, delay=None), *map(queued, behind)], group="g")
        await tx.outbox.add([letter, *behind])
    async with storage.transaction() as tx:
        rows = await tx.outbox.read(leases, limit=1)
        await tx.outbox.defer(leases, rows, delay=None, error="too large")
    (dead,) = await storage.inspection.find(Selection(place="dead-letter"), limit=10)
    first, *_ = await storage.inspection.find(Selection(place="outbox"), limit=10)
    assert (dead["waiting"], dead["state"]) == (2, "dead")
    assert (first["waiting"], first["state"], first["error"]) == (2, "failed", "too large")


async def test_what_was_done_at_a_broker_leaves_an_audit_row(
    storage: PostgresStorage, admin: Admin
) -> None:
    told = {"changes": ["create queue billing"]}
    await storage.inspection.note("topology apply", told, changed=1, actor="ann", reason="new")
    (row,) = await admin.fetch(f"SELECT * FROM {storage.config.schema}.audit")
    assert (row["verb"], row["changed"], row["actor"]) == ("topology apply", 1, "ann")
    assert (json.loads(row["selection"]), row["reason"]) == (told, "new")


async def test_an_audit_finds_what_no_commit_leaves(storage: PostgresStorage, admin: Admin) -> None:
    name, messages = storage.config.schema, some_messages(3, key="k")
    async with storage.transaction() as tx:
        await tx.inbox.receive(messages[:1], keys=["k"], group="g")
        await tx.inbox.count(messages[:1], group="g")
        await tx.parking.park([failed(messages[0], delay=None)], group="g")
        await tx.outbox.add(messages)
    assert await storage.inspection.verify() == []
    await admin.execute(
        f"UPDATE {name}.parked_keys SET key = 'other';"
        f"UPDATE {name}.attempts SET attempts = 0;"
        f"DELETE FROM {name}.inbox;"
        f"UPDATE {name}.outbox SET part = (part + 1) % 64 WHERE id = 1"
    )
    found = [finding.what for finding in await storage.inspection.verify()]
    assert len(found) == 5
    assert sum("1 outbox rows in a partition" in what for what in found) == 1
    sampled = [finding.what for finding in await storage.inspection.verify(sample=1)]
    assert len(sampled) == 4, "the first row of the outbox stands where it should"


async def test_counts_stop_at_ten_thousand(storage: PostgresStorage, admin: Admin) -> None:
    name = storage.config.schema
    await admin.execute(
        f"INSERT INTO {name}.outbox (part, message_id, type, source, topic, headers, payload)"
        " SELECT n % 64, n::text, 't', 's', 't', '{}', '{}' FROM generate_series(1, 10100) n;"
        f"INSERT INTO {name}.parked_keys (group_name, key, due_at, state)"
        " SELECT 'g' || n % 2, n::text, now(), n % 2 FROM generate_series(1, 20300) n;"
        f"INSERT INTO {name}.parked"
        " (group_name, key, message, message_id, type, source, topic, origin)"
        " SELECT 'g' || n % 2, n::text, gen_random_uuid(), n::text, 't', 's', 't', 'o'"
        " FROM generate_series(1, 20300) n;"
        f"INSERT INTO {name}.saga_definition (saga_type, version, digest, graph)"
        " SELECT 's' || n, 1, '', '' FROM generate_series(0, 1) n;"
        f"INSERT INTO {name}.saga (saga_id, saga_type, business_key, def_version, def_digest,"
        " status, data, data_version, version, created_at, updated_at, status_since)"
        " SELECT gen_random_uuid(), 's' || n % 2, n::text, 1, '', 'stuck', '', 1, 1,"
        " now(), now(), now() FROM generate_series(1, 20300) n;"
        f"INSERT INTO {name}.saga_stash (saga_type, name, value, message, message_id, type, source,"
        " topic, headers, payload, expires_at)"
        " SELECT 's0', '', n::text, gen_random_uuid(), n::text, 't', 's', 't', '', '', now()"
        " FROM generate_series(1, 10100) n"
    )
    figures = await storage.inspection.figures()
    assert figures["outbox_pending_messages"] == 10_000
    assert figures["outbox_oldest_age_seconds"] > 0
    assert figures["parked_keys{g0}"] == figures["parked_messages{g1}"] == 10_000
    assert figures["dead_letters{g0}"] == 0
    assert figures["dead_letters{g1}"] == 10_000
    assert figures["saga_instances{s0,stuck}"] == figures["saga_stuck_instances"] == 10_000
    assert figures["saga_stashed_messages"] == 10_000


async def test_a_key_that_a_lane_holds_for_long_ends_in_an_error_that_changed_nothing(
    storage: PostgresStorage, admin: Admin
) -> None:
    async with storage.transaction() as tx:
        await tx.parking.park([failed(some_message(key="k"), delay=None)], group="g")
    name = storage.config.schema
    async with admin.transaction():
        await admin.execute(f"SELECT * FROM {name}.parked_keys FOR UPDATE")
        with pytest.raises(StorageError) as caught:
            await storage.inspection.change("discard", Selection(place="dead-letter"), actor="ops")
    assert caught.value.code == "EB5007"
    assert await admin.fetch(f"SELECT * FROM {name}.audit") == []
    assert storage.pools.idle() == storage.pools.size()
