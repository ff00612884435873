"""What publishing learns of topics: one question of each at a time, and its answer is for all."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from eventbus.errors import TransportError
from eventbus.service import end
from eventbus_kafka.errors import CLIENT_ERRORS, transport_error
from eventbus_kafka.partitions import Partitions

Ensure = Callable[[str], Awaitable[bool]]
"""Whether a topic exists, made if that is allowed."""
Count = Callable[[str], Awaitable[int]]
"""How many partitions a topic has."""

FOR_GOOD = frozenset({"EB2301", "EB2302", "EB2314"})  # missing; access or the topic is refused
FAILED: tuple[type[Exception], ...] = (*CLIENT_ERRORS, TransportError)


class Learning:
    """Fills `partitions`; a topic that is not there afterwards is asked for again at the next call.

    Args:
        seconds: of one question. Without an end of its own, one that hangs would be joined by
            whoever comes, for as long as there is always somebody who waits.
        where: the cluster, for errors.
    """

    def __init__(
        self, partitions: Partitions, ensure: Ensure, count: Count, *, seconds: float, where: str
    ) -> None:
        self._partitions = partitions
        self._ensure = ensure
        self._count = count
        self._seconds = seconds
        self._where = where
        self._asking: dict[str, _Question] = {}
        self._refused: dict[str, str] = {}

    async def learn(self, topic: str) -> None:
        """Return when it is known, or known to be missing or refused.

        Raises:
            TimeoutError: the cluster did not answer in time, or publishing ends.
            TransportError: EB2001, it is away: nothing is known of the topic.
        """
        question = self._asking.get(topic) or self._begun(topic)
        question.waiting += 1
        try:
            await asyncio.wait([question.asking])
        finally:
            question.waiting -= 1
            if not (question.waiting or question.asking.done()):
                self._answered(topic, question)
                await end([question.asking])
        if question.asking.cancelled():
            raise TimeoutError
        question.asking.result()

    def why_not(self, topic: str) -> str:
        """Why nothing can be published there."""
        return self._refused.get(topic) or f"topic {topic} does not exist"

    async def stop(self) -> None:
        """Ask no more."""
        await end([question.asking for question in self._asking.values()])

    def _begun(self, topic: str) -> "_Question":
        asking = asyncio.create_task(self._ask(topic), name=f"publisher:topic:{topic}")
        question = self._asking[topic] = _Question(asking)
        asking.add_done_callback(lambda _: self._answered(topic, question))
        return question

    def _answered(self, topic: str, question: "_Question") -> None:
        """Whoever comes from now on asks anew."""
        if self._asking.get(topic) is question:
            del self._asking[topic]
        if question.asking.done() and not question.asking.cancelled():
            question.asking.exception()  # whoever waited has it

    async def _ask(self, topic: str) -> None:
        self._refused.pop(topic, None)
        try:
            async with asyncio.timeout(self._seconds):
                if await self._ensure(topic):
                    self._partitions.learn(topic, await self._count(topic))
        except TimeoutError:
            raise
        except FAILED as error:
            found = transport_error(error, f"learn of topic {topic}", self._where)
            if found.code not in FOR_GOOD:
                raise found from error
            self._refused[topic] = f"{found.what}: {found.why}"


@dataclass(slots=True, eq=False)
class _Question:
    """Under way as long as somebody waits for its answer."""

    asking: asyncio.Task[None]
    waiting: int = 0
