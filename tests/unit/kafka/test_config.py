"""What a deployment may decide, and what is refused."""

import ssl
import sys

import pytest

from eventbus.errors import ConfigurationError, UnsafeConfigurationError
from eventbus.transport import Interest, open_transport
from eventbus_kafka import KafkaConfig, KafkaTransport
from eventbus_kafka.clients import consumer, producer


def test_a_url_names_hosts_user_and_options() -> None:
    config = KafkaConfig.from_url(
        "kafka://us%40er:p%3Ass@one,two:9093,[::1]:9094/?tls=true&sasl_mechanism=scram-sha-256"
        "&provision=true&partitions=12&replication=3&heartbeat_seconds=0.5"
        "&foreign=legacy:legacy.placed,old:old.gone&group_instance_id=pod-1",
        "billing",
    )
    assert config.servers == ("one:9092", "two:9093", "[::1]:9094")
    assert (config.username, config.password) == ("us@er", "p:ss")
    assert config.security_protocol == "SASL_SSL"
    assert config.sasl_mechanism == "SCRAM-SHA-256"
    assert (config.provision, config.partitions, config.replication) == (True, 12, 3)
    assert config.heartbeat_seconds == 0.5
    assert config.foreign == {"legacy": "legacy.placed", "old": "old.gone"}
    assert config.session_timeout_seconds == 45
    assert config.service == "billing"


def test_the_defaults_are_those_that_keep_promises() -> None:
    config = KafkaConfig.from_url("kafka://localhost")
    assert config.servers == ("localhost:9092",)
    assert config.security_protocol == "PLAINTEXT"
    assert config.session_timeout_seconds == 15
    assert not config.provision
    assert config.on_data_loss == "stop"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "kafka://localhost/shop",
        "kafka://localhost?colour=red",
        "kafka://localhost?provision=perhaps",
        "kafka://localhost?partitions=many",
        "kafka://localhost?partitions=0",
        "kafka://localhost?replication=0",
        "kafka://localhost?compression=rar",
        "kafka://localhost?on_data_loss=panic",
        "kafka://localhost?foreign=legacy",
        "kafka://localhost?max_body=0",
        "kafka://localhost?publish_seconds=0",
        "kafka://user@localhost?tls=true",
        "kafka://user:secret@localhost?tls=true&sasl_mechanism=magic",
        "kafka://user:secret@localhost?tls=true&sasl_mechanism=oauthbearer",
        "kafka://localhost?ca_file=/etc/ca.pem",
        "kafka://localhost?tls=true&key_file=/etc/key.pem",
    ],
)
def test_what_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KafkaConfig.from_url(url)
    assert refused.value.code == "EB1006"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["kafka://broker.example", "kafka://user:secret@10.0.0.1:9092"])
def test_plaintext_beyond_loopback_is_refused(url: str) -> None:
    with pytest.raises(UnsafeConfigurationError) as refused:
        KafkaConfig.from_url(url)
    assert refused.value.code == "EB2304"
    assert "secret" not in str(refused.value)
    assert KafkaConfig.from_url(f"{url}?insecure=true").insecure


@pytest.mark.parametrize("url", ["kafka://localhost", "kafka://127.0.0.9:1", "kafka://[::1]:1"])
def test_plaintext_on_loopback_is_fine(url: str) -> None:
    assert not KafkaConfig.from_url(url).tls


@pytest.mark.parametrize(
    "option",
    [
        "acks=1",
        "enable_auto_commit=true",
        "auto_offset_reset=latest",
        "isolation_level=read_uncommitted",
        "partition_assignment_strategy=range",
        "request_seconds=60",
        "heartbeat_seconds=6",
        "heartbeat_seconds=1&session_seconds=2",
    ],
)
def test_what_would_break_a_promise_is_refused(option: str) -> None:
    with pytest.raises(UnsafeConfigurationError) as refused:
        KafkaConfig.from_url(f"kafka://localhost?{option}")
    assert refused.value.code == "EB2305"


def test_a_password_shows_nowhere() -> None:
    config = KafkaConfig.from_url("kafka://user:secret@localhost?tls=true")
    assert "secret" not in repr(config)
    assert "secret" not in config.where


def test_tls_files_that_cannot_be_read_are_refused() -> None:
    config = KafkaConfig(servers=("localhost:1",), tls=True, ca_file="nowhere.pem")
    with pytest.raises(ConfigurationError) as refused:
        config.tls_context()
    assert refused.value.code == "EB1006"


def test_a_context_given_is_the_one_used() -> None:
    context = ssl.create_default_context()
    config = KafkaConfig(servers=("far.example:1",), tls=True, ssl_context=context)
    assert config.tls_context() is context
    assert KafkaConfig(servers=("localhost:1",)).tls_context() is None


def test_the_entry_point_makes_one_that_is_not_connected() -> None:
    transport = open_transport("kafka://localhost:1", "billing")
    assert isinstance(transport, KafkaTransport)
    assert transport.trouble == "not entered"
    assert transport.capabilities.durable
    assert transport.capabilities.stops_at_refusal
    assert not transport.capabilities.filters_types


async def test_a_handler_that_outlasts_a_rebalance_is_refused() -> None:
    transport = KafkaTransport(KafkaConfig(servers=("localhost:1",), rebalance_seconds=40))
    interest = Interest(group="billing", topics=("shop",), types=())
    found = await transport.examine([interest])
    assert [(each.level, each.code) for each in found] == [("refuse", "EB2305")]
    calm = KafkaTransport(KafkaConfig(servers=("localhost:1",)))
    assert await calm.examine([interest]) == []


async def test_records_that_are_read_in_python_are_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aiokafka.record._crecords", None)
    transport = KafkaTransport(KafkaConfig(servers=("localhost:1",)))
    found = await transport.examine([Interest(group="billing", topics=("shop",), types=())])
    assert [(each.level, each.code) for each in found] == [("warn", "EB2313")]


async def test_every_unsafe_default_of_the_client_is_set() -> None:
    config = KafkaConfig(servers=("localhost:1",), group_instance_id="pod-1")
    joined, written = consumer(config, "billing"), producer(config)
    member, writer = vars(joined), vars(written)
    assert member["_enable_auto_commit"] is False
    assert member["_auto_offset_reset"] == "none"
    assert member["_isolation_level"] == "read_committed"
    assert member["_session_timeout_ms"] == 45_000
    assert member["_request_timeout_ms"] > member["_rebalance_timeout_ms"]
    assert member["_max_partition_fetch_bytes"] >= config.max_body + (64 << 10)
    assert member["_group_instance_id"] == "pod-1"
    assert vars(writer["_sender"])["_acks"] == -1
    assert writer["_txn_manager"] is not None
    assert writer["_txn_manager"].transactional_id is None
    await joined.stop()
    await written.stop()


async def test_two_members_of_a_process_do_not_share_the_state_of_the_assignor() -> None:
    config = KafkaConfig(servers=("localhost:1",))
    made = [consumer(config, group) for group in ("one", "two")]
    (one,), (two,) = (vars(each)["_partition_assignment_strategy"] for each in made)
    assert one is not two
    assert one.name == two.name == "sticky"
    for each in made:
        await each.stop()
