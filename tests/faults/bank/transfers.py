"""The bank: its tables, its events, and handlers that fail now and then.

A transfer is requested, debited, credited and confirmed by a handler each; money that is debited
and not credited yet stands in `transit`. No table has a constraint that would hide a duplicate.
"""

import os
from datetime import timedelta
from random import Random
from typing import NamedTuple
from zlib import crc32

from eventbus import Context, DeadLetter, Event, Group, RetryPolicy, UnitOfWork, subscribe

ACCOUNTS = 64
OPENING = 1_000
TOTAL = ACCOUNTS * OPENING
SCHEMA = f"""
CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))
  WITH (fillfactor = 50);
INSERT INTO accounts SELECT 'a' || n, {OPENING} FROM generate_series(0, {ACCOUNTS - 1}) n;
CREATE TABLE transit (transfer text NOT NULL, amount bigint NOT NULL);
CREATE INDEX ON transit (transfer);
CREATE TABLE requests (id text NOT NULL, source text NOT NULL, seq int NOT NULL,
  PRIMARY KEY (source, seq));  -- a client that was killed may meet its own old commit
CREATE TABLE follow_ups (id text NOT NULL, type text NOT NULL);
CREATE TABLE effects (at bigint GENERATED ALWAYS AS IDENTITY, grp text NOT NULL, id text NOT NULL,
  key text NOT NULL, seq int NOT NULL, pid int NOT NULL,  -- of the worker
  txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  written timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON effects (key, grp, seq);  -- clients ask for the last one all the time
CREATE TABLE repaired (transfer text PRIMARY KEY);
"""
_RETRY = RetryPolicy(in_place=0, parked=(timedelta(milliseconds=100),) * 4)
_TIMEOUT = timedelta(seconds=10)  # what 200 prefetched messages may wait for four lanes
DEBIT = Group("debit", retry=_RETRY, lanes=4, batch_messages=4, timeout=_TIMEOUT)
CREDIT = Group("credit", retry=_RETRY, lanes=4, batch_messages=4, timeout=_TIMEOUT)
CONFIRM = Group("confirm", retry=_RETRY, lanes=4, batch_messages=4, timeout=_TIMEOUT)
GROUPS = (DEBIT.name, CREDIT.name, CONFIRM.name)
FAILS_ONCE, IS_DEAD = 0.02, 0.001  # of the attempts, of the transfers in one group

SURELY_DEAD = {("debit", "a0/2"), ("credit", "a1/2"), ("confirm", "a2/2")}


class Requested(Event, type="bank.requested", key="source"):
    """Move up to so much."""

    transfer: str
    source: str
    seq: int
    target: str
    amount: int


class Debited(Event, type="bank.debited", key="source"):
    """So much was there."""

    transfer: str
    source: str
    seq: int
    target: str
    amount: int


class Credited(Event, type="bank.credited", key="source"):
    """It arrived."""

    transfer: str
    source: str
    seq: int


Step = Requested | Debited | Credited


@subscribe(Requested, group=DEBIT)
async def debit(event: Requested, ctx: Context) -> None:
    """From the source into transit: what is there, at most what was asked for."""
    rows = await ctx.sql.fetch(
        "SELECT balance FROM accounts WHERE name = $1 FOR UPDATE", event.source
    )
    amount = min(rows[0]["balance"], event.amount)
    await _move(ctx, event.source, -amount)
    await ctx.sql.execute(
        "INSERT INTO transit (transfer, amount) VALUES ($1, $2)", event.transfer, amount
    )
    await _follow_up(ctx, Debited(**event.model_dump(exclude={"amount"}), amount=amount))
    await _effect(ctx, event)


@subscribe(Debited, group=CREDIT)
async def credit(event: Debited, ctx: Context) -> None:
    """From transit to the target, whose row other processes want too."""
    await _move(ctx, event.target, event.amount)
    await ctx.sql.execute("DELETE FROM transit WHERE transfer = $1", event.transfer)
    done = Credited(transfer=event.transfer, source=event.source, seq=event.seq)
    await _follow_up(ctx, done)
    await _effect(ctx, event)


@subscribe(Credited, group=CONFIRM)
async def confirm(event: Credited, ctx: Context) -> None:
    """The customer is told."""
    await _effect(ctx, event)


HANDLERS = (debit, credit, confirm)


class Wish(NamedTuple):
    """A transfer that a client wants: the same for the same source and number."""

    transfer: str
    source: str
    seq: int
    target: str
    amount: int


def wish(source: str, seq: int) -> Wish:
    """The n-th transfer of an account."""
    chance = Random(f"{source}/{seq}")
    others = [f"a{number}" for number in range(ACCOUNTS) if f"a{number}" != source]
    return Wish(f"{source}/{seq}", source, seq, chance.choice(others), chance.randint(1, 50))


async def request(tx: UnitOfWork, wanted: Wish, message_id: str) -> None:
    """The business row of a publish: committed with it, or neither."""
    await tx.sql.execute(
        "INSERT INTO requests (id, source, seq) VALUES ($1, $2, $3)",
        message_id,
        wanted.source,
        wanted.seq,
    )


async def _move(ctx: Context, account: str, amount: int) -> None:
    await ctx.sql.execute(
        "UPDATE accounts SET balance = balance + $2 WHERE name = $1", account, amount
    )


async def _follow_up(ctx: Context, event: Debited | Credited) -> None:
    message_id = await ctx.publish(event)
    await ctx.sql.execute(
        "INSERT INTO follow_ups (id, type) VALUES ($1, $2)", message_id, type(event).__name__
    )


async def _effect(ctx: Context, event: Step) -> None:
    """The row that says it was done; then it may fail, and nothing of it may be left."""
    await ctx.sql.execute(
        "INSERT INTO effects (grp, id, key, seq, pid) VALUES ($1, $2, $3, $4, $5)",
        ctx.group,
        ctx.message.id,
        event.source,
        event.seq,
        os.getpid(),
    )
    if is_dead(event.transfer, ctx.group) and not await _is_repaired(ctx, event.transfer):
        raise DeadLetter
    if _chance(f"{ctx.group}/{event.transfer}/{ctx.attempt}") < FAILS_ONCE:
        raise ConnectionError("the other bank does not answer")


async def _is_repaired(ctx: Context, transfer: str) -> bool:
    return bool(await ctx.sql.fetch("SELECT 1 FROM repaired WHERE transfer = $1", transfer))


def is_dead(transfer: str, group: str) -> bool:
    """Whether a group cannot do this one until somebody repairs it."""
    return _chance(f"{group}/{transfer}") < IS_DEAD or (group, transfer) in SURELY_DEAD


def _chance(text: str) -> float:
    return crc32(text.encode()) / 2**32
