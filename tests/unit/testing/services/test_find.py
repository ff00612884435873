"""Where a service is looked for, in which order, and what is said when it is missing."""

from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError
from eventbus.testing.services import (
    ServiceMissingError,
    fixtures,
    postgres_programs,
    rabbitmq_node,
    running,
)
from eventbus.testing.services.find import SERVICES, release, up
from eventbus.testing.services.processes import free_port, this_process
from eventbus.testing.services.service import variable, without_password
from eventbus.testing.services.state import DIRECTORY


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No URL, no engine, no programs; the directory of the state, not made yet."""
    directory = tmp_path / "services"
    monkeypatch.setenv(DIRECTORY, str(directory))
    for name in SERVICES:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'no.sock'}")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_programs, "PATTERNS", (str(tmp_path / "none*"),))
    monkeypatch.setattr(rabbitmq_node, "_PATTERNS", (str(tmp_path / "none"),))
    return directory


def test_a_url_that_does_not_answer_is_an_error_and_no_other_lane_is_tried(
    nothing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("EVENTBUS_TEST_POSTGRES_URL", f"postgresql://me:s3cret@127.0.0.1:{port}/x")
    with pytest.raises(ConfigurationError) as caught:
        up("postgres")
    assert caught.value.code == "EB1301"
    assert not isinstance(caught.value, ServiceMissingError)
    assert f"EVENTBUS_TEST_POSTGRES_URL=postgresql://me:***@127.0.0.1:{port}/x" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert not nothing.exists()


MISSING = {
    "postgres": "no PostgreSQL 13 or newer is installed",
    "rabbit": "no RabbitMQ is installed",
    "kafka": "no Java 17 or newer is installed",
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_service_names_every_lane_and_the_commands_that_help(
    nothing: Path, name: str
) -> None:
    with pytest.raises(ServiceMissingError) as caught, running(name):
        pass
    assert caught.value.code == "EB1302"
    assert f"{variable(name)} is not set" in caught.value.why
    assert "docker: no engine answers within 2 s" in caught.value.why
    assert f"native: {MISSING[name]}" in caught.value.why
    assert f"python -m eventbus.testing.services up {name}" in caught.value.next
    assert f"{variable(name)}=" in caught.value.next


@pytest.mark.parametrize("name", SERVICES)
def test_up_says_why_it_cannot_install(nothing: Path, name: str) -> None:
    with pytest.raises(ServiceMissingError) as caught:
        up(name)
    assert "no Debian or Ubuntu" in caught.value.why


def test_leaving_what_was_never_used_is_no_error(nothing: Path) -> None:
    release(this_process())


def test_the_plugin_knows_the_services_of_the_table() -> None:
    assert tuple(SERVICES) == fixtures.NAMES


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:1/d?x=1", "postgresql://u:***@h:1/d?x=1"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:p%40q@[::1]:1/d", "postgresql://u:***@[::1]:1/d"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("name", "url"), [("rabbit", "amqp://me:s3cret@127.0.0.1:1/"), ("kafka", "kafka://127.0.0.1:1")]
)
def test_a_broker_that_does_not_answer_is_told_with_the_reason(
    nothing: Path, monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(variable(name), url)
    with pytest.raises(ConfigurationError) as caught:
        up(name)
    assert caught.value.code == "EB1301"
    assert "127.0.0.1" in caught.value.why
    assert "s3cret" not in str(caught.value)
