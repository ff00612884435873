"""The participant's fence: what one effect may become, and in what order."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from contextlib import suppress
from datetime import timedelta
from typing import Literal
from uuid import UUID, uuid4

import pytest

from eventbus.errors import ConcurrencyError
from eventbus.storage import Storage
from eventbus.storage.sagas import EFFECTS_ARE_KEPT, EffectEnd, EffectRow, EffectStart
from eventbus.testing.conformance.samples import AFTER_SOON, SOON, Clock

Start = Literal["executing", "fenced"]
End = Literal["done", "rejected", "undone", "unknown"]


class EffectSuite:
    """Subclass it with the fixtures `storage` and `clock`."""

    async def begin(
        self, storage: Storage, effect: UUID, state: Start, lease: timedelta | None = None
    ) -> EffectRow:
        start = EffectStart(
            effect_id=effect, state=state, saga_id=uuid4(), step="charge", lease=lease
        )
        async with storage.transaction() as tx:
            (row,) = await tx.sagas.begin_effect([start])
        return row

    async def end(self, storage: Storage, effect: UUID, state: End, fence: int = 0) -> None:
        end = EffectEnd(
            effect_id=effect,
            state=state,
            reply_type=f"shop.{state}",
            reply=state.encode(),
            fence=fence,
        )
        async with storage.transaction() as tx:
            await tx.sagas.finish_effect([end])

    async def test_the_first_of_an_effect_is_new_and_the_second_meets_its_row(
        self, storage: Storage
    ) -> None:
        effect = uuid4()
        first = await self.begin(storage, effect, "executing")
        again = await self.begin(storage, effect, "executing")
        assert (first.new, first.state) == (True, "executing")
        assert (again.new, again.state) == (False, "executing")

    async def test_rows_come_in_the_order_of_the_question(self, storage: Storage) -> None:
        effects = [uuid4() for _ in range(8)]
        asked = [EffectStart(effect_id=one, state="executing", saga_id=None) for one in effects]
        async with storage.transaction() as tx:
            rows = await tx.sagas.begin_effect([*asked, asked[0]])
        assert [row.effect_id for row in rows] == [*effects, effects[0]]
        assert [row.new for row in rows] == [True] * 8 + [False]

    async def test_what_is_forgotten_was_never_begun(self, storage: Storage) -> None:
        mine, others, late = uuid4(), uuid4(), uuid4()
        await self.begin(storage, others, "executing")
        asked = [
            EffectStart(effect_id=one, state="executing", saga_id=None) for one in (mine, late)
        ]
        async with storage.transaction() as tx:
            await tx.sagas.begin_effect(asked)
            await tx.sagas.forget_effect([mine])
            await tx.sagas.forget_effect([])
        found = [await self.begin(storage, one, "executing") for one in (mine, others, late)]
        assert [row.new for row in found] == [True, False, False]

    @pytest.mark.parametrize("state", ["done", "rejected"])
    async def test_a_reply_is_stored_and_said_again(
        self, storage: Storage, state: Literal["done", "rejected"]
    ) -> None:
        effect = uuid4()
        await self.begin(storage, effect, "executing")
        await self.end(storage, effect, state)
        again = await self.begin(storage, effect, "executing")
        assert (again.new, again.state) == (False, state)
        assert (again.reply_type, again.reply) == (f"shop.{state}", state.encode())

    async def test_an_undo_before_its_forward_command_bars_it_for_ever(
        self, storage: Storage
    ) -> None:
        effect = uuid4()
        assert (await self.begin(storage, effect, "fenced")).new
        late = await self.begin(storage, effect, "executing")
        assert (late.new, late.state) == (False, "fenced")
        with pytest.raises(ConcurrencyError, match="EB7033"):
            await self.end(storage, effect, "done")

    async def test_an_undo_keeps_both_replies_and_happens_once(self, storage: Storage) -> None:
        effect = uuid4()
        await self.begin(storage, effect, "executing")
        await self.end(storage, effect, "done")
        met = await self.begin(storage, effect, "fenced")
        assert (met.new, met.state, met.reply) == (False, "done", b"done")
        await self.end(storage, effect, "undone")
        row = await self.begin(storage, effect, "fenced")
        assert (row.state, row.reply, row.undo_reply) == ("undone", b"done", b"undone")
        assert (row.reply_type, row.undo_reply_type) == ("shop.done", "shop.undone")
        with pytest.raises(ConcurrencyError, match="EB7033"):
            await self.end(storage, effect, "undone")

    async def test_what_never_ran_or_was_rejected_is_not_undone(self, storage: Storage) -> None:
        effect = uuid4()
        await self.begin(storage, effect, "executing")
        with pytest.raises(ConcurrencyError, match="EB7033"):
            await self.end(storage, effect, "undone")
        await self.end(storage, effect, "rejected")
        with pytest.raises(ConcurrencyError, match="EB7033"):
            await self.end(storage, effect, "undone")

    async def test_an_unknown_outcome_can_be_undone(self, storage: Storage) -> None:
        effect = uuid4()
        await self.begin(storage, effect, "executing")
        await self.end(storage, effect, "unknown")
        await self.end(storage, effect, "undone")
        assert (await self.begin(storage, effect, "fenced")).state == "undone"

    async def test_a_row_that_is_rolled_back_never_was(self, storage: Storage) -> None:
        effect = uuid4()
        start = EffectStart(effect_id=effect, state="executing", saga_id=None)
        async with storage.transaction() as tx:
            with suppress(ZeroDivisionError):
                async with tx.savepoint():
                    await tx.sagas.begin_effect([start])
                    raise ZeroDivisionError
        assert (await self.begin(storage, effect, "executing")).new

    async def test_work_under_a_lease_is_taken_over_when_it_ended(
        self, storage: Storage, clock: Clock
    ) -> None:
        effect = uuid4()
        first = await self.begin(storage, effect, "executing", SOON)
        assert not (await self.begin(storage, effect, "executing", SOON)).new
        await clock.advance(AFTER_SOON)
        second = await self.begin(storage, effect, "executing", SOON)
        assert second.new
        assert second.fence > first.fence
        with pytest.raises(ConcurrencyError, match="EB7033"):
            await self.end(storage, effect, "done", first.fence)
        await self.end(storage, effect, "done", second.fence)
        assert (await self.begin(storage, effect, "executing", SOON)).reply == b"done"

    async def test_failed_work_is_given_back_and_taken_over_at_once(self, storage: Storage) -> None:
        effect = uuid4()
        first = await self.begin(storage, effect, "executing", SOON)
        give_back = EffectEnd(effect_id=effect, state="executing", fence=first.fence)
        async with storage.transaction() as tx:
            await tx.sagas.finish_effect([give_back])
        second = await self.begin(storage, effect, "executing", SOON)
        assert second.new
        assert second.fence > first.fence
        async with storage.transaction() as tx:
            with pytest.raises(ConcurrencyError, match="EB7033"):
                await tx.sagas.finish_effect([give_back])
        assert not (await self.begin(storage, effect, "executing", SOON)).new

    async def test_an_undo_takes_nothing_over(self, storage: Storage, clock: Clock) -> None:
        effect = uuid4()
        await self.begin(storage, effect, "executing", SOON)
        await clock.advance(AFTER_SOON)
        met = await self.begin(storage, effect, "fenced")
        assert (met.new, met.state) == (False, "executing")

    async def test_of_several_ends_all_are_written_or_none(self, storage: Storage) -> None:
        good, fenced = uuid4(), uuid4()
        await self.begin(storage, good, "executing")
        await self.begin(storage, fenced, "fenced")
        ends = [EffectEnd(effect_id=one, state="done") for one in (good, fenced)]
        async with storage.transaction() as tx:
            with pytest.raises(ConcurrencyError, match="EB7033"):
                await tx.sagas.finish_effect(ends)
        assert (await self.begin(storage, good, "executing")).state == "executing"

    async def test_effects_are_kept_as_long_as_commands_may_come(
        self, storage: Storage, clock: Clock
    ) -> None:
        if not clock.jumps:
            pytest.skip("capability: a clock that jumps 90 days")
        effect = uuid4()
        await self.begin(storage, effect, "fenced")
        await clock.advance(EFFECTS_ARE_KEPT.total_seconds() - 1)
        async with storage.transaction() as tx:
            assert await tx.sagas.sweep(older_than=timedelta(days=30), limit=10) == 0
        await clock.advance(2)
        async with storage.transaction() as tx:
            assert await tx.sagas.sweep(older_than=timedelta(days=30), limit=10) == 1
        assert (await self.begin(storage, effect, "executing")).new
