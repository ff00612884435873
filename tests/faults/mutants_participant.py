"""Mutants of the participant's half of sagas: one seam each, with the test that must see it."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from uuid import uuid4

from eventbus.handler import Effect, Retry
from eventbus.message import Message
from eventbus.pubsub import participant
from eventbus.pubsub.unit_of_work import HandlerContext
from eventbus.saga import effect, effect_headers
from eventbus.saga.effect_replies import Replies
from tests.faults.mutants_storage import Mutant, Patch, instead


def _always_runs(begun: Callable[..., Any]) -> Callable[..., Any]:
    async def mutated(*args: Any) -> Any:
        found = await begun(*args)
        found.runs = True
        return found

    return mutated


def _impatient(claim: Callable[..., Any]) -> Callable[..., Any]:
    async def mutated(self: Any, message: Message, **keywords: Any) -> Effect:
        try:
            found: Effect = await claim(self, message, **keywords)
        except Retry:
            return Effect(message=message, effect_id=uuid4(), undo=False, runs=True)
        return found

    return mutated


def _without_block(call: Callable[..., Any]) -> Callable[..., Any]:
    async def mutated(fence: Any, handler: Any, invocation: Any, about: Any, _: Any) -> None:
        await call(fence, handler, invocation, about, nullcontext())

    return mutated


def _no_tombstone(begin: Callable[..., Any]) -> Callable[..., Any]:
    """An undo that finds nothing forgets that it came."""

    async def mutated(self: Any, commands: Any, tx: Any) -> Any:
        found = await begin(self, commands, tx)
        for (message, _), one in zip(commands, found, strict=True):
            if message.headers["sagaphase"] != "forward" and not one.runs:
                await self.forget([one], tx)
        return found

    return mutated


def _nothing(_: Any) -> Callable[..., Any]:
    async def mutated(*args: Any, **keywords: Any) -> None:
        return None

    return mutated


def _by_message(_: Any) -> property:
    return property(lambda self: f"{self.group}:{self.message.identity}")


def _under_its_own(message: Callable[..., Any]) -> Callable[..., Any]:
    """A resolve is answered under its own effect id."""

    def mutated(self: Any, command: Any, headers: Any, outcome: Any, reply: Any) -> Any:
        return message(self, command, replace(headers, target=headers.effect_id), outcome, reply)

    return mutated


def _once(again: Callable[..., Any]) -> Callable[..., Any]:
    """A stored answer comes without its body."""

    def mutated(self: Any, command: Any, headers: Any, outcome: Any, stored: Any) -> Any:
        return again(self, command, headers, outcome, (stored[0], b"{}"))

    return mutated


_TABLE: list[tuple[str, Patch, str]] = [
    (
        "a command runs as often as it comes",
        instead(effect.EffectFence, "_begun", _always_runs),
        "test_sent_again_it_runs_once_and_its_answer_is_repeated",
    ),
    (
        "the author's writes share a savepoint with the fence",
        instead(participant, "_call", _without_block),
        "test_a_rejection_leaves_nothing_and_is_repeated",
    ),
    (
        "what failed stays begun",
        instead(effect.EffectFence, "forget", _nothing),
        "test_another_error_leaves_no_fence_and_the_next_attempt_runs",
    ),
    (
        "an undo that came first leaves no tombstone",
        instead(effect.EffectFence, "begin", _no_tombstone),
        "test_an_undo_before_its_command_bars_it",
    ),
    (
        "a resolve does not bar",
        instead(effect.EffectFence, "begin", _no_tombstone),
        "test_a_resolve_of_what_never_came_bars_it_for_ever",
    ),
    (
        "a resolve is answered under its own effect",
        instead(Replies, "message", _under_its_own),
        "test_a_resolve_is_answered_by_what_stands",
    ),
    (
        "a stored answer has lost its body",
        instead(Replies, "again", _once),
        "test_sent_again_it_runs_once_and_its_answer_is_repeated",
    ),
    (
        "an undo is not told what was done",
        instead(Replies, "read", lambda _: lambda self, stored: None),
        "test_an_undo_gets_the_answer_that_was_given_and_happens_once",
    ),
    (
        "what was forgotten is believed",
        instead(effect, "_is_late", lambda _: lambda headers: False),
        "test_when_the_fence_may_have_forgotten_nothing_is_believed",
    ),
    (
        "answers go wherever the header says",
        instead(effect_headers, "_REPLIES", lambda _: re.compile(".*")),
        "test_headers_that_no_saga_sends_are_quarantined",
    ),
    (
        "any rejection will do",
        instead(participant, "_check", lambda _: lambda *given: None),
        "test_a_rejection_that_the_command_does_not_name_is_a_failure",
    ),
    (
        "the idempotency key is the message's",
        instead(HandlerContext, "idempotency_key", _by_message),
        "test_another_error_leaves_no_fence_and_the_next_attempt_runs",
    ),
    (
        "a failed attempt keeps its claim",
        instead(effect.EffectFence, "give_back", _nothing),
        "test_a_failed_attempt_outside_is_made_again_under_one_key",
    ),
    (
        "an unknown outcome is not stored",
        instead(effect.EffectFence, "give_up", _nothing),
        "test_an_outcome_that_nobody_knows_is_told_and_can_be_undone",
    ),
    (
        "work that may run is done again",
        instead(effect.EffectFence, "claim", _impatient),
        "test_work_whose_worker_died_is_taken_over_when_its_lease_ended",
    ),
]
ARGUMENTS: dict[str, dict[str, object]] = {
    "test_when_the_fence_may_have_forgotten_nothing_is_believed": {
        "phase": "undo",
        "outcome": "rejected",
        "type_": "eventbus.forgotten",
    },
    "test_headers_that_no_saga_sends_are_quarantined": {"broken": {"sagareplyto": "orders"}},
}
MUTANTS = [Mutant(name, patch, "", test, ARGUMENTS.get(test, {})) for name, patch, test in _TABLE]
