"""Effects of sagas in a lane's batch: begun together, finished together.

A row for each command, and its outcome, would be three round trips each.
"""

from collections.abc import Callable, Sequence
from uuid import UUID

from eventbus.handler import Effect, Fence
from eventbus.message import Message
from eventbus.pubsub.call import Call
from eventbus.pubsub.participant import Participant, handler_of_effect
from eventbus.pubsub.verdict import one_of_them
from eventbus.storage import Transaction

Begun = Effect | Exception


class Effects:
    """Of one batch in its transaction."""

    def __init__(self, participant: Participant, tx: Transaction) -> None:
        self._participant = participant
        self._tx = tx
        self._begun: dict[UUID, Begun] = {}  # by message; not run yet
        self._done: list[Effect] = []
        self._failed: list[Effect] = []
        self._asked = False

    async def of(self, call: Call, to_come: Callable[[], Sequence[Call]]) -> Begun | None:
        """What the message is about, or why it cannot be begun; None: it is of no saga.

        With the first one those of all messages to come are begun, in the order of their ids.

        Raises:
            OneOfThemError: one of them cannot be written, nothing says which.
        """
        if handler_of_effect(call.route, call.message) is None or self._participant.fence is None:
            return None
        if call.wrong is not None:
            return None
        if call.identity not in self._begun:
            coming = to_come()
            with one_of_them():
                await self._write(besides=coming)  # perhaps one of them was about the same effect
                await self._begin([call] if self._asked else coming)
        return self._begun.pop(call.identity)

    def ended(self, effect: Begun | None, *, failed: bool) -> None:
        """Its handler has answered, or did not."""
        if isinstance(effect, Effect):
            (self._failed if failed else self._done).append(effect)

    async def finish(self) -> None:
        """Write the outcomes; of what was begun and did not run no trace is left.

        Raises:
            OneOfThemError: one of them cannot be written, nothing says which.
        """
        with one_of_them():
            await self._write(besides=())

    async def _begin(self, calls: Sequence[Call]) -> None:
        self._asked = True
        asked: dict[UUID, tuple[Message, bool]] = {}
        for call in calls:
            handler = handler_of_effect(call.route, call.message)
            if handler is not None and call.wrong is None:
                asked.setdefault(call.identity, (call.message, handler.kind == "undo"))
        found = await self._fence.begin(list(asked.values()), self._tx)
        pairs = zip(asked, found, strict=True)
        self._begun |= {identity: one for identity, one in pairs if one is not None}

    async def _write(self, *, besides: Sequence[Call]) -> None:
        coming = {call.identity for call in besides}
        for identity in [one for one in self._begun if one not in coming]:
            self.ended(self._begun.pop(identity), failed=True)
        done, self._done = self._done, []
        failed, self._failed = self._failed, []
        if done:
            await self._fence.finish(done, self._tx)
        if failed:
            await self._fence.forget(failed, self._tx)

    @property
    def _fence(self) -> Fence:
        fence = self._participant.fence
        assert fence is not None  # noqa: S101 - without one nothing was begun
        return fence
