"""The participant's fence: one row per effect, which stays."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from eventbus.postgres.saga_rows import EFFECT, delay, effect_of, in_order
from eventbus.postgres.session import Session, only_read_committed
from eventbus.storage.saga_verdicts import not_ours
from eventbus.storage.sagas import EffectEnd, EffectRow, EffectStart

# Waits for a transaction that has just inserted the same effect.
_BEGIN = f"""
INSERT INTO {{schema}}.saga_effect (effect_id, saga_id, step, state, lease_until, created_at)
SELECT DISTINCT ON (i) i, g, s, t, statement_timestamp() + l, statement_timestamp()
  FROM unnest($1::{{schema}}.begun_effect[]) WITH ORDINALITY u(i, g, s, t, l, o)
 ORDER BY i, o ON CONFLICT (effect_id) DO NOTHING RETURNING {EFFECT}"""
_STANDS = f"""
SELECT {EFFECT}, coalesce(state = 'executing' AND lease_until <= statement_timestamp(), false)
       AS abandoned
  FROM {{schema}}.saga_effect WHERE effect_id = ANY($1::uuid[]) ORDER BY effect_id FOR UPDATE"""
_TAKE_OVER = f"""
UPDATE {{schema}}.saga_effect e SET fence = e.fence + 1, lease_until = statement_timestamp() + u.l
  FROM unnest($1::uuid[], $2::interval[]) u(i, l)
 WHERE e.effect_id = u.i AND e.state = 'executing' AND e.lease_until <= statement_timestamp()
RETURNING {EFFECT}"""
# Locked in order and compared before one is written: all or none. Row by row and by its place, so
# that no plan reads the table, whatever statistics say of it.
_FINISH = """
WITH u AS (SELECT * FROM unnest($1::{schema}.ended_effect[])),
ours AS MATERIALIZED (
  SELECT e.place, u.* FROM (SELECT * FROM u ORDER BY effect_id) u CROSS JOIN LATERAL (
    SELECT e.ctid AS place FROM {schema}.saga_effect e
     WHERE e.effect_id = u.effect_id
       AND e.fence = u.fence AND CASE u.state WHEN 'undone' THEN e.state IN ('done', 'unknown')
                                 ELSE e.state = 'executing' END FOR UPDATE) e),
ended AS (
  UPDATE {schema}.saga_effect e SET state = u.state,
    lease_until = CASE u.state WHEN 'executing' THEN statement_timestamp() END,
    reply_type = CASE u.state WHEN 'undone' THEN e.reply_type ELSE u.reply_type END,
    reply = CASE u.state WHEN 'undone' THEN e.reply ELSE u.reply END,
    undo_reply_type = CASE u.state WHEN 'undone' THEN u.reply_type END,
    undo_reply = CASE u.state WHEN 'undone' THEN u.reply END
   FROM ours u WHERE e.ctid = u.place
    AND (SELECT count(*) FROM ours) = cardinality($1))
SELECT effect_id FROM ours"""

_FORGET = "DELETE FROM {schema}.saga_effect WHERE effect_id = ANY($1::uuid[])"


async def begin(session: Session, effects: Sequence[EffectStart]) -> list[EffectRow]:
    """Insert or take over, else say what stands, locked; aligned with `effects`."""
    await only_read_committed(session, "sagas.begin_effect")
    if not effects:
        return []
    rows = [(e.effect_id, e.saga_id, e.step, e.state, delay(e.lease)) for e in effects]
    new = await _fetch(session, _BEGIN, rows, where="sagas.begin_effect")
    session.wrote = True
    stand = {row["effect_id"]: row for row in new}
    # not given out yet: to whom of the starts it goes
    fresh: dict[UUID, str | None] = dict.fromkeys(stand)
    met = in_order([e.effect_id for e in effects if e.effect_id not in stand])
    if met:
        locked = await _fetch(session, _STANDS, met, where="sagas.begin_effect")
        stand |= {row["effect_id"]: row for row in locked}
        free = {row["effect_id"] for row in locked if row["abandoned"]}
        taken = await _take_over(session, [e for e in effects if e.effect_id in free])
        stand |= taken
        fresh.update((effect_id, "executing") for effect_id in taken)
    return [effect_of(stand[e.effect_id], new=_is_first(e, fresh)) for e in effects]


def _is_first(effect: EffectStart, fresh: dict[UUID, str | None]) -> bool:
    """Of several starts of one effect the first is new; what was taken over goes to who runs it."""
    if effect.effect_id not in fresh or fresh[effect.effect_id] not in {None, effect.state}:
        return False
    del fresh[effect.effect_id]
    return True


async def _take_over(session: Session, effects: Collection[EffectStart]) -> Mapping[UUID, Any]:
    """Only who would run it takes it over."""
    starts = {e.effect_id: delay(e.lease) for e in effects if e.state == "executing"}
    if not starts:
        return {}
    rows = await _fetch(
        session, _TAKE_OVER, list(starts), list(starts.values()), where="sagas.begin_effect"
    )
    return {row["effect_id"]: row for row in rows}


async def finish(session: Session, effects: Sequence[EffectEnd]) -> None:
    """All are compared before one is written."""
    if not effects:
        return
    rows = [(e.effect_id, e.state, e.reply_type, e.reply, e.fence) for e in effects]
    ours = await _fetch(session, _FINISH, rows, where="sagas.finish_effect")
    session.wrote = True
    if len(ours) < len(effects):
        raise not_ours(effects, {row["effect_id"] for row in ours})


async def forget(session: Session, ids: Collection[UUID]) -> None:
    """Nobody else has seen them."""
    if ids:
        await _fetch(session, _FORGET, in_order(list(ids)), where="sagas.forget_effect")


async def _fetch(session: Session, statement: str, *args: Any, where: str) -> list[Any]:
    return await session.fetch(statement.format(schema=session.schema), *args, where=where)
