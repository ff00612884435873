"""A deployment's decisions, also from a URL; what cannot work is refused."""

from datetime import timedelta

import pytest

from eventbus.errors import ConfigurationError
from eventbus.transport import open_transport
from eventbus_rabbit import RabbitConfig, RabbitTransport


def test_a_url_says_everything() -> None:
    config = RabbitConfig.from_url(
        "amqps://us%40er:p%2Fw@[::1]:5679/my%2Fshop?ca_file=/ca.pem&cert_file=/c.pem&key_file=/k.pem"
        "&verify=false&heartbeat=5&connect_timeout=2.5&publish_timeout=3&consumer_timeout=60"
        "&max_body=1000&prefetch=7&window=8&publish_channels=3&shards=billing:8,audit:2"
        "&allow_unrouted=audit.*,shop.seen&declare=false",
        "orders",
    )
    assert config == RabbitConfig(
        host="::1",
        port=5679,
        vhost="my/shop",
        user="us@er",
        password="p/w",
        tls=True,
        ca_file="/ca.pem",
        cert_file="/c.pem",
        key_file="/k.pem",
        verify=False,
        name="orders",
        heartbeat=5,
        connect_timeout=timedelta(seconds=2.5),
        publish_timeout=timedelta(seconds=3),
        consumer_timeout=timedelta(seconds=60),
        max_body=1000,
        prefetch=7,
        window=8,
        publish_channels=3,
        shards={"billing": 8, "audit": 2},
        allow_unrouted=("audit.*", "shop.seen"),
        declare=False,
    )
    assert config.is_local


@pytest.mark.parametrize(
    ("url", "port", "tls"),
    [("amqp://b", 5672, False), ("rabbit://b", 5672, False), ("amqps://b", 5671, True)],
)
def test_schemes_have_their_ports(url: str, port: int, tls: bool) -> None:
    config = RabbitConfig.from_url(url)
    assert (config.port, config.tls, config.vhost, config.user) == (port, tls, "/", "guest")
    assert config.address.startswith("amqps://" if tls else "amqp://")
    assert not config.is_local


def test_no_text_for_people_holds_the_password() -> None:
    config = RabbitConfig(password="s3cret", user="u")
    assert "s3cret" not in repr(config)
    assert "s3cret" not in config.place
    assert "s3cret" in config.address


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://b", "scheme"),
        ("amqp://b:x", "address"),
        ("amqp://b?prefetsch=1", "prefetsch"),
        ("amqp://b?prefetch=many", "prefetch"),
        ("amqp://b?prefetch=0", "prefetch"),
        ("amqp://b?window=5000", "window"),
        ("amqp://b?heartbeat=0", "heartbeat"),
        ("amqp://b?publish_timeout=0", "publish_timeout"),
        ("amqp://b?declare=maybe", "declare"),
        ("amqp://b?shards=billing:x", "shards"),
        ("amqp://b?shards=billing:0", "shards"),
        ("amqp://b?ca_file=/ca.pem", "certificate"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RabbitConfig.from_url(url)
    assert refused.value.code == "EB1006"
    assert says in refused.value.what


def test_a_certificate_that_is_not_there_is_told() -> None:
    config = RabbitConfig(tls=True, ca_file="/nowhere/ca.pem")
    with pytest.raises(ConfigurationError) as refused:
        config.ssl_context()
    assert refused.value.code == "EB1006"


def test_plain_connections_have_no_ssl_context_and_unverified_ones_say_so() -> None:
    assert RabbitConfig().ssl_context() is None
    context = RabbitConfig(tls=True, verify=False).ssl_context()
    assert context is not None
    assert not context.check_hostname


@pytest.mark.parametrize("scheme", ["amqp", "amqps", "rabbit"])
def test_the_schemes_are_installed(scheme: str) -> None:
    transport = open_transport(f"{scheme}://broker", "orders")
    assert isinstance(transport, RabbitTransport)
    assert transport.config.name == "orders"
    assert transport.trouble == "not entered"
