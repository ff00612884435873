"""Mutants of read models: of their tables on SQLite, and of what follows and rebuilds."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventbus import EventBus
from eventbus.sourcing import batch, following, holdings, inline, shard, view, waiting
from eventbus.sourcing.rebuild import replay
from eventbus.sqlite import (
    checkpoints,
    own_tables,
    projections,
    read_models,
    switching,
)
from eventbus.storage.events import Position
from eventbus.testing.faults import Conflict
from tests.faults import test_projecting
from tests.faults.mutants_storage import Mutant, Patch, both, instead, text
from tests.integration.sourcing import (
    test_following,
    test_inline,
    test_rebuilding,
    test_rebuilding_general,
)
from tests.integration.sourcing.read_models import Sum, sell_many


def _any_position(_: Any) -> Callable[..., Position]:
    def one_position(name: str, standing: Any, prefixes: Any) -> Position:
        return Position(max(standing.values(), default=0))

    return one_position


def _first_stays(real: Callable[..., str]) -> Callable[..., str]:
    def upsert(table: Any) -> str:
        return real(table).partition(" DO ")[0] + " DO NOTHING"

    return upsert


_TABLE: list[tuple[str, Patch, str, dict[str, object]]] = [
    (
        "a retired version saves its checkpoint",
        text(checkpoints, " AND state < 2", "", "_SAVE"),
        "test_a_retired_version_saves_no_checkpoint",
        {},
    ),
    (
        "a switch does not compare positions",
        instead(switching, "one_position", _any_position),
        "test_a_switch_between_two_positions_is_refused",
        {"at": (5, 4)},
    ),
    (
        "effects begin anew after a switch",
        text(switching, "publishes_after = ?", "publishes_after = 0 * ?", "_PUBLISHES"),
        "test_a_switch_lets_the_new_version_serve_and_back",
        {},
    ),
    (
        "a row that stands is not replaced",
        instead(read_models, "upsert", _first_stays),
        "test_rows_are_written_read_by_key_replaced_and_deleted",
        {},
    ),
    (
        "a table of somebody else is not seen",
        text(projections, "name = ?", "name = ? || '.'", "IS_THERE"),
        "test_a_table_that_stands_there_is_refused_and_left_alone",
        {},
    ),
    (
        "how far the scan goes is not kept",
        text(projections, "built_to = ?", "built_to = 0 * ?", "_BUILT"),
        "test_how_far_the_scan_goes_is_kept",
        {},
    ),
    (
        "progress does not move",
        text(projections, "done = excluded.done, ", "", "NOTE"),
        "test_progress_is_what_was_said_last",
        {},
    ),
    (
        "what was parked in a dropped version stays",
        instead(projections, "_OF_A_VERSION", lambda real: real[:2]),
        "test_of_a_dropped_version_no_mark_and_nothing_parked_is_left",
        {},
    ),
    (
        "marks of a dropped version stay",
        instead(projections, "_OF_A_VERSION", lambda real: (real[0], *real[2:])),
        "test_of_a_dropped_version_no_mark_and_nothing_parked_is_left",
        {},
    ),
    (
        "streams that were cut are not counted",
        text(projections, "kept_from > 1", "kept_from > 100", "_CUT"),
        "test_streams_that_lost_events_are_counted",
        {},
    ),
]


def _as_given(_: Any) -> Any:
    """Whatever stands there."""

    async def claim(self: Any, table: Any, rows: Any) -> Any:
        await self.write(table, rows)
        return rows

    return claim


_INLINE: list[tuple[str, Patch, str]] = [
    (
        "rows of other code are entered",
        text(projections, "p.status = 'active' AND ", "c.fingerprint IS NULL AND ", "_ENTERED"),
        "test_the_active_version_is_entered_by_its_fingerprint",
    ),
    (
        "a claimed row begins anew",
        instead(projections.SqliteProjections, "claim", _as_given),
        "test_rows_are_claimed_as_they_stand_and_made_where_they_are_missing",
    ),
    (
        "an inline version is switched where the old one stands",
        instead(switching, "compared", lambda _: lambda prefixes, **_: prefixes[:1]),
        "test_an_inline_version_is_switched_where_the_new_one_stands",
    ),
    (
        "nobody notes up to where the rows of an inline version are",
        text(switching, "position = ?1", "position = position + 0 * ?1", "_LEFT"),
        "test_a_version_that_is_left_is_built_on_from_the_switch",
    ),
]


def _not_watched(_: Any) -> Any:
    return ("INSERT",)


_OWN: list[tuple[str, Patch, str, dict[str, object]]] = [
    (
        "only inserts are seen",
        instead(own_tables, "_WAYS", _not_watched),
        "test_what_is_watched_tells_who_was_written_to",
        {"statement": "UPDATE {} SET a = 3 WHERE a = 1"},
    ),
    (
        "an imitation has no indexes",
        instead(own_tables, "give_indexes", lambda _: lambda *_: None),
        "test_an_imitation_is_empty_and_refuses_what_the_table_refuses",
        {},
    ),
    (
        "a version's tables are not kept",
        text(own_tables, "tables = ?", "tables = substr('[]' || ?, 1, 2)", "_KEEP"),
        "test_a_switch_moves_all_tables_of_both_versions",
        {},
    ),
    (
        "a table of somebody else is taken",
        text(own_tables, "name = ?", "name = ? || '.'", "IS_THERE"),
        "test_an_imitation_takes_nobodys_place",
        {},
    ),
]


MUTANTS = (
    [Mutant(name, patch, "ProjectionSuite", test, given) for name, patch, test, given in _TABLE]
    + [Mutant(name, patch, "OwnTablesSuite", test, given) for name, patch, test, given in _OWN]
    + [Mutant(name, patch, "InlineSuite", test, {}) for name, patch, test in _INLINE]
)

Check = Callable[[Path], Awaitable[object]]


@dataclass(frozen=True)
class Wrong:
    """A wrong machine, and the test that must see it."""

    name: str
    patch: Patch
    check: Check


def _apart(page: Any) -> Any:
    """The checkpoint in a transaction of its own, before the rows."""

    async def mutated(
        self: batch.Batches, storage: Any, one: shard.Shard, events: Any, read_to: Position
    ) -> None:
        async with storage.transaction() as tx:
            await tx.checkpoints.save(one.name, read_to, after=one.position, lease=one.lease)
        before, one.position = one.position, read_to
        new = [each for each in events if each.recorded.position > before]
        async with storage.transaction() as tx:
            parked = await self.write(tx, one, new, held=one.held)
            await tx.parking.park(parked, group=one.group)

    return mutated


def _skipped(write: Any) -> Any:
    """What failed is forgotten."""

    async def mutated(self: batch.Batches, *args: Any, **more: Any) -> list[Any]:
        await write(self, *args, **more)
        return []

    return mutated


def _forgetful(loaded: Any) -> Any:
    """What is held back is not read with the lease."""

    async def mutated(*args: Any) -> shard.Shard:
        one: shard.Shard = await loaded(*args)
        one.held = set()
        return one

    return mutated


def _always(_: Any) -> Any:
    async def is_active(*_: Any) -> bool:
        return True

    return is_active


def _loud(real: Any) -> Any:
    async def publish(self: view.BatchView, what: Any) -> None:
        self.replaying = False
        await real(self, what)

    return publish


def _careless(_: Any) -> Any:
    async def held(*_: Any) -> set[str]:
        return set()

    return held


def _file(path: Path) -> str:
    return f"sqlite:///{path}/bus.db"


async def _conflict(_: Path) -> None:
    for nth in range(1, 4):
        await test_projecting.survived("projection:projections.write", nth, Conflict())


async def _rolled_back(_: Path) -> None:
    revenue = Sum()
    async with await test_following.bus_of("sqlite://", revenue.projection()) as bus:
        await sell_many(bus, 100)
        await bus.until_idle()
        await test_rebuilding.test_after_a_rollback_nothing_new_is_needed_to_catch_up(bus, revenue)


async def _general(test: Callable[[EventBus, Any], Awaitable[None]]) -> None:
    sales = test_rebuilding_general.KeyedSales()
    async with await test_rebuilding_general.begun(
        "sqlite://", sales, test_rebuilding_general.MANY
    ) as bus:
        await test(bus, sales)


def _trusting(_: Any) -> Any:
    @asynccontextmanager
    async def sparing(*_: Any) -> AsyncIterator[None]:
        yield

    return sparing


def _apart_from_its_mark(page: Any) -> Any:
    """What is replayed commits before the mark moves, and a kill falls between."""

    async def mutated(self: replay.Replay, shard: Any, found: Any) -> None:
        async with self._storage.transaction() as tx:
            await self._batches.write(tx, shard, await self._events(found), held=set())
        await page(self, shard, found)

    return mutated


async def _inline(_: Path, test: Callable[[EventBus, Sum], Awaitable[None]]) -> None:
    revenue = Sum(runs="inline")
    bus = EventBus("memory://", storage="sqlite://", handlers=[revenue.projection()])
    async with bus:
        await test(bus, revenue)


def _unsaved(append: Any) -> Any:
    """An append and its rows, without a savepoint around them."""

    async def mutated(self: inline.Inline, tx: Any, *args: Any) -> Any:
        class Bare:
            def __getattr__(self, name: str) -> Any:
                return nullcontext if name == "savepoint" else getattr(tx, name)

        return await append(self, Bare(), *args)

    return mutated


def _twice(_: Any) -> Any:
    """A repeated append is taken for a new one."""

    async def mutated(self: inline.Inline, tx: Any, append: Any, events: Any) -> Any:
        appended = await tx.events.append(append)
        for one in self._definitions:
            await self._entered(tx, [one])
            await inline._project(tx, one, 1, events)
        return appended

    return mutated


WRONG = [
    Wrong(
        "what serves is written by a rebuild",
        instead(batch, "_sparing_what_serves", _trusting),
        lambda _: _general(
            test_rebuilding_general.test_code_that_writes_past_the_view_is_stopped_and_changed_nothing
        ),
    ),
    Wrong(
        "a page of a replay is applied twice",
        instead(replay.Replay, "_page", _apart_from_its_mark),
        lambda _: _general(
            test_rebuilding_general.test_a_rebuild_gives_the_same_rows_in_every_table
        ),
    ),
    Wrong(
        "events that failed in a replay are skipped",
        instead(batch.Batches, "write", _skipped),
        lambda _: _general(
            test_rebuilding_general.test_an_event_that_fails_is_parked_and_the_switch_refused
        ),
    ),
    Wrong(
        "an event is recorded although it cannot be projected",
        instead(inline.Inline, "append", _unsaved),
        lambda path: _inline(
            path, test_inline.test_a_transaction_lives_on_without_the_append_that_was_refused
        ),
    ),
    Wrong(
        "a repeated append is projected again",
        instead(inline.Inline, "append", _twice),
        lambda path: _inline(path, test_inline.test_a_repeated_append_counts_once),
    ),
    Wrong("the checkpoint is saved apart", instead(batch.Batches, "page", _apart), _conflict),
    Wrong(
        "what failed is skipped",
        instead(batch.Batches, "write", _skipped),
        lambda _: test_following.test_a_failing_event_parks_its_row_and_the_others_go_on(
            "sqlite://"
        ),
    ),
    Wrong(
        "who takes over forgets what is held back",
        instead(holdings, "loaded", _forgetful),
        lambda path: test_following.test_who_takes_over_knows_which_rows_are_held_back(_file(path)),
    ),
    Wrong(
        "a worker never asks whether its version serves",
        both(instead(holdings, "is_active", _always), instead(following, "is_active", _always)),
        _rolled_back,
    ),
    Wrong(
        "effects of the past happen again",
        instead(view.BatchView, "publish", _loud),
        lambda path: test_following.test_effects_begin_with_the_first_version_and_not_in_the_past(
            _file(path)
        ),
    ),
    Wrong(
        "waiting does not look at what is parked",
        instead(waiting, "held_of", _careless),
        lambda _: test_following.test_a_failing_event_parks_its_row_and_the_others_go_on(
            "sqlite://"
        ),
    ),
]
