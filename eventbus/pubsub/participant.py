"""The handlers of commands: outside a saga as they are, of a saga's effects behind the fence."""

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, cast

from eventbus.errors import HandlerAnswerError, SagaError
from eventbus.event import Command, Reply, reply_of
from eventbus.handler import Effect, Fence, Invocation, Reject
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.pubsub.routes import Handler, Route
from eventbus.pubsub.unit_of_work import HandlerContext
from eventbus.storage import Transaction

MARGIN = timedelta(seconds=10)  # of a lease beyond the time-out: attempts in place, the commit


class Participant:
    """Calls the handlers of commands."""

    def __init__(self, fence: Fence | None, instrumentation: Instrumentation | None = None) -> None:
        self.fence: Fence | None = fence
        self._instrumentation = instrumentation

    async def handle(self, handler: Handler, invocation: Invocation) -> None:
        """Call a handler: of an effect of a saga at most once.

        Fence row, what the handler wrote and the reply commit together: at once, or with what
        `Effects.finish` or `settle` is given of an effect that was begun before.
        """
        context = cast("HandlerContext", invocation.context)
        if not _is_sagas(handler, context.message):
            answer = await invocation.handler(invocation.what, context)
            _check(handler, answer, reply_of(_command(handler)))
            return
        fence, effect = self._required(handler), context.effect
        if effect is not None:
            effect = _possible(effect)
            self._note(handler, effect)
            await _call(fence, handler, invocation, effect, context.block())
            return
        tx = context.storage
        (effect,) = await fence.begin([(context.message, handler.kind == "undo")], tx)
        effect = _possible(effect)
        self._note(handler, effect)
        await _call(fence, handler, invocation, effect, context.block())
        await fence.finish([effect], tx)

    async def claim(self, route: Route, message: Message) -> Effect | None:
        """The effect that the handlers, called in no transaction, are about; None: of no saga."""
        handler = handler_of_effect(route, message)
        if handler is None:
            return None
        lease = handler.group.timeout + MARGIN
        undo = handler.kind == "undo"
        return await self._required(handler).claim(message, undo=undo, lease=lease)

    async def settle(
        self, effect: Effect | None, tx: Transaction, *, failed: bool, dead: bool
    ) -> None:
        """Write what became of it."""
        if effect is None or self.fence is None:
            return
        if not failed:
            await self.fence.finish([effect], tx)
        elif dead:
            await self.fence.give_up(effect, tx)
        else:
            await self.fence.give_back(effect, tx)

    def _note(self, handler: Handler, effect: Effect) -> None:
        """Where nothing runs, the fence has answered."""
        if self._instrumentation is not None and not effect.runs and effect.reply is not None:
            outcome = effect.reply.headers["sagaoutcome"]
            group = handler.group.name
            self._instrumentation.count("saga_fence_hits_total", group=group, outcome=outcome)

    def _required(self, handler: Handler) -> Fence:
        if self.fence is None:
            raise SagaError(
                "EB7050",
                f"a saga's command for {handler.name}, and no storage",
                where=handler.where,
                why="the fence that keeps its effect to one is rows beside those of the handler",
                next='EventBus(…, storage="postgresql://…") in the participant too; then redrive',
            )
        return self.fence


def handler_of_effect(route: Route, message: Message) -> Handler | None:
    """Who does, or undoes, the effect that a message is about; None: it is of no saga."""
    for handler in route.handlers:
        if handler.kind != "event" and _is_sagas(handler, message):
            return handler
    return None


async def _call(
    fence: Fence,
    handler: Handler,
    invocation: Invocation,
    effect: Effect,
    block: AbstractAsyncContextManager[None],
) -> None:
    """A rejection undoes the block alone: the row of the fence stays."""
    if not effect.runs:
        return
    what, context = invocation.what, cast("HandlerContext", invocation.context)
    answer: Reply | None = None
    try:
        async with block:
            if handler.kind == "undo":
                await invocation.handler(what, effect.done, context)
            else:
                answer = await invocation.handler(what, context)
                _check(handler, answer, reply_of(_command(handler)))
    except Reject as rejected:
        if handler.kind == "command":
            _check(handler, rejected.rejection, *_command(handler).__rejects__)
        answer = rejected.rejection
    await fence.answered(effect, answer, context.tx)


def _possible(effect: Effect | Exception | None) -> Effect:
    if isinstance(effect, Exception):
        raise effect
    assert effect is not None  # noqa: S101 - asked one at a time, none is about the same
    return effect


def _is_sagas(handler: Handler, message: Message) -> bool:
    """An undo is of a saga always: outside of one there is nothing that it could undo."""
    return "sagaeffect" in message.headers or handler.kind == "undo"


def _command(handler: Handler) -> type[Command[Any]]:
    return cast("type[Command[Any]]", handler.what[0])  # @handles takes one class


def _check(handler: Handler, answer: object, *expected: type[Reply] | None) -> None:
    """Outside a saga nothing is answered, but the answer is checked against the command."""
    classes = tuple(one for one in expected if one is not None)
    if isinstance(answer, classes) or (expected and not classes):
        return
    command = _command(handler)
    named = ", ".join(one.__name__ for one in classes) or "no rejection"
    raise HandlerAnswerError(
        "EB4109",
        f"{handler.name} answered with {type(answer).__name__}",
        where=handler.where,
        why=f"{command.__name__} names {named}",
        next="return its reply, or raise Reject(…) with one of its rejects=",
    )
