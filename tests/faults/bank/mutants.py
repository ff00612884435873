"""Broken buses, patched into the worker processes: the bank must find each of them out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventbus.message import Message
from eventbus.outbox.relay import Relay
from eventbus.postgres.inbox import PostgresInbox
from eventbus.postgres.outbox import PostgresOutbox
from eventbus.storage.inbox import Received
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import Outgoing

_receive = PostgresInbox.receive
_make_relay = Relay.__init__
_read = PostgresOutbox.read
_reads: list[int] = [0]  # the highest row that each read has seen


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


async def _by_cursor(
    self: PostgresOutbox, leases: Collection[Lease], *, limit: int, **_: Any
) -> Sequence[Outgoing]:
    """From the beginning each tenth time, so that what was jumped over comes late, but comes."""
    _reads.append(0 if len(_reads) % 10 == 0 else _reads[-1])
    rows = await _read(self, leases, limit=limit, after=_reads[-1])
    _reads[-1] = max([_reads[-1], *(row.row for row in rows)])
    return rows


def forgets_the_inbox() -> None:
    """Number 2: what was done before is done again."""
    PostgresInbox.receive = _forgetful  # type: ignore[method-assign]  # the mutant


def holds_no_keys() -> None:
    """Number 19: what follows a parked message overtakes it."""
    PostgresInbox.receive = _holding_nothing  # type: ignore[method-assign]  # the mutant


def settles_before_handled() -> None:
    """Number 9: the row goes when the transport in the process has the message."""
    Relay.__init__ = _hasty  # type: ignore[method-assign]  # the mutant


def jumps_over_late_commits() -> None:
    """Number 11: the relay reads by an id cursor, and ids are no order of commits."""
    PostgresOutbox.read = _by_cursor  # type: ignore[method-assign]  # the mutant


MUTANTS: Mapping[str, Callable[[], None]] = {
    "forgets_the_inbox": forgets_the_inbox,
    "holds_no_keys": holds_no_keys,
    "jumps_over_late_commits": jumps_over_late_commits,
    "settles_before_handled": settles_before_handled,
}
"""By name, and what of the verdict turns red is in `test_bank.py`."""
