"""Findings, what became of a publish, and every error.

One tree, a code each (`docs/reference/errors.md`).
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What an adapter says about a configuration.

    A line of the guarantee report and of `doctor`.
    """

    level: Literal["refuse", "warn", "say"]
    code: str
    what: str
    why: str
    next: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker holds it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Certainly not stored, and would be refused again."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """Certainly not stored, nothing wrong with it: it stands behind a refused or unknown one.

    No attempt is counted.
    """


@dataclass(frozen=True, slots=True)
class Unknown:
    """Perhaps stored: publish it again under the same id."""


PublishResult = Confirmed | Rejected | NotSent | Unknown


class EventBusError(Exception):
    """Every error of the framework: what happened, where, why, and what to do next (I2)."""

    def __init__(self, code: str, what: str, *, where: str, why: str, next: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.where = where
        self.why = why
        self.next = next

    @property
    def url(self) -> str:
        """A stable name for the code (RFC 9457 `type`); `eventbus explain CODE` prints its page."""
        return f"urn:eventbus:error:{self.code}"

    def __str__(self) -> str:
        lines = (
            f"{self.code} {self.what}",
            f"where {self.where}",
            f"why   {self.why}",
            f"next  {self.next}",
        )
        return "\n  ".join(lines)


class ConfigurationError(EventBusError):
    """Mend the configuration: nothing was started."""


class WiringError(ConfigurationError):
    """Mend what was handed to the bus: types, handlers and groups do not fit together."""


class UnsafeConfigurationError(ConfigurationError):
    """Mend the configuration: it would not keep what the framework promises.

    With `strict=True` warnings count too.
    """


class MissingExtraError(ConfigurationError):
    """Install the extra that the message names."""


class TransportError(EventBusError):
    """The broker refused, or could not be reached.

    Try again later, nothing acknowledged is lost.
    """


class PublishError(TransportError):
    """Look at `results`, aligned with the messages.

    What is `Rejected` needs another message, what is `NotSent` a repeat.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        results: Sequence[PublishResult],
        where: str,
        why: str,
        next: str,
    ) -> None:
        super().__init__(code, what, where=where, why=why, next=next)
        self.results = results


class PublishUnknownError(PublishError):
    """Call `resolve()`: it publishes what is unknown or was not sent again, under the same ids."""

    def __init__(
        self,
        code: str,
        what: str,
        *,
        results: Sequence[PublishResult],
        where: str,
        why: str,
        next: str,
        again: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(code, what, results=results, where=where, why=why, next=next)
        self._again = again

    async def resolve(self) -> None:
        """Publish what is not confirmed again, under the same ids; inboxes drop the repeats.

        Raises:
            PublishError: again not all of them were confirmed.
        """
        if self._again is not None:
            await self._again()


class CodecError(EventBusError):
    """The message cannot be read or written as it is: it is quarantined at once, never retried."""


class UnknownTypeError(CodecError):
    """Hand the message class to the bus.

    Its type is not in the registry, and types are never guessed.
    """


class DecodeError(CodecError):
    """The body does not fit the class: deploy the version that knows it, then redrive."""


class LimitError(CodecError):
    """The message exceeds a limit: send a reference instead of the data."""


class PersonalDataError(CodecError):
    """Look for the keys: personal data can be neither sealed nor opened without them."""


class HandlerTimeoutError(EventBusError):
    """The handler ran longer than its group allows; treated as any failure (B7)."""


class HandlerAnswerError(EventBusError):
    """Mend the handler of the command: it returned something else than the reply it names."""


class CircuitOpenError(EventBusError):
    """The dependency failed too often lately; call again after the pause."""


class UnitOfWorkError(EventBusError):
    """Publish on the unit of work you hold: this call would escape it."""


class NoTransactionError(UnitOfWorkError):
    """There is no transaction here.

    Take a transactional group with a storage, or `bus.transaction()`.
    """


class SourcingError(EventBusError):
    """Mend the decider, the aggregate or the position: they do not fit the streams."""


class StorageError(EventBusError):
    """The database refused, or could not be reached; nothing of the transaction is kept."""


class ConcurrencyError(StorageError):
    """Somebody was first: read again, decide again.

    Of an append: `version` is the stream's, `conflicting` what stands there instead, as
    `RecordedMessage`, if it was asked for.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str,
        why: str,
        next: str,
        version: int | None = None,
        conflicting: Sequence[Any] = (),
    ) -> None:
        super().__init__(code, what, where=where, why=why, next=next)
        self.version = version
        self.conflicting = conflicting


class StreamClosedError(StorageError):
    """Choose another stream: this one is archived or tombstoned, nothing can be appended."""


class ProjectionError(EventBusError):
    """The read model is not there yet, or cannot be asked like that; the log has lost nothing."""


class LeaseLostError(StorageError):
    """Stop this work: a stale epoch changed nothing, somebody else owns it now."""


class MigrationError(StorageError):
    """Run `eventbus db upgrade`, or the version of the code that fits the schema."""


class CommitUnknownError(StorageError):
    """Call `resolve()` before anything is repeated: the transaction may be committed."""

    def __init__(
        self,
        code: str,
        what: str,
        *,
        ids: Collection[str],
        where: str,
        why: str,
        next: str,
        ask: Callable[[], Awaitable[Literal["committed", "rolled_back", "unknown"]]] | None = None,
    ) -> None:
        super().__init__(code, what, where=where, why=why, next=next)
        self.ids = ids
        self._ask = ask

    async def resolve(self) -> Literal["committed", "rolled_back", "unknown"]:
        """Ask the database what became of the transaction; `unknown` if it cannot tell either."""
        return "unknown" if self._ask is None else await self._ask()


class SagaError(EventBusError):
    """Look at the saga that the message names: it cannot go on by itself."""


class IllegalTransitionError(SagaError):
    """Report it: the framework was about to break a promise of sagas, and stopped."""


class SagaMethodError(SagaError):
    """Mend the saga class: one of its methods failed or answered what it may not."""
