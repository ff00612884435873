"""Broken buses, patched into the worker processes: the bank must find each of them out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventbus.message import Message
from eventbus.outbox.relay import Relay
from eventbus.postgres.inbox import PostgresInbox
from eventbus.storage.inbox import Received

_receive = PostgresInbox.receive
_make_relay = Relay.__init__


async def _forgetful(
    self: PostgresInbox, messages: Sequence[Message], *, keys: Sequence[str], group: str
) -> Received:
    received = await _receive(self, messages, keys=keys, group=group)
    return replace(received, new=frozenset(message.identity for message in messages))


async def _holding_nothing(
    self: PostgresInbox, messages: Sequence[Message], *, keys: Sequence[str], group: str
) -> Received:
    return replace(await _receive(self, messages, keys=keys, group=group), held=frozenset())


def _hasty(self: Any, *args: Any, **more: Any) -> None:
    _make_relay(self, *args, **more)
    self._volatile = False


def forgets_the_inbox() -> None:
    """Number 2: what was done before is done again."""
    PostgresInbox.receive = _forgetful  # type: ignore[method-assign]  # the mutant


def holds_no_keys() -> None:
    """Number 19: what follows a parked message overtakes it."""
    PostgresInbox.receive = _holding_nothing  # type: ignore[method-assign]  # the mutant


def settles_before_handled() -> None:
    """Number 9: the row goes when the transport in the process has the message."""
    Relay.__init__ = _hasty  # type: ignore[method-assign]  # the mutant


def reads_from_the_start() -> None:
    """EXPERIMENT."""
    from eventbus.outbox.unsettled import Unsettled
    Unsettled.after = lambda self: 0


MUTANTS: Mapping[str, Callable[[], None]] = {
    "reads_from_the_start": reads_from_the_start,
    "forgets_the_inbox": forgets_the_inbox,
    "holds_no_keys": holds_no_keys,
    "settles_before_handled": settles_before_handled,
}
"""By name, and what of the verdict turns red is in `test_bank.py`."""
