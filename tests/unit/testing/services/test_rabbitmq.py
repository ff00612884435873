"""What is known of RabbitMQ before one runs."""

from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError
from eventbus.testing.services import rabbitmq_node
from eventbus.testing.services.processes import free_port
from eventbus.testing.services.rabbitmq import (
    MANAGEMENT,
    create_vhost,
    management_url,
    scripts_or_reason,
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MANAGEMENT, "EVENTBUS_TEST_RABBIT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "management"),
    [
        ("amqp://u:p@localhost/", "http://localhost:15672"),
        ("amqp://u:p@10.0.0.7:20000/v", "http://10.0.0.7:30000"),
        ("amqp://u:p@[::1]:5672/", "http://[::1]:15672"),
    ],
)
def test_management_is_10_000_ports_above(url: str, management: str) -> None:
    assert management_url(url) == management


def test_the_environment_names_the_management_of_its_own_broker_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_RABBIT_URL", "amqp://u:p@theirs:5671/")
    monkeypatch.setenv(MANAGEMENT, "https://theirs:15671")
    assert management_url("amqp://u:p@theirs:5671/t_1") == "https://theirs:15671"
    assert management_url("amqp://u:p@127.0.0.1:16000/") == "http://127.0.0.1:26000"


def test_a_vhost_without_the_plugin_is_refused_with_what_to_do() -> None:
    url = f"amqp://me:s3cret@127.0.0.1:{free_port()}/"
    with pytest.raises(ConfigurationError) as caught:
        create_vhost(url)
    assert caught.value.code == "EB1303"
    assert f"me:***@127.0.0.1:{url[-6:-1]}/: PUT http://" in caught.value.where
    assert MANAGEMENT in caught.value.next
    assert "s3cret" not in str(caught.value)


def test_scripts_count_only_together_with_epmd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "bin" / "rabbitmq-server"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setattr(rabbitmq_node, "_PATTERNS", (str(script.parent),))
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = scripts_or_reason(install=False, say=lambda text: None)
    assert isinstance(missing, str)
    assert "no RabbitMQ is installed" in missing
    (tmp_path / "epmd").touch(mode=0o755)
    assert scripts_or_reason(install=False, say=lambda text: None) == script.parent
