"""Answers on their way to a saga: typed ones, stored ones, and those that need no body."""

from collections.abc import Mapping
from typing import Literal

from eventbus.codec import Encoder, Registry, is_personal, subjects_of
from eventbus.errors import DecodeError
from eventbus.event import Rejection, Reply, Undone
from eventbus.keyring import no_keyring
from eventbus.message import NO_HEADERS, Message
from eventbus.saga.effect_headers import EffectHeaders
from eventbus.sealing import Key, Subject
from eventbus.storage import Transaction
from eventbus.values import copier

Outcome = Literal["succeeded", "rejected", "cancelled", "undone", "unknown"]

_SCHEMA = "urn:eventbus:schema:"
_retold = copier(Message)


class Cancelled(Reply, type="eventbus.cancelled"):
    """No effect happened, and none will: the forward command is barred."""


class Unsettled(Reply, type="eventbus.unsettled"):
    """Nobody knows: attempts outside a transaction were used up."""


class Forgotten(Rejection, type="eventbus.forgotten"):
    """Of an undo or a resolve that comes when the fence's row is perhaps gone."""


class Replies:
    """Makes the messages."""

    def __init__(self, encoder: Encoder, registry: Registry) -> None:
        self._encoder = encoder
        self._registry = registry

    async def message(
        self,
        command: Message,
        headers: EffectHeaders,
        outcome: Outcome,
        reply: Reply,
        tx: Transaction | None,
    ) -> Message:
        """An answer, under the key of its saga."""
        keys = await self._keys(reply, command.tenant, tx)
        made = self._encoder.typed(reply, NO_HEADERS, command, keys=keys)
        tenant = made.headers.get("tenant")
        saga_id = str(headers.saga_id)
        effect_id = headers.target if headers.phase == "resolve" else headers.effect_id
        return _retold(
            made,
            topic=headers.reply_to,
            key=saga_id if tenant is None else f"{tenant}/{saga_id}",
            headers={
                **made.headers,
                "sagaid": saga_id,
                "sagaoutcome": outcome,
                "sagaeffect": str(effect_id),
            },
        )

    async def again(
        self,
        command: Message,
        headers: EffectHeaders,
        outcome: Outcome,
        stored: tuple[str, bytes],
        tx: Transaction,
    ) -> Message:
        """A stored answer, as it was, in a message of its own."""
        made = await self.message(command, headers, outcome, Undone(), tx)
        name, payload = stored
        schema = {**made.headers, "dataschema": f"{_SCHEMA}{name}"}
        return _retold(made, type=name.rpartition(":")[0], payload=payload, headers=schema)

    async def read(self, stored: tuple[str, bytes], tenant: str, tx: Transaction) -> Reply:
        """A stored answer, in its current version; raises what `Registry.decode` raises."""
        name, payload = stored
        kind = name.rpartition(":")[0]
        message = Message(
            id="stored",
            type=kind,
            source=self._encoder.source,
            topic=kind.partition(".")[0],
            payload=payload,
            headers={"dataschema": f"{_SCHEMA}{name}", "tenant": tenant},
        )
        (opening,) = await self._registry.openings([message], tx)
        reply = self._registry.decode(message, opening)
        if not isinstance(reply, Reply):
            raise DecodeError(
                "EB3102",
                f"{kind!r} is no reply",
                where="a stored reply of an effect",
                why="the type was a reply when it was stored",
                next="a type on the wire keeps its meaning: give the other class another type",
            )
        return reply

    async def _keys(
        self, reply: Reply, tenant: str, tx: Transaction | None
    ) -> Mapping[Subject, Key] | None:
        if not is_personal(reply):
            return None
        if self._registry.keys is None:
            raise no_keyring(type(reply).__qualname__, storage=True)
        return await self._registry.keys.sealing(subjects_of(reply, tenant), tx)


def stored(message: Message) -> tuple[str, bytes]:
    """What the fence keeps of an answer: type and version, and the bytes."""
    return message.headers["dataschema"].removeprefix(_SCHEMA), message.payload
