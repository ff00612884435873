"""Broken participants and engines, patched into the workers: the bank must find them out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventbus.postgres.inbox import PostgresInbox
from eventbus.postgres.sagas import PostgresSagas
from eventbus.saga import engine
from eventbus.saga.transition import write
from eventbus.storage.inbox import Received
from eventbus.storage.sagas import EffectEnd, EffectRow, EffectStart

_begin = PostgresSagas.begin_effect
_finish = PostgresSagas.finish_effect
_receive = PostgresInbox.receive


async def _always_new(self: PostgresSagas, effects: Sequence[EffectStart]) -> Sequence[EffectRow]:
    rows = await _begin(self, effects)
    return [replace(row, new=True, state=one.state) for row, one in zip(rows, effects, strict=True)]


async def _whatever(self: PostgresSagas, effects: Sequence[EffectEnd]) -> None:
    return None


async def _forgetful(self: PostgresInbox, messages: Any, *, keys: Any, group: str) -> Received:
    received = await _receive(self, messages, keys=keys, group=group)
    return replace(received, new=frozenset(message.identity for message in messages))


async def _mute(tx: Any, transitions: Sequence[Any], *others: Any) -> None:
    """Now and then a transition is written without what it sends, and without its timers.

    With its timers it would be sent again: what is lost alone heals, as it should.
    """
    for each in transitions:
        if each.record.saga_id.int % 3 == 0 and each.record.version > 2:
            each.messages.clear()
            each.course._arm.clear()
    await write(tx, transitions, *others)


def no_fence() -> None:
    """Number 22 and more: a command runs as often as it comes, an undo never finds its effect."""
    PostgresInbox.receive = _forgetful  # type: ignore[method-assign]  # the mutant
    PostgresSagas.begin_effect = _always_new  # type: ignore[method-assign]  # the mutant
    PostgresSagas.finish_effect = _whatever  # type: ignore[method-assign]  # the mutant


def loses_commands() -> None:
    """What follows from a state is not in its transaction."""
    vars(engine)["write"] = _mute


MUTANTS: Mapping[str, Callable[[], None]] = {
    each.__name__: each for each in (no_fence, loses_commands)
}
