"""The participant's half of a saga: each effect at most once, undone at most once (G5)."""

from datetime import UTC, datetime, timedelta
from typing import Literal

from eventbus.codec import Encoder, Registry
from eventbus.event import Rejection, Reply, Undone
from eventbus.handler import Effect, Retry
from eventbus.message import Message
from eventbus.saga.effect_headers import EffectHeaders, headers_of
from eventbus.saga.effect_replies import Cancelled, Forgotten, Outcome, Replies, Unsettled
from eventbus.storage import Storage, Transaction
from eventbus.storage.sagas import EFFECTS_ARE_KEPT, EffectEnd, EffectRow, EffectStart

BUSY = timedelta(seconds=40)  # who met running work looks again; with a lease, when that ended
SKEW = timedelta(days=1)  # of two hosts' clocks: rows are taken for gone a day before they go

Answer = tuple[Outcome, Reply | None]  # None: as it is stored


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

    async def begin(self, message: Message, tx: Transaction, *, undo: bool) -> Effect:
        """Insert the row, or act on the one that stands; both stay locked by `tx`."""
        return await self._begin(message, tx, undo=undo, lease=None)

    async def claim(self, message: Message, *, undo: bool, lease: timedelta) -> Effect:
        """Commit that it runs, for so long."""
        async with self._storage.transaction() as tx:
            return await self._begin(message, tx, undo=undo, lease=lease)

    async def finish(self, effect: Effect, tx: Transaction) -> None:
        """Store the outcome, and send it; where nothing ran, send what stands.

        Raises:
            ConcurrencyError: EB7033, the lease ended and another worker took it over.
        """
        if not effect.runs:
            assert effect.reply is not None  # noqa: S101 - begin() made it
            await tx.outbox.add([effect.reply])
            return
        outcome, state = _ended(effect)
        reply = effect.answer or Undone()
        if state is not None:
            name, payload = self._replies.stored(reply)
            end = EffectEnd(
                effect_id=effect.effect_id,
                state=state,
                reply_type=name,
                reply=payload,
                fence=effect.fence,
            )
            await tx.sagas.finish_effect([end])
        headers = headers_of(effect.message, undo=effect.undo)
        await tx.outbox.add([self._replies.message(effect.message, headers, outcome, reply)])

    async def give_back(self, effect: Effect, tx: Transaction) -> None:
        """Its claim ends: it is known here that nothing runs."""
        if effect.runs and not effect.undo:
            await tx.sagas.finish_effect([_end(effect, "executing")])

    async def give_up(self, effect: Effect, tx: Transaction) -> None:
        """A forward command of which nobody knows is unknown; a failed undo leaves what is done."""
        if effect.runs and not effect.undo:
            await tx.sagas.finish_effect([_end(effect, "unknown")])

    async def _begin(
        self, message: Message, tx: Transaction, *, undo: bool, lease: timedelta | None
    ) -> Effect:
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
        (row,) = await tx.sagas.begin_effect([start])
        effect = Effect(
            message=message,
            effect_id=headers.target,
            undo=undo,
            fence=row.fence,
            runs=runs and row.new,
        )
        if effect.runs:
            return effect
        if row.state == "executing":
            raise Retry(after=lease or BUSY, counted=False)
        if undo and row.state in {"done", "unknown"}:
            effect.runs = True
            stored = _stored(row)
            effect.done = None if stored is None else self._replies.read(stored)
            return effect
        effect.reply = self._standing(message, headers, row, late=late)
        return effect

    def _standing(
        self, message: Message, headers: EffectHeaders, row: EffectRow, *, late: bool
    ) -> Message:
        outcome, reply = _answer(headers, row, late=late)
        stored = _stored(row)
        if reply is None and stored is not None:
            return self._replies.again(message, headers, outcome, stored)
        return self._replies.message(message, headers, outcome, reply or Undone())


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


def _ended(effect: Effect) -> tuple[Outcome, Literal["done", "rejected", "undone"] | None]:
    """The outcome of what ran, and its state; None: an undo that was refused changes nothing."""
    if isinstance(effect.answer, Rejection):
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
