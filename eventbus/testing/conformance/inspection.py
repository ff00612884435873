"""What operators read and put right: every verb counts, and keeps the order of the keys."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from dataclasses import replace
from typing import Any

import pytest

from eventbus.errors import EventBusError
from eventbus.inspection import Inspected, Place, Selection, Verb
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import Outgoing
from eventbus.storage.parking import Parked
from eventbus.storage.sagas import Arm, Correlation, DefinitionRow
from eventbus.testing.conformance.saga_samples import some_change, some_early, some_start
from eventbus.testing.conformance.samples import (
    AFTER_SOON,
    LONG,
    SOON,
    Clock,
    failed,
    numbers,
    queued,
    some_failure,
    some_message,
    some_messages,
    take,
    take_partitions,
    unique,
)


class InspectionSuite:
    """Subclass it with `storage`, entered, with an empty outbox and nothing parked, and `clock`."""

    async def test_a_retried_row_of_the_outbox_goes_first_of_its_key(
        self, storage: Inspected
    ) -> None:
        messages = some_messages(3, key=unique("key"))
        leases = await _fail_first(storage, *messages)
        ids = [messages[0].id]
        assert await _change(storage, "retry", "outbox", ids=ids, dry_run=True) == 1
        assert await _read(storage, leases) == []
        assert await _change(storage, "retry", "outbox", ids=ids) == 1
        rows = await _read(storage, leases)
        assert numbers(rows) == [0, 1, 2]
        assert [row.attempts for row in rows] == [0, 0, 0]

    async def test_a_retry_of_all_takes_what_was_held_back_up_to_the_limit(
        self, storage: Inspected
    ) -> None:
        leases = await take_partitions(storage)
        for number in range(3):
            await _fail_first(storage, some_message(number, key=unique("key")), leases=leases)
        assert await _change(storage, "retry", "outbox", limit=2) == 2
        assert len(await _read(storage, leases)) == 2
        assert await _change(storage, "retry", "outbox") == 1
        assert len(await _read(storage, leases)) == 3

    async def test_a_released_key_is_due_now(self, storage: Inspected) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, failed(head, delay=SOON * 1000), queued(second))
        chosen: dict[str, Any] = {"group": group, "key": "k"}
        assert await _change(storage, "release", "parked", dry_run=True, **chosen) > 0
        assert await _due(storage, lease, group) == []
        assert await _change(storage, "release", "parked", **chosen) > 0
        assert numbers(await _due(storage, lease, group)) == [0, 1]

    async def test_a_buried_key_is_dead_and_a_redriven_one_due_in_order(
        self, storage: Inspected
    ) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, failed(head, delay=SOON * 0), queued(second))
        assert await _change(storage, "bury", "parked", group=group, key="k", dry_run=True) > 0
        assert len(await _due(storage, lease, group)) == 2
        assert await _change(storage, "bury", "parked", group=group, key="k") > 0
        assert await _due(storage, lease, group) == []
        assert await _change(storage, "redrive", "dead-letter", group=group, key="k") > 0
        rows = await _due(storage, lease, group)
        assert numbers(rows) == [0, 1]
        assert [row.attempts for row in rows] == [0, 0]

    async def test_a_redrive_in_a_dry_run_counts_and_changes_nothing(
        self, storage: Inspected
    ) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, failed(some_message(key="k"), delay=None, attempts=4))
        assert await _change(storage, "redrive", "dead-letter", group=group, dry_run=True) == 1
        assert await _due(storage, lease, group) == []
        assert await _change(storage, "redrive", "dead-letter", group=group) == 1
        assert await _change(storage, "redrive", "dead-letter", group=group) == 0

    async def test_a_redrive_with_a_rate_releases_key_by_key(
        self, storage: Inspected, clock: Clock
    ) -> None:
        group, lease = await _group(storage)
        for key in "abcde":
            await _park(storage, group, failed(some_message(key=key), delay=None))
        changed = await _change(storage, "redrive", "dead-letter", group=group, rate=1.0)
        assert changed == 5
        assert len(await _due(storage, lease, group)) <= 2
        await clock.advance(6.0)
        assert len(await _due(storage, lease, group)) == 5

    @pytest.mark.parametrize("by", ["ids", "key", "type", "fingerprint"])
    async def test_only_what_is_selected_is_redriven(self, storage: Inspected, by: str) -> None:
        group, lease = await _group(storage)
        chosen = failed(replace(some_message(1, key="a"), type="shop.chosen"), delay=None)
        failure = replace(some_failure(), fingerprint="Chosen@here")
        await _park(storage, group, replace(chosen, failure=failure))
        await _park(storage, group, failed(some_message(2, key="b"), delay=None))
        selection: dict[str, Any] = {
            "ids": [chosen.message.id],
            "key": "a",
            "type": "shop.chosen",
            "fingerprint": "Chosen@here",
        }
        selected = {by: selection[by]}
        assert await _change(storage, "redrive", "dead-letter", group=group, **selected) == 1
        assert numbers(await _due(storage, lease, group)) == [1]

    async def test_a_limited_redrive_leaves_the_rest_dead(self, storage: Inspected) -> None:
        group, lease = await _group(storage)
        for key in "abc":
            await _park(storage, group, failed(some_message(key=key), delay=None))
        assert await _change(storage, "redrive", "dead-letter", group=group, limit=2) == 2
        assert len(await _due(storage, lease, group)) == 2

    async def test_a_discarded_letter_lets_the_next_go_and_restored_it_goes_first(
        self, storage: Inspected
    ) -> None:
        group, lease = await _group(storage)
        head, second, third = some_messages(3, key="k")
        await _park(storage, group, failed(head, delay=None), queued(second), queued(third))
        assert await _change(storage, "discard", "dead-letter", ids=[head.id], dry_run=True) == 1
        assert await _due(storage, lease, group) == []
        assert await _change(storage, "discard", "dead-letter", ids=[head.id]) == 1
        assert numbers(await _due(storage, lease, group)) == [1, 2]
        assert await _change(storage, "restore", "dead-letter", ids=[head.id]) == 1
        await _change(storage, "redrive", "dead-letter", group=group)
        rows = await _due(storage, lease, group)
        assert numbers(rows) == [0, 1, 2]
        assert rows[0].message == head
        assert rows[0].failure == some_failure("no stock")

    async def test_a_discarded_only_letter_frees_its_key(self, storage: Inspected) -> None:
        group, lease = await _group(storage)
        await _park(storage, group, failed(some_message(key="k"), delay=None))
        assert await _change(storage, "discard", "dead-letter", group=group, key="k") == 1
        assert await _due(storage, lease, group) == []
        async with storage.transaction() as tx:
            assert await tx.parking.keys(group=group, limit=10) == frozenset()

    async def test_what_was_never_discarded_cannot_be_restored(self, storage: Inspected) -> None:
        assert await _change(storage, "restore", "dead-letter", ids=["unknown"]) == 0

    async def test_an_edited_letter_keeps_id_and_place(self, storage: Inspected) -> None:
        group, lease = await _group(storage)
        head, second = some_messages(2, key="k")
        await _park(storage, group, failed(head, delay=None), queued(second))
        edited: dict[str, Any] = {"ids": [head.id], "payload": b"77"}
        assert await _change(storage, "edit", "dead-letter", dry_run=True, **edited) == 1
        assert (await _find(storage, "dead-letter", group=group))[0]["payload"] == b"0"
        assert await _change(storage, "edit", "dead-letter", **edited) == 1
        assert await _due(storage, lease, group) == [], "it is still dead"
        await _change(storage, "redrive", "dead-letter", group=group)
        rows = await _due(storage, lease, group)
        assert numbers(rows) == [77, 1]
        assert rows[0].message == replace(head, payload=b"77")

    @pytest.mark.parametrize("amount", [0, 2])
    async def test_an_edit_takes_exactly_one_id(self, storage: Inspected, amount: int) -> None:
        group, _ = await _group(storage)
        letters = some_messages(2)
        await _park(storage, group, *(failed(letter, delay=None) for letter in letters))
        ids = [letter.id for letter in letters[:amount]]
        with pytest.raises(EventBusError):
            await _change(storage, "edit", "dead-letter", ids=ids, payload=b"7")

    @pytest.mark.parametrize(
        ("place", "group", "lease"),
        [
            ("outbox", None, "paused/outbox/"),
            ("parked", "billing", "paused/group/billing/"),
            ("parked", "projection:orders", "paused/projection/orders/"),
        ],
    )
    async def test_what_is_paused_is_a_lease_until_it_is_resumed(
        self, storage: Inspected, clock: Clock, place: Any, group: str | None, lease: str
    ) -> None:
        assert await _change(storage, "pause", place, group=group, dry_run=True) == 1
        assert await _owners(storage, lease) == 0
        assert await _change(storage, "pause", place, group=group) == 1
        await _change(storage, "pause", place, group=group)
        await clock.advance(10.0**8 if clock.jumps else 1.0)
        assert await _owners(storage, lease) == 1
        assert await _owners(storage, "paused/group/bill/") == 0
        assert await _change(storage, "resume", place, group=group) == 1
        assert await _owners(storage, lease) == 0
        await _change(storage, "pause", place, group=group)
        assert await _owners(storage, lease) == 1

    async def test_a_verb_that_its_place_has_not_is_refused(self, storage: Inspected) -> None:
        wrong: list[tuple[Verb, Any]] = [("redrive", "outbox"), ("retry", "parked")]
        for verb, place in wrong:
            with pytest.raises(EventBusError):
                await _change(storage, verb, place)

    async def test_figures_are_the_gauges(self, storage: Inspected, clock: Clock) -> None:
        group, _ = await _group(storage)
        await _fail_first(storage, *some_messages(3, key=unique("key")))
        await _park(storage, group, failed(some_message(key="a"), delay=None))
        await _park(storage, group, failed(some_message(key="b")), queued(some_message(key="b")))
        await clock.advance(AFTER_SOON)
        figures = await storage.inspection.figures()
        assert figures["outbox_pending_messages"] == 2
        assert figures["outbox_failed_messages"] == 1
        assert figures["outbox_oldest_age_seconds"] >= AFTER_SOON - 0.1
        assert figures["outbox_partitions_leased"] == 64
        assert figures[f"parked_messages{{{group}}}"] == 3
        assert figures[f"parked_keys{{{group}}}"] == 2
        assert figures[f"dead_letters{{{group}}}"] == 1

    async def test_figures_tell_of_open_sagas_and_of_what_is_late(
        self, storage: Inspected, clock: Clock
    ) -> None:
        saga, early = unique("saga"), Correlation(unique("saga"), "", "A-1")
        definition = DefinitionRow(saga=saga, version=1, digest=b"d", graph=b"{}")
        statuses = ("running", "running", "resolving", "stuck", "completed")
        starts = [some_start(saga, str(number)) for number in range(len(statuses))]
        async with storage.transaction() as tx:
            await tx.sagas.register([definition])
            await tx.sagas.start(starts)
            records = await tx.sagas.lock([start.saga_id for start in starts])
            timers = [Arm("deadline", 1, SOON), Arm("reminder", 1, LONG)]
            changes = [
                some_change(record, status=status, arm=timers)
                for record, status in zip(records, statuses, strict=True)
            ]
            await tx.sagas.save(changes)
            await tx.sagas.stash([some_early(early, some_message(key="A-1"))])
        assert (await storage.inspection.figures())["timer_lag_seconds"] == 0
        await clock.advance(AFTER_SOON)
        figures = await storage.inspection.figures()
        assert {
            name: amount for name, amount in figures.items() if name.startswith("saga_instances{")
        } == {
            f"saga_instances{{{saga},running}}": 2,
            f"saga_instances{{{saga},resolving}}": 1,
            f"saga_instances{{{saga},compensating}}": 0,
            f"saga_instances{{{saga},stuck}}": 1,
        }
        assert figures["saga_stuck_instances"] == 1
        assert figures["saga_oldest_unknown_age_seconds"] >= AFTER_SOON - 0.1
        assert figures["saga_stashed_messages"] == 1
        late = AFTER_SOON - SOON.total_seconds()
        assert late - 0.1 <= figures["timer_lag_seconds"] < LONG.total_seconds()

    async def test_rows_are_found_whole_oldest_first(self, storage: Inspected) -> None:
        group, _ = await _group(storage)
        dead, retried = some_message(1, key="a"), some_message(2, key="b")
        await _park(storage, group, failed(dead, delay=None, text="why"), failed(retried))
        rows = await _find(storage, "dead-letter", group=group)
        assert [row["payload"] for row in rows] == [b"1"]
        assert dict(rows[0]["headers"]) == {}
        assert {dead.id, dead.type, "a", "why", "OutOfStock", group} <= set(_texts(rows[0]))
        everything = await _find(storage, "parked", group=group)
        assert retried.id in {text for row in everything for text in _texts(row)}
        assert len(await _find(storage, "parked", group=group, limit=1)) == 1

    async def test_places_list_the_outbox(self, storage: Inspected) -> None:
        messages = some_messages(3, key=unique("key"))
        await _fail_first(storage, *messages)
        place = Place(storage.inspection, "outbox")
        rows = await place.list(key=messages[0].key)
        assert [row["payload"] for row in rows] == [b"0", b"1", b"2"]
        assert await place.change("retry", actor="ops", ids=[messages[0].id]) == 1

    async def test_verifying_changes_nothing_and_finds_nothing_wrong(
        self, storage: Inspected
    ) -> None:
        group, lease = await _group(storage)
        messages = some_messages(2, key="k")
        async with storage.transaction() as tx:
            await tx.inbox.receive(messages, keys=["k", "k"], group=group)
        await _park(storage, group, *map(queued, messages))
        findings = await storage.inspection.verify()
        assert [finding for finding in findings if finding.level != "say"] == []
        assert len(await _due(storage, lease, group)) == 2


async def _change(
    storage: Inspected,
    verb: Verb,
    place: Any,
    *,
    rate: float | None = None,
    limit: int | None = None,
    payload: bytes | None = None,
    dry_run: bool = False,
    **selection: Any,
) -> int:
    return await storage.inspection.change(
        verb,
        Selection(place=place, **selection),
        actor="ops",
        reason="a suite",
        rate=rate,
        limit=limit,
        payload=payload,
        dry_run=dry_run,
    )


async def _find(storage: Inspected, place: Any, *, limit: int = 100, **selection: Any) -> list[Any]:
    return list(await storage.inspection.find(Selection(place=place, **selection), limit=limit))


def _texts(row: Any) -> list[str]:
    return [value for value in row.values() if isinstance(value, str)]


async def _group(storage: Inspected) -> tuple[str, Lease]:
    group = unique("group")
    return group, await take(storage, f"parked/{group}")


async def _park(storage: Inspected, group: str, *rows: Parked) -> None:
    async with storage.transaction() as tx:
        await tx.parking.park(rows, group=group)


async def _due(storage: Inspected, lease: Lease, group: str) -> list[Parked]:
    async with storage.transaction() as tx:
        return list(await tx.parking.due(lease, group=group, limit=100))


async def _owners(storage: Inspected, prefix: str) -> int:
    async with storage.transaction() as tx:
        return await tx.leases.owners(prefix)


async def _read(storage: Inspected, leases: Any) -> list[Outgoing]:
    async with storage.transaction() as tx:
        return list(await tx.outbox.read(leases, limit=100))


async def _fail_first(storage: Inspected, *messages: Any, leases: Any = None) -> Any:
    """Add messages of a key and let the first one fail; the leases of the partitions."""
    leases = leases or await take_partitions(storage)
    async with storage.transaction() as tx:
        await tx.outbox.add(messages)
    async with storage.transaction() as tx:
        rows = [
            row
            for row in await tx.outbox.read(leases, limit=100)
            if row.message.id == messages[0].id
        ]
        assert await tx.outbox.defer(leases, rows, delay=None, error="too large") == 1
    return leases
