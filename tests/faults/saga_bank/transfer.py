"""The flow: its messages, two versions of its saga, its participants, and their books.

A transfer is held at the source, a fee is taken, the outside is asked, it is paid to the target
(the pivot) and noted. Some are refused on the way, by their number, and go back. No table has a
constraint that would hide a duplicate.
"""

import os
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from pydantic import BaseModel

from eventbus import (
    Command,
    Context,
    Event,
    Group,
    Reject,
    Rejection,
    Reply,
    RetryPolicy,
    Undone,
    handles,
    undoes,
)
from eventbus.saga import CallContext, Resend, Saga, call_step, migrates, starts_on, step

OUTSIDE = os.environ.get("EVENTBUS_BANK_OUTSIDE", "")  # the file in which the outside remembers
ACCOUNTS = 64
SCHEMA = """
CREATE TABLE requests (number bigint PRIMARY KEY);
CREATE TABLE entries (at bigint GENERATED ALWAYS AS IDENTITY, transfer text NOT NULL,
  account text NOT NULL, cents bigint NOT NULL, kind text NOT NULL, effect text NOT NULL);
"""
FEE = 1
FAILS, OUTSIDE_FAILS = 0.02, 0.03  # of the attempts

_SECONDS = {"step_timeout": timedelta(seconds=15), "deadline": timedelta(minutes=5)}
_RETRY = RetryPolicy(in_place=0, parked=(timedelta(milliseconds=200),) * 6)
_HOLDS = Group("holds", retry=_RETRY, lanes=4, max_in_flight=100)
_PAYS = Group("pays", retry=_RETRY, lanes=4, max_in_flight=100)


class Asked(Event, type="bank.asked", key="transfer"):
    """Move so much."""

    transfer: str
    number: int
    cents: int


class Done(Reply, type="bank.done"):
    pass


class No(Rejection, type="bank.no"):
    pass


class Hold(Command[Done], type="bank.hold", key="transfer", rejects=(No,)):
    transfer: str
    number: int
    cents: int


class Release(Command[Undone], type="bank.release", key="transfer"):
    transfer: str
    number: int
    cents: int


class TakeFee(Command[Done], type="bank.take-fee", key="transfer"):
    transfer: str
    number: int


class ReturnFee(Command[Undone], type="bank.return-fee", key="transfer"):
    transfer: str
    number: int


class Pay(Command[Done], type="bank.pay", key="transfer", rejects=(No,)):
    transfer: str
    number: int
    cents: int


class Note(Command[Done], type="bank.note", key="transfer"):
    transfer: str
    number: int


class LimitError(Exception):
    """The outside says no."""


class State(BaseModel):
    transfer: str
    number: int
    cents: int


class NewState(BaseModel):
    """The same under other names."""

    name: str
    number: int
    amount: int


async def asked(number: int, call: CallContext) -> Done:
    """The outside remembers who asked, under which key; it fails now and then."""
    _remember(f"{number} {call.effect_id} {call.attempt} {os.getpid()}\n")
    if number % 11 == 0:
        raise LimitError(str(number))
    if Random(f"{number}/{call.attempt}").random() < OUTSIDE_FAILS:
        raise ConnectionError("the outside does not answer")
    return Done()


def _remember(line: str) -> None:
    with Path(OUTSIDE).open("a", encoding="utf-8") as file:
        file.write(line)


_OFTEN = Resend(attempts=5, first=timedelta(milliseconds=200))


class Transfer(Saga[State], name="transfer", **_SECONDS):
    @starts_on(Asked)
    def begin(self, event: Asked) -> State:
        return State(transfer=event.transfer, number=event.number, cents=event.cents)

    @step(resend=Resend(attempts=3))
    def hold(self, s: State) -> Hold:
        return Hold(transfer=s.transfer, number=s.number, cents=s.cents)

    @hold.undo
    def release(self, s: State, reply: Done | None) -> Release:
        return Release(transfer=s.transfer, number=s.number, cents=s.cents)

    @step
    def fee(self, s: State) -> TakeFee:
        return TakeFee(transfer=s.transfer, number=s.number)

    @fee.undo
    def unfee(self, s: State, reply: Done | None) -> ReturnFee:
        return ReturnFee(transfer=s.transfer, number=s.number)

    @call_step(no_undo="it is only asked", rejects=(LimitError,), resend=_OFTEN)
    async def ask(self, s: State, call: CallContext) -> Done:
        return await asked(s.number, call)

    @step(pivot=True, on_unknown="resolve")
    def pay(self, s: State) -> Pay:
        return Pay(transfer=s.transfer, number=s.number, cents=s.cents)

    @step
    def note(self, s: State) -> Note:
        return Note(transfer=s.transfer, number=s.number)


class NewTransfer(Saga[NewState], name="transfer", version=2, **_SECONDS):
    """Version 2: other names of fields and of two steps; nothing leads here from version 1."""

    @starts_on(Asked)
    def begin(self, event: Asked) -> NewState:
        return NewState(name=event.transfer, number=event.number, amount=event.cents)

    @step(resend=Resend(attempts=3))
    def hold(self, s: NewState) -> Hold:
        return Hold(transfer=s.name, number=s.number, cents=s.amount)

    @hold.undo
    def release(self, s: NewState, reply: Done | None) -> Release:
        return Release(transfer=s.name, number=s.number, cents=s.amount)

    @step(renamed_from="fee")
    def charge(self, s: NewState) -> TakeFee:
        return TakeFee(transfer=s.name, number=s.number)

    @charge.undo
    def uncharge(self, s: NewState, reply: Done | None) -> ReturnFee:
        return ReturnFee(transfer=s.name, number=s.number)

    @call_step(no_undo="it is only asked", rejects=(LimitError,), resend=_OFTEN, renamed_from="ask")
    async def inquire(self, s: NewState, call: CallContext) -> Done:
        return await asked(s.number, call)

    @step(pivot=True, on_unknown="resolve")
    def pay(self, s: NewState) -> Pay:
        return Pay(transfer=s.name, number=s.number, cents=s.amount)

    @step
    def note(self, s: NewState) -> Note:
        return Note(transfer=s.name, number=s.number)


class MovedTransfer(NewTransfer, name="transfer", version=2, **_SECONDS):
    """The same, which takes open sagas of version 1 over."""

    @staticmethod
    @migrates(from_version=1)
    def one_to_two(state: dict[str, Any]) -> dict[str, Any]:
        return {"name": state["transfer"], "number": state["number"], "amount": state["cents"]}


VERSIONS: dict[str, type[Any]] = {"1": Transfer, "2 alone": NewTransfer, "2": MovedTransfer}


@handles(Hold, group=_HOLDS)
async def hold(command: Hold, ctx: Context) -> Done:
    await _book(ctx, command, "hold", source(command.number), "transit", command.cents)
    if command.number % 7 == 0:
        raise Reject(No())
    return Done()


@undoes(hold, Release)
async def release(command: Release, done: Done, ctx: Context) -> None:
    await _book(ctx, command, "release", "transit", source(command.number), command.cents)


@handles(TakeFee, group=_HOLDS)
async def take_fee(command: TakeFee, ctx: Context) -> Done:
    await _book(ctx, command, "fee", source(command.number), "fees", FEE)
    return Done()


@undoes(take_fee, ReturnFee)
async def return_fee(command: ReturnFee, done: Done, ctx: Context) -> None:
    await _book(ctx, command, "unfee", "fees", source(command.number), FEE)


@handles(Pay, group=_PAYS)
async def pay(command: Pay, ctx: Context) -> Done:
    await _book(ctx, command, "pay", "transit", target(command.number), command.cents)
    if command.number % 5 == 0:
        raise Reject(No())
    return Done()


@handles(Note, group=_PAYS)
async def note(command: Note, ctx: Context) -> Done:
    await _book(ctx, command, "note", "noted", "notes", 0)
    return Done()


PARTICIPANTS = (hold, release, take_fee, return_fee, pay, note)


def source(number: int) -> str:
    """Who pays."""
    return f"a{number % ACCOUNTS}"


def target(number: int) -> str:
    """Who gets it."""
    return f"a{(number * 7 + 1) % ACCOUNTS}"


def wish(number: int) -> Asked:
    """The n-th transfer: the same for the same number."""
    return Asked(transfer=f"t{number}", number=number, cents=1 + number % 97)


async def _book(ctx: Context, command: Any, kind: str, giver: str, taker: str, cents: int) -> None:
    """Both sides of one entry; then it may fail, and nothing of it may be left."""
    effect = ctx.message.headers.get("sagatarget") or ctx.message.headers["sagaeffect"]
    await ctx.sql.execute(
        "INSERT INTO entries (transfer, account, cents, kind, effect)"
        " SELECT $1, a, c, $2, $3 FROM unnest($4::text[], $5::bigint[]) u(a, c)",
        command.transfer,
        kind,
        effect,
        [giver, taker],
        [-cents, cents],
    )
    if Random(f"{kind}/{command.transfer}/{ctx.attempt}").random() < FAILS:
        raise ConnectionError("the books are shut")
