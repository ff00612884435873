"""Errors of the client -> errors of the framework; nothing of aiokafka passes (house.md 5)."""

from aiokafka import errors as kafka

from eventbus.errors import NotSent, PublishResult, Rejected, TransportError, Unknown

ACCESS = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.ClusterAuthorizationFailedError,
    kafka.DelegationTokenAuthDisabled,
    kafka.DelegationTokenAuthorizationFailed,
    kafka.DelegationTokenExpired,
    kafka.DelegationTokenNotFound,
    kafka.DelegationTokenOwnerMismatch,
    kafka.DelegationTokenRequestNotAllowed,
    kafka.GroupAuthorizationFailedError,
    kafka.IllegalSaslStateError,
    kafka.InvalidPrincipalType,
    kafka.SaslAuthenticationFailed,
    kafka.SecurityDisabled,
    kafka.TopicAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.UnsupportedSaslMechanismError,
)
MISSING = (kafka.InvalidTopicError, kafka.UnknownTopicOrPartitionError)
TRUNCATED = (kafka.NoOffsetForPartitionError, kafka.OffsetOutOfRangeError)
UNREADABLE = (
    kafka.CorruptRecordException,
    kafka.RecordTooLargeError,
    kafka.UnsupportedCodecError,
)
MEMBERSHIP = (
    kafka.CommitFailedError,
    kafka.IllegalGenerationError,
    kafka.InconsistentGroupProtocolError,
    kafka.RebalanceInProgressError,
    kafka.UnknownMemberIdError,
)
AWAY = (
    kafka.Cancelled,
    kafka.KafkaConnectionError,
    kafka.KafkaTimeoutError,
    kafka.KafkaUnavailableError,
    kafka.MetadataEmptyBrokerList,
    kafka.NoBrokersAvailable,
    kafka.NodeNotReadyError,
    kafka.StaleMetadata,
    OSError,
    TimeoutError,
)
REFUSED = (
    # the broker looked at the batch and stored nothing of it; the same bytes are refused again
    *ACCESS,
    kafka.InvalidTimestampError,
    kafka.InvalidTopicError,
    kafka.InvalidRequestError,
    kafka.MessageSizeTooLargeError,
    kafka.PolicyViolationError,
    kafka.RecordListTooLargeError,
    kafka.UnsupportedForMessageFormatError,
)
_INVALID_RECORD = 87  # aiokafka 0.14 has no class for it: an UnknownError whose number is lost

CLIENT_ERRORS: tuple[type[Exception], ...] = (
    kafka.KafkaError,
    kafka.ConsumerStoppedError,
    kafka.IllegalOperation,
    OSError,
    TimeoutError,
)
"""What an await on the client may raise for reasons of its own."""


def transport_error(error: BaseException, doing: str, where: str) -> TransportError:
    """What to raise `from error`.

    Args:
        error: anything that the client raised.
        doing: "publish to topic 'shop'": the start of a sentence.
        where: cluster, group or topic, without secrets.
    """
    if isinstance(error, TransportError):
        return error
    code, what, remedy = _condition(error)
    return TransportError(code, f"{doing}: {what}", where=where, why=described(error), next=remedy)


def described(error: BaseException) -> str:
    """Class and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _condition(error: BaseException) -> tuple[str, str, str]:
    if isinstance(error, ACCESS):
        return "EB2302", "Kafka refuses access", "check user, password, mechanism and the ACLs"
    if isinstance(error, MISSING):
        return "EB2301", "the topic does not exist", "create it, or provision=true"
    if isinstance(error, TRUNCATED):
        return (
            "EB2306",
            "the log does not hold what this group has not read",
            "look at the retention of the topic; on_data_loss=earliest goes on behind the gap",
        )
    if isinstance(error, UNREADABLE):
        return "EB2307", "a record cannot be read", "look at the record with Kafka's own tools"
    if isinstance(error, MEMBERSHIP):
        return "EB2312", "this member is no part of its group any more", "it joins again by itself"
    if isinstance(error, AWAY) or getattr(error, "retriable", False):
        return "EB2001", "cannot reach Kafka", "eventbus doctor; it is tried again by itself"
    return "EB2314", "Kafka answered with an error", "look at the log of the broker"


def fate(error: BaseException) -> PublishResult:
    """What became of the messages of a batch whose future failed so."""
    if isinstance(error, kafka.ProducerClosed):
        return NotSent()
    if isinstance(error, REFUSED):
        return Rejected(described(error))
    return Unknown()


def may_heal(error: BaseException) -> bool:
    """False for what no reconnecting mends: credentials, a missing topic."""
    return not isinstance(error, (*ACCESS, *MISSING))
