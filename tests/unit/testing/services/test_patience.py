"""A server that has much to do is asked again: it has not refused."""

from types import SimpleNamespace

import asyncpg
import pytest

from eventbus.errors import ConfigurationError
from eventbus.testing.services import kafka, postgres
from eventbus.testing.services.service import ProbeError


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """What PostgreSQL answers, one after another."""
    left: list[Exception | None] = []

    async def ask(url: str, statement: str, seconds: float) -> None:
        error = left.pop(0)
        if error is not None:
            raise ProbeError(str(error)) from error

    monkeypatch.setattr(postgres, "_ask", ask)
    return left


def test_a_database_that_somebody_still_leaves_is_dropped_later(
    answers: list[Exception | None],
) -> None:
    answers += [asyncpg.ObjectInUseError("being accessed by other users")] * 2 + [None]
    postgres.drop_database("postgresql://u@h/t_1")
    assert answers == []


def test_a_database_that_a_slow_disk_keeps_is_left_to_the_server(
    answers: list[Exception | None],
) -> None:
    answers += [TimeoutError(), TimeoutError()]
    postgres.drop_database("postgresql://u@h/t_1")
    with pytest.raises(ConfigurationError, match="EB1303"):
        postgres.create_database("postgresql://u@h/postgres")


def test_any_other_refusal_is_told_at_once(answers: list[Exception | None]) -> None:
    answers += [asyncpg.InsufficientPrivilegeError("not yours"), None]
    with pytest.raises(ConfigurationError, match="not yours"):
        postgres.drop_database("postgresql://u@h/t_1")
    assert answers == [None]


def admin_that_answers(monkeypatch: pytest.MonkeyPatch, *codes: dict[str, int]) -> list[list[str]]:
    """What is asked of it: one request for each answer, to delete topics."""
    asked: list[list[str]] = []

    class Admin:
        def __init__(self, **_: object) -> None:
            pass

        async def start(self) -> None:
            pass

        async def close(self) -> None:
            pass

        async def list_topics(self) -> list[str]:
            return ["t-1.a", "t-1.b", "t-2.a"]

        async def delete_topics(self, topics: list[str]) -> SimpleNamespace:
            asked.append(topics)
            return SimpleNamespace(topic_error_codes=list(codes[len(asked) - 1].items()))

    errors = SimpleNamespace(KafkaError=ConnectionError)
    library = SimpleNamespace(admin=SimpleNamespace(AIOKafkaAdminClient=Admin), errors=errors)
    monkeypatch.setattr(kafka, "_aiokafka", lambda: library)
    return asked


def test_topics_that_took_too_long_are_deleted_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = admin_that_answers(monkeypatch, {"t-1.a": 7, "t-1.b": 0}, {"t-1.a": 3})
    kafka.delete_topics("kafka://h:1", "t-1.")
    assert asked == [["t-1.a", "t-1.b"], ["t-1.a"]]


def test_topics_that_are_refused_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    admin_that_answers(monkeypatch, {"t-1.a": 7, "t-1.b": 29})
    with pytest.raises(ConfigurationError, match=r"'t-1\.b': 29"):
        kafka.delete_topics("kafka://h:1", "t-1.")
