"""Forgetting: the key of a subject is destroyed, and everyone who keeps plain text is told (E4)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256

from eventbus.event import Event
from eventbus.keyring import Keyring, checked
from eventbus.message import NO_HEADERS, Message
from eventbus.sealing import Subject
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Append, Appended
from eventbus.storage.subject_keys import Shredded
from eventbus.storage.verdicts import LONGEST_NAME_BYTES

Encode = Callable[[Sequence[Event], Mapping[str, str]], Awaitable[Sequence[Message]]]
Record = Callable[[Transaction, Append, Sequence[Event]], Awaitable[Appended]]
CATEGORY = "forgotten"


class SubjectForgotten(Event, type="eventbus.subject-forgotten", key="subject"):
    """Nobody can read the personal data of this subject any more: clear what is kept of them.

    In the log only, in the order of everything else; projections hear of it, brokers do not.
    """

    subject: str


async def forget(
    storage: Storage,
    keyring: Keyring | None,
    encode: Encode,
    record: Record,
    subject: Subject,
    *,
    actor: str,
    reason: str,
) -> Shredded:
    """All of it in one transaction, so that nothing is left half done by whoever dies in it."""
    checked(subject)
    headers = {"tenant": subject.tenant} if subject.tenant else NO_HEADERS
    events = [SubjectForgotten(subject=subject.name)]
    messages = await encode(events, headers)
    async with storage.transaction() as tx:
        shredded = await tx.subject_keys.shred(subject, actor=actor, reason=reason)
        if shredded.new:
            append = Append(stream=stream_of(subject), messages=messages, expected="any")
            await record(tx, append, events)
    if keyring is not None:
        keyring.forget(subject)
    return shredded


def stream_of(subject: Subject) -> str:
    """`forgotten-<subject>`; of a name that does not fit, its digest."""
    name = f"{CATEGORY}-{subject.name}"
    if len(name.encode()) <= LONGEST_NAME_BYTES:
        return name
    return f"{CATEGORY}-{sha256(subject.name.encode()).hexdigest()}"
