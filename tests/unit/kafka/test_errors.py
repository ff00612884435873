"""Nothing of the client passes: every exception class goes through the mapping."""

import inspect
from collections.abc import Iterator

import pytest
from aiokafka import errors

from eventbus.errors import NotSent, Rejected, TransportError, Unknown
from eventbus_kafka.errors import CLIENT_ERRORS, fate, may_heal, transport_error


def every_class() -> Iterator[type[Exception]]:
    for found in vars(errors).values():
        if found is errors.BrokerResponseError:
            continue  # the base of all answers: without a number it cannot even be printed
        if inspect.isclass(found) and issubclass(found, Exception):
            yield found


EVERY = sorted(set(every_class()), key=lambda found: found.__name__)


def test_the_list_holds_the_classes_of_the_client() -> None:
    assert len(EVERY) > 90
    assert errors.MemberIdRequired in EVERY


@pytest.mark.parametrize("found", [*EVERY, OSError, ConnectionResetError, TimeoutError])
def test_every_error_of_the_client_becomes_one_of_the_framework(found: type[Exception]) -> None:
    caught = None
    try:
        raise found("text\nin two lines")
    except CLIENT_ERRORS as error:
        caught = transport_error(error, "publish", "kafka://localhost:9092")
    assert type(caught) is TransportError
    assert caught.code in {
        *("EB2001", "EB2301", "EB2302", "EB2306", "EB2307", "EB2312", "EB2314"),
    }
    assert caught.what
    assert caught.next
    assert "\n" not in caught.why
    assert found.__name__ in caught.why


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.KafkaConnectionError(), "EB2001"),
        (errors.NotLeaderForPartitionError(), "EB2001"),
        (errors.RequestTimedOutError(), "EB2001"),
        (errors.TopicAuthorizationFailedError("shop"), "EB2302"),
        (errors.SaslAuthenticationFailed(), "EB2302"),
        (errors.UnknownTopicOrPartitionError(), "EB2301"),
        (errors.OffsetOutOfRangeError(), "EB2306"),
        (errors.CorruptRecordException(), "EB2307"),
        (errors.CommitFailedError(), "EB2312"),
        (errors.UnknownError(), "EB2314"),
    ],
)
def test_an_error_says_what_to_react_to(error: Exception, code: str) -> None:
    assert transport_error(error, "consume", "here").code == code


def test_our_own_error_passes_as_it_is() -> None:
    own = TransportError("EB2105", "closed", where="here", why="it was left", next="enter it")
    assert transport_error(own, "publish", "here") is own


@pytest.mark.parametrize(
    "error",
    [
        errors.MessageSizeTooLargeError(),
        errors.RecordListTooLargeError(),
        errors.TopicAuthorizationFailedError("shop"),
        errors.PolicyViolationError(),
        errors.InvalidTimestampError(),
    ],
)
def test_what_the_broker_looked_at_and_refused_is_rejected(error: Exception) -> None:
    assert isinstance(fate(error), Rejected)


@pytest.mark.parametrize(
    "error",
    [
        errors.NotEnoughReplicasAfterAppendError(),
        errors.RequestTimedOutError(),
        errors.OutOfOrderSequenceNumber(),
        errors.UnknownProducerId(),
        errors.ProducerFenced(),
        errors.KafkaConnectionError(),
        errors.UnknownError(),
        ValueError("a bug of the client"),
    ],
)
def test_anything_else_is_unknown(error: Exception) -> None:
    assert isinstance(fate(error), Unknown)


def test_what_a_closed_producer_never_took_was_not_sent() -> None:
    assert isinstance(fate(errors.ProducerClosed()), NotSent)


def test_credentials_and_missing_topics_do_not_heal() -> None:
    assert may_heal(errors.KafkaConnectionError())
    assert not may_heal(errors.GroupAuthorizationFailedError("g"))
    assert not may_heal(errors.UnknownTopicOrPartitionError())
