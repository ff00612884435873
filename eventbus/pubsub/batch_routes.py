"""The group of a batch handler: what it reads goes to it whole, by type or by topic."""

from collections.abc import Collection, Sequence

from eventbus.codec import Registry
from eventbus.event import TypedMessage
from eventbus.handler import BatchHandler, Context, Group, Invocation
from eventbus.message import Message
from eventbus.pubsub.routes import Handler, Route, Routes


class BatchRoutes(Routes):
    """One handler of all of them; of its own topic it takes whatever comes.

    Args:
        group: its group.
        handler: takes what a lane's batch has.
        reads: classes that it reads, on their own topics.
        answers: classes and names that it reads on `topic` alone.
        topic: of the group itself.
        registry: of the bus.
    """

    def __init__(
        self,
        group: Group,
        handler: BatchHandler,
        *,
        reads: Sequence[type[TypedMessage]],
        answers: Sequence[type[TypedMessage] | str],
        topic: str,
        registry: Registry,
    ) -> None:
        one = Handler(
            call=Alone(group.name, handler),
            name=group.name,
            where=group.name,
            group=group,
            what=(*reads, *answers),
            takes_context=True,
            synchronous=False,
            plain=True,
            batches=handler,
        )
        super().__init__(group, [one], registry)
        self._topic = topic
        topics = [cls.__wire__.topic for cls in reads if cls.__wire__ is not None]
        self._topics = dict.fromkeys((*topics, topic))
        self._reads: Collection[str] = frozenset(
            cls.__wire__.type for cls in reads if cls.__wire__ is not None
        )
        self._all = Route((one,), by_class=True, needs_context=True)
        self._none = Route(())

    def of(self, type: str) -> Route:
        """The route of a wire type, on whatever topic."""
        return self._all if type in self._typed or type in self._named else self._none

    def for_message(self, message: Message) -> Route:
        """Answers to others are not ours, though their type is; of our topic all is ours."""
        ours = message.topic == self._topic or message.type in self._reads
        return self._all if ours else self._none


class Alone:
    """A batch handler for one message, in the savepoint of its caller: it raises its failure."""

    def __init__(self, name: str, handler: BatchHandler) -> None:
        self._handler = handler
        self.__name__ = self.__qualname__ = name  # what middleware says of it

    async def __call__(self, what: TypedMessage, context: Context) -> None:
        """Handle it; raise what it is to be parked with."""
        call = Invocation(self, what, context)
        (failure,) = await self._handler.handle_batch([call], context.storage)
        if failure is not None:
            raise failure
