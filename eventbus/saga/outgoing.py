"""What a saga sends: commands with their headers, events, a reminder to itself."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random
from uuid import UUID

from eventbus.event import Event, TypedMessage
from eventbus.handler import UnitOfWork
from eventbus.instrumentation import Instrumentation, count_unknown
from eventbus.message import NO_HEADERS, Message
from eventbus.saga.decision import Key, Send
from eventbus.saga.tenancy import tenant_of, with_tenant
from eventbus.storage import Transaction
from eventbus.values import copier, make_quickly

Encode = Callable[
    [TypedMessage, Mapping[str, str], Message | None, Transaction], Awaitable[Message]
]
Unit = Callable[[Transaction, Message | None], AbstractContextManager[UnitOfWork]]

_retold = copier(Message)


class KeysAdded(Event, type="eventbus.saga-keys-added"):
    """A running saga is found by further keys: what came before is to be offered to it."""

    keys: tuple[tuple[str, str], ...]  # name, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the bus lends to its sagas."""

    encode: Encode
    decode: Callable[[Message], TypedMessage]  # personal fields stay sealed: a saga carries them
    unit: Unit  # a unit of work over a transaction, for local steps
    worker: str  # in the journal
    random: Random
    instrumentation: Instrumentation | None = None

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter."""
        if self.instrumentation is not None:
            self.instrumentation.count(name, amount, **labels)

    def count_unknown(self, error: BaseException, operation: str) -> None:
        """Count a transaction that has no answer, and whose work is done again."""
        count_unknown(self.instrumentation, error, operation, "repeated")

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """One more duration."""
        if self.instrumentation is not None:
            self.instrumentation.observe(name, seconds, **labels)


@dataclass(frozen=True, slots=True)
class Sender:
    """One saga's messages."""

    tools: Tools
    tx: Transaction
    saga: str
    saga_id: UUID
    key: str  # business key
    version: int  # of its definition
    replies: str  # topic

    @property
    def tenant(self) -> str:
        """Whose saga it is."""
        return tenant_of(self.saga_id, self.key)

    async def command(self, send: Send, cause: Message | None) -> Message:
        """Under a new message id, each time it is sent; raises what encoding raises."""
        told = {
            "sagaid": str(self.saga_id),
            "sagatype": self.saga,
            "sagastep": send.step,
            "sagaphase": send.phase,
            "sagaeffect": str(send.effect_id),
            "sagareplyto": self.replies,
            "sagasince": send.since,
            "sagadefversion": str(self.version),
        }
        if send.target is not None:
            told["sagatarget"] = str(send.target)
        if send.expires is not None:
            told["sagaexpires"] = send.expires
        return self._with(await self._encoded(send.command, cause), told)

    async def event(self, event: Event, cause: Message | None) -> Message:
        """As any other event; raises what encoding raises."""
        return await self._encoded(event, cause)

    async def reminder(self, keys: tuple[Key, ...], cause: Message | None) -> Message:
        """To itself: its transaction locks the keys before the saga, as this one cannot."""
        added = KeysAdded(keys=tuple((k.name, k.value) for k in keys))
        message = await self._encoded(added, cause)
        key = with_tenant(self.tenant, str(self.saga_id))
        message = _retold(message, topic=self.replies, key=key)
        return self._with(message, {"sagaid": str(self.saga_id)})

    async def _encoded(self, what: TypedMessage, cause: Message | None) -> Message:
        if cause is not None:
            return await self.tools.encode(what, NO_HEADERS, cause, self.tx)
        headers = {"tenant": self.tenant} if self.tenant else NO_HEADERS
        message = await self.tools.encode(what, headers, None, self.tx)
        return self._with(message, {"correlationid": str(self.saga_id)})

    def _with(self, message: Message, headers: Mapping[str, str]) -> Message:
        return _retold(message, headers={**message.headers, **headers})


make_quickly(Sender)
