"""The participant's half of a saga: each effect at most once, undone at most once (G5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from eventbus.codec import Encoder, Registry
from eventbus.errors import CodecError
from eventbus.event import Rejection, Reply, Undone
from eventbus.handler import Effect, Retry
from eventbus.message import Message
from eventbus.saga.effect_headers import EffectHeaders, headers_of
from eventbus.saga.effect_replies import (
    Cancelled,
    Forgotten,
    Outcome,
    Replies,
    Unsettled,
    stored,
)
from eventbus.storage import Storage, Transaction
from eventbus.storage.sagas import EFFECTS_ARE_KEPT, EffectEnd, EffectRow, EffectStart
from eventbus.values import make_quickly

BUSY = timedelta(seconds=40)  # who met running work looks again; with a lease, when that ended
SKEW = timedelta(days=1)  # of two hosts' clocks: rows are taken for gone a day before they go

Answer = tuple[Outcome, Reply | None]  # None: as it is stored


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A command, read."""

    message: Message
    undo: bool
    headers: EffectHeaders
    late: bool
    start: EffectStart


make_quickly(_Asked)


@dataclass(slots=True, kw_only=True)
class _Begun(Effect):
    """With what its command says, which is asked for again once it is answered."""

    headers: EffectHeaders


class EffectFence:
    """Decides by one row per forward command, in the transaction of what the handler writes.

    | arriving | nothing stands | done | rejected | fenced, undone |
    | --- | --- | --- | --- | --- |
    | forward | it runs | stored reply | stored reply | cancelled |
    | undo | undone, and barred | the undo runs | undone | undone |
    | resolve | cancelled, and barred | stored reply | stored reply | cancelled |
    """

    def __init__(self, storage: Storage, encoder: Encoder, registry: Registry) -> None:
        self._storage = storage
        self._replies = Replies(encoder, registry)

    async def begin(
        self, commands: Sequence[tuple[Message, bool]], tx: Transaction
    ) -> Sequence[Effect | Exception | None]:
        """Insert the rows, or act on those that stand; all of them stay locked by `tx`."""
        found: list[Effect | Exception | None] = [None] * len(commands)
        asked: dict[UUID, tuple[int, _Asked]] = {}  # by effect: the first that is about it
        for place, (message, undo) in enumerate(commands):
            try:
                one = _asked(message, undo=undo)
            except CodecError as error:
                found[place] = error
            else:
                asked.setdefault(one.start.effect_id, (place, one))
        rows = await tx.sagas.begin_effect([one.start for _, one in asked.values()])
        for (place, one), row in zip(asked.values(), rows, strict=True):
            try:
                found[place] = await self._begun(one, row, tx)
            except (CodecError, Retry) as error:
                found[place] = error
        return found

    async def claim(self, message: Message, *, undo: bool, lease: timedelta) -> Effect:
        """Commit that it runs, for so long."""
        one = _asked(message, undo=undo, lease=lease)
        async with self._storage.transaction() as tx:
            (row,) = await tx.sagas.begin_effect([one.start])
            return await self._begun(one, row, tx)

    async def answered(self, effect: Effect, answer: Reply | None, tx: Transaction | None) -> None:
        """Encoded here, where its message is to blame for what cannot be."""
        assert isinstance(effect, _Begun)  # noqa: S101 - this fence made it
        outcome, state = _ended(effect, answer)
        reply = answer or Undone()
        message = await self._replies.message(effect.message, effect.headers, outcome, reply, tx)
        effect.reply, effect.end = message, None
        if state is not None:
            name, payload = stored(message)
            effect.end = EffectEnd(
                effect_id=effect.effect_id,
                state=state,
                reply_type=name,
                reply=payload,
                fence=effect.fence,
            )

    async def finish(self, effects: Sequence[Effect], tx: Transaction) -> None:
        """Store the outcomes, and send them; where nothing ran, send what stands.

        Raises:
            ConcurrencyError: EB7033, a lease ended and another worker took its effect over.
        """
        ends = [effect.end for effect in effects if effect.end is not None]
        if ends:
            await tx.sagas.finish_effect(ends)
        replies = [effect.reply for effect in effects if effect.reply is not None]
        if replies:
            await tx.outbox.add(replies)

    async def forget(self, effects: Sequence[Effect], tx: Transaction) -> None:
        """What stood before, stands; what was taken over is free to be taken over again."""
        made = [effect.effect_id for effect in effects if effect.new and not effect.fence]
        if made:
            await tx.sagas.forget_effect(made)
        taken = [_end(effect, "executing") for effect in effects if effect.new and effect.fence]
        if taken:
            await tx.sagas.finish_effect(taken)

    async def give_back(self, effect: Effect, tx: Transaction) -> None:
        """Its claim ends: it is known here that nothing runs."""
        if effect.runs and not effect.undo:
            await tx.sagas.finish_effect([_end(effect, "executing")])

    async def give_up(self, effect: Effect, tx: Transaction) -> None:
        """A forward command of which nobody knows is unknown; a failed undo leaves what is done."""
        if effect.runs and not effect.undo:
            await tx.sagas.finish_effect([_end(effect, "unknown")])

    async def _begun(self, one: "_Asked", row: EffectRow, tx: Transaction) -> Effect:
        """Raises Retry, or what reading a stored answer raises."""
        effect = _Begun(
            message=one.message,
            headers=one.headers,
            effect_id=one.headers.target,
            undo=one.undo,
            new=row.new,
            fence=row.fence,
            runs=row.new and one.start.state == "executing",
        )
        if effect.runs:
            return effect
        if row.state == "executing":
            raise Retry(after=one.start.lease or BUSY, counted=False)
        if one.undo and row.state in {"done", "unknown"}:
            effect.runs = True
            done = _stored(row)
            if done is not None:
                effect.done = await self._replies.read(done, one.message.tenant, tx)
            return effect
        effect.reply = await self._standing(one, row, tx)
        return effect

    async def _standing(self, one: "_Asked", row: EffectRow, tx: Transaction) -> Message:
        outcome, reply = _answer(one.headers, row, late=one.late)
        done = _stored(row)
        if reply is None and done is not None:
            return await self._replies.again(one.message, one.headers, outcome, done, tx)
        return await self._replies.message(one.message, one.headers, outcome, reply or Undone(), tx)


def _answer(headers: EffectHeaders, row: EffectRow, *, late: bool) -> Answer:
    """The table, where nothing runs."""
    match headers.phase, row.state:
        case (("undo" | "resolve"), "fenced") if late:  # a null undo would be believed
            return "rejected", Forgotten()
        case "undo", _:
            return "undone", Undone()
        case _, "done":
            return "succeeded", None
        case _, "rejected":
            return "rejected", None
        case _, "unknown":
            return "unknown", Unsettled()
        case _:
            return "cancelled", Cancelled()


def _end(effect: Effect, state: Literal["executing", "unknown"]) -> EffectEnd:
    return EffectEnd(effect_id=effect.effect_id, state=state, fence=effect.fence)


def _asked(message: Message, *, undo: bool, lease: timedelta | None = None) -> _Asked:
    headers = headers_of(message, undo=undo)
    late = _is_late(headers)
    runs = headers.phase == "forward" and not late
    start = EffectStart(
        effect_id=headers.target,
        state="executing" if runs else "fenced",
        saga_id=headers.saga_id,
        step=headers.step,
        lease=lease if runs else None,
    )
    return _Asked(message=message, undo=undo, headers=headers, late=late, start=start)


def _ended(
    effect: Effect, answer: Reply | None
) -> tuple[Outcome, Literal["done", "rejected", "undone"] | None]:
    """The outcome of what ran, and its state; None: an undo that was refused changes nothing."""
    if isinstance(answer, Rejection):
        return "rejected", None if effect.undo else "rejected"
    return ("undone", "undone") if effect.undo else ("succeeded", "done")


def _stored(row: EffectRow) -> tuple[str, bytes] | None:
    if row.reply_type is None or row.reply is None:
        return None
    return row.reply_type, row.reply


def _is_late(headers: EffectHeaders) -> bool:
    """Whether the row of the effect may have been swept already."""
    if headers.since is None:
        return False
    return datetime.now(UTC) - headers.since > EFFECTS_ARE_KEPT - SKEW
