"""Running what is not pure: bodies of local and call steps, for the engine and its workers."""

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson

from eventbus.codec import plan_of
from eventbus.event import Reply
from eventbus.handler import UnitOfWork
from eventbus.saga.decision import LocalRun
from eventbus.saga.definition import Definition
from eventbus.saga.draft import wrong_answer
from eventbus.storage.sagas import Call


class CallContext(Protocol):
    """What a call step knows about its attempt."""

    @property
    def effect_id(self) -> UUID:
        """The idempotency key, the same on every attempt."""
        ...

    @property
    def attempt(self) -> int:
        """From 1."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call as its worker claimed it."""

    effect_id: UUID
    attempt: int


async def run_local(definition: Definition, run: LocalRun, tx: UnitOfWork) -> bytes:
    """Run the body in the transaction at hand, inside the caller's savepoint.

    Returns:
        the state that it left, as JSON, for `LocalDone(…, "succeeded", data=…)`.

    Raises:
        Reject: roll the savepoint back and feed `LocalDone(…, "rejected", reply=…)`.
        Exception: whatever else the author's code raised.
    """
    state = definition.state.model_validate_json(run.data)
    await definition.flow.body(run.step, run.phase)(state, tx)
    return state.model_dump_json().encode()


async def run_call(definition: Definition, call: Call) -> Reply | None:
    """Run the body of a claimed call, with no transaction open; None of an undo.

    Raises:
        SagaMethodError: EB7003, it answered something else than its reply.
        Exception: one of the step's `rejects=` is a rejection, any other a failed attempt.
    """
    spec = definition.by_name[call.step]
    packed = orjson.loads(call.input)
    state = definition.state.model_validate_json(packed["state"])
    attempt = Attempt(call.effect_id, call.attempt)
    method = definition.flow.body(call.step, call.phase)
    if call.phase == "undo":
        known = packed["reply"]
        reply = None if known is None or spec.replies is None else _read(spec.replies, known)
        await method(state, reply, attempt)
        return None
    answer = await method(state, attempt)
    if spec.replies is None or not isinstance(answer, spec.replies):
        wanted = getattr(spec.replies, "__name__", "a reply")
        raise wrong_answer(method, f"{definition.saga} {call.saga_id}", answer, wanted)
    return answer


def _read(cls: type[Reply], body: str) -> Any:
    return plan_of(cls).read(body.encode())
