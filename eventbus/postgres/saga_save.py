"""All transitions of a batch in one statement, tripwire included."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Sequence
from typing import Any

from eventbus.postgres.fate import WITNESS
from eventbus.postgres.saga_rows import FINAL, STEP, delay
from eventbus.postgres.session import Session
from eventbus.storage.saga_verdicts import not_locked
from eventbus.storage.sagas import SagaChange

Row = tuple[Any, ...]

_NAMED = ", ".join(f"u.{column}" for column in STEP.split(", "))
# Versions are compared under the lock before one is written: all or none. What hangs on an instance
# is written by what its update returns. A timer is armed, deleted or moved, never two of these.
# What is there is found row by row, and written by its place: a join reads all timers where
# statistics say that there are none.
_SAVE = f"""
WITH c AS (SELECT * FROM unnest($1::{{schema}}.changed_saga[])),
touched AS (SELECT * FROM unnest($3::{{schema}}.changed_timer[])),
armed AS (SELECT * FROM touched WHERE delay IS NOT NULL),
asked AS (SELECT * FROM unnest($4::{{schema}}.asked_call[])),
held AS MATERIALIZED (
  SELECT s.place, c.saga_id FROM (SELECT saga_id, was FROM c ORDER BY saga_id) c
   CROSS JOIN LATERAL (
     SELECT s.ctid AS place FROM {{schema}}.saga s
      WHERE s.saga_id = c.saga_id AND s.version = c.was FOR NO KEY UPDATE) s),
i AS (
  UPDATE {{schema}}.saga s SET
    def_version = c.def_version, def_digest = c.def_digest, status = c.status, paused = c.paused,
    intent = c.intent, state_name = c.state_name, data = c.data, data_version = c.data_version,
    plan = c.plan, error = c.error, version = c.version, updated_at = statement_timestamp(),
    status_since = CASE WHEN s.status = c.status THEN s.status_since
                        ELSE statement_timestamp() END,
    finished_at = CASE WHEN c.final THEN coalesce(s.finished_at, statement_timestamp()) END
   FROM c JOIN held ON held.saga_id = c.saga_id
  WHERE s.ctid = held.place
    AND (SELECT count(*) FROM held) = (SELECT count(*) FROM c)
  RETURNING s.saga_id, s.saga_type, s.def_version, s.paused, c.final),
steps AS (
  INSERT INTO {{schema}}.saga_step AS t (saga_id, {STEP}, started_at, finished_at)
  SELECT i.saga_id, {_NAMED}, statement_timestamp(),
         CASE WHEN u.final THEN statement_timestamp() END
    FROM unnest($2::{{schema}}.changed_step[]) u JOIN i ON i.saga_id = u.saga_id
  ON CONFLICT (saga_id, seq, phase) DO UPDATE SET
    name = excluded.name, status = excluded.status, attempt = excluded.attempt,
    reply_type = excluded.reply_type, reply = excluded.reply, error = excluded.error,
    finished_at = CASE WHEN excluded.finished_at IS NULL THEN NULL
                       ELSE coalesce(t.finished_at, excluded.finished_at) END),
arming AS (
  INSERT INTO {{schema}}.saga_timer
         (saga_id, name, saga_type, def_version, epoch, due_at, remaining)
  SELECT i.saga_id, u.name, i.saga_type, i.def_version, u.epoch,
         CASE WHEN i.paused THEN 'infinity' ELSE statement_timestamp() + u.delay END,
         CASE WHEN i.paused THEN u.delay END
    FROM armed u JOIN i ON i.saga_id = u.saga_id WHERE NOT i.final
  ON CONFLICT (saga_id, name) DO UPDATE SET
    epoch = excluded.epoch, due_at = excluded.due_at, def_version = excluded.def_version,
    remaining = excluded.remaining),
timers AS (
  SELECT t.* FROM i CROSS JOIN LATERAL (
    SELECT t.ctid AS place, t.saga_id, t.name, i.final, EXISTS (
             SELECT 1 FROM touched u WHERE u.saga_id = t.saga_id AND u.name = t.name) AS touched,
           t.def_version <> i.def_version OR i.paused = (t.remaining IS NULL) AS moves
      FROM {{schema}}.saga_timer t WHERE t.saga_id = i.saga_id OFFSET 0) t),
disarming AS (
  DELETE FROM {{schema}}.saga_timer WHERE ctid = ANY (ARRAY(
    SELECT i.place FROM timers i
     WHERE i.final OR i.touched AND NOT EXISTS (
             SELECT 1 FROM armed u WHERE u.saga_id = i.saga_id AND u.name = i.name)))),
moving AS (
  UPDATE {{schema}}.saga_timer t SET
    def_version = i.def_version,
    remaining = CASE WHEN i.paused
                     THEN coalesce(t.remaining,
                                   greatest(t.due_at - statement_timestamp(), interval '0')) END,
    due_at = CASE WHEN i.paused THEN 'infinity'
                  WHEN t.remaining IS NULL THEN t.due_at
                  ELSE statement_timestamp() + t.remaining END
   FROM i WHERE t.saga_id = i.saga_id AND t.ctid = ANY (ARRAY(
     SELECT m.place FROM timers m WHERE m.moves AND NOT m.final AND NOT m.touched))),
calls AS (
  INSERT INTO {{schema}}.saga_call
         (effect_id, saga_type, saga_id, seq, phase, step, input, def_version, due_at)
  SELECT u.effect_id, i.saga_type, i.saga_id, u.seq, u.phase, u.step, u.input, i.def_version,
         statement_timestamp()
    FROM asked u JOIN i ON i.saga_id = u.saga_id
  ON CONFLICT (effect_id) DO UPDATE SET
    input = excluded.input, due_at = excluded.due_at, def_version = excluded.def_version),
moved AS (
  UPDATE {{schema}}.saga_call t SET def_version = i.def_version
    FROM i WHERE t.saga_id = i.saga_id AND t.ctid = ANY (ARRAY(
     SELECT m.place FROM i CROSS JOIN LATERAL (
       SELECT t.ctid AS place, t.effect_id FROM {{schema}}.saga_call t
        WHERE t.saga_id = i.saga_id AND t.def_version <> i.def_version OFFSET 0) m
      WHERE NOT EXISTS (SELECT 1 FROM asked u WHERE u.effect_id = m.effect_id)))),
correlated AS (
  INSERT INTO {{schema}}.saga_correlation (saga_type, name, value, saga_id)
  SELECT u.saga_type, u.name, u.value, i.saga_id
    FROM unnest($5::{{schema}}.added_correlation[]) u JOIN i ON i.saga_id = u.saga_id
   ORDER BY u.saga_type COLLATE "C", u.name COLLATE "C", u.value COLLATE "C"
  ON CONFLICT DO NOTHING),
journalled AS (
  INSERT INTO {{schema}}.saga_journal
         (saga_id, version, at, input_kind, input_id, from_status, to_status, detail, actor, worker)
  SELECT i.saga_id, u.version, statement_timestamp(), u.input_kind, u.input_id, u.from_status,
         u.to_status, u.detail, u.actor, u.worker
    FROM unnest($6::{{schema}}.journal_entry[]) u JOIN i ON i.saga_id = u.saga_id)
SELECT saga_id, {WITNESS} FROM held"""


async def save(session: Session, changes: Sequence[SagaChange]) -> None:
    """Write transitions, all or none."""
    if not changes:
        return
    rows = await session.fetch(
        _SAVE.format(schema=session.schema), *_arguments(changes), where="sagas.save"
    )
    if len(rows) < len(changes):
        raise not_locked(changes, {row["saga_id"] for row in rows})
    session.wrote = True
    session.testify(rows[0])
    if any(change.is_urgent for change in changes):
        session.hints.add("timers")


def _arguments(changes: Sequence[SagaChange]) -> tuple[list[Row], ...]:
    return (
        [_change_row(one) for one in changes],
        _each_once([row for one in changes for row in _step_rows(one)], 3),
        _each_once([row for one in changes for row in _timer_rows(one)], 2),
        _each_once([row for one in changes for row in _call_rows(one)], 2),
        [(one.saga_id, k.saga, k.name, k.value) for one in changes for k in one.correlations],
        [row for one in changes for row in _journal_rows(one)],
    )


def _each_once(rows: Sequence[Row], width: int) -> list[Row]:
    """One statement cannot touch a row twice: the last one of a key stands."""
    return list({row[:width]: row for row in rows}.values())


def _change_row(one: SagaChange) -> Row:
    return (
        one.saga_id,
        one.was,
        one.version,
        one.definition,
        one.digest,
        one.status,
        one.paused,
        one.intent,
        one.state_name,
        one.data,
        one.data_version,
        one.plan,
        one.error,
        one.status in FINAL,
    )


def _step_rows(one: SagaChange) -> list[Row]:
    return [
        (
            one.saga_id,
            step.seq,
            step.phase,
            step.name,
            step.occurrence,
            step.kind,
            step.effect_id,
            step.status,
            step.attempt,
            step.reply_type,
            step.reply,
            step.error,
            step.status not in {"ready", "dispatched"},
        )
        for step in one.steps
    ]


def _timer_rows(one: SagaChange) -> list[Row]:
    """What is armed is no more disarmed."""
    disarmed = [(one.saga_id, name, None, None) for name in one.disarm]
    return disarmed + [(one.saga_id, arm.name, arm.epoch, delay(arm.delay)) for arm in one.arm]


def _call_rows(one: SagaChange) -> list[Row]:
    return [
        (one.saga_id, call.effect_id, call.seq, call.phase, call.step, call.input)
        for call in one.calls
    ]


def _journal_rows(one: SagaChange) -> list[Row]:
    return [
        (
            one.saga_id,
            entry.version,
            entry.input_kind,
            entry.input_id,
            entry.from_status,
            entry.to_status,
            entry.detail,
            entry.actor,
            entry.worker,
        )
        for entry in one.journal
    ]
