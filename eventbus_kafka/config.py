"""What a deployment decides about Kafka: frozen, also from a URL; unsafe mixes are refused."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from aiokafka.abc import AbstractTokenProvider

from eventbus.errors import ConfigurationError, UnsafeConfigurationError

PORT = 9092
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
COMPRESSIONS = ("gzip", "snappy", "lz4", "zstd")

FIXED = {
    # what other clients let one set: here it would break a promise
    "acks": "every publish waits for all in-sync replicas",
    "auto_offset_reset": "Group(start=…) says where a new group begins, on_data_loss= the rest",
    "enable_auto_commit": "offsets are committed behind the group's own verdicts only",
    "enable_idempotence": "it is always on",
    "group_id": "the group of a handler is the group at the broker",
    "isolation_level": "aborted records never become events",
    "partition_assignment_strategy": "one sticky assignor for each consumer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """How to reach a cluster, and what its clients may do there.

    Durations are in seconds, sizes in bytes.

    Raises:
        ConfigurationError: EB1006, a value cannot be understood.
        UnsafeConfigurationError: EB2304, passwords or data would cross a network in the clear;
            EB2305, time-outs that let members of a group evict each other.
    """

    servers: tuple[str, ...]  # "host:port"
    service: str = ""  # the client id that brokers show
    tls: bool = False
    ssl_context: ssl.SSLContext | None = None  # instead of the three files
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: Mechanism = "SCRAM-SHA-512"  # used with a username or a token provider
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token_provider: AbstractTokenProvider | None = field(default=None, repr=False)
    insecure: bool = False  # plaintext beyond loopback

    provision: bool = False  # create topics that do not exist
    partitions: int | None = None  # of each topic: declared, so that a change is noticed
    replication: int | None = None  # of a topic that is created; None: the broker's default
    max_body: int = 1 << 20
    compression: str | None = None
    foreign: Mapping[str, str] = field(
        default_factory=dict
    )  # topic -> type of what is no CloudEvent
    cluster: str = ""  # name of the cluster in ids of foreign messages; default: the first server

    group_instance_id: str | None = None  # static membership: the stable name of this process
    on_data_loss: Literal["stop", "earliest"] = "stop"
    session_seconds: float = 0.0  # 0: 15, with static membership 45
    heartbeat_seconds: float = 3.0
    rebalance_seconds: float = 60.0  # until then what runs must have ended when members change
    request_seconds: float = 70.0
    commit_seconds: float = 1.0
    max_held_bytes: int = 64 << 20
    max_gap: int = 10_000  # offsets above the first one without a verdict
    max_gap_seconds: float = 60.0
    silence_seconds: float = 30.0  # without progress while there is work: a new consumer

    publish_seconds: float = 10.0
    connect_seconds: float = 10.0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def authenticates(self) -> bool:
        """Whether clients say who they are by SASL."""
        return self.username is not None or self.token_provider is not None

    @property
    def security_protocol(self) -> str:
        """As Kafka calls it."""
        if self.authenticates:
            return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"
        return "SSL" if self.tls else "PLAINTEXT"

    @property
    def session_timeout_seconds(self) -> float:
        """After so long without a heartbeat a member is thrown out."""
        if self.session_seconds:
            return self.session_seconds
        return 15.0 if self.group_instance_id is None else 45.0

    @property
    def where(self) -> str:
        """The cluster in messages: no secrets."""
        return f"kafka://{','.join(self.servers)}"

    @property
    def cluster_name(self) -> str:
        """In ids of foreign messages."""
        return self.cluster or self.servers[0]

    def tls_context(self) -> ssl.SSLContext | None:
        """None without TLS; reads the files.

        Raises:
            ConfigurationError: EB1006, a file cannot be read.
        """
        if not self.tls:
            return None
        if self.ssl_context is not None:
            return self.ssl_context
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except OSError as error:
            raise _unclear(self.where, f"TLS files: {error}") from error
        return context

    @classmethod
    def from_url(cls, url: str, service: str = "") -> Self:
        """`kafka://[user:password@]host[:port][,host[:port]…][?option=value&…]`.

        Options are the fields of this class, durations and sizes as numbers, `true` and `false`;
        `foreign=topic:type,topic:type`.

        Raises:
            ConfigurationError: EB1006, something in it cannot be understood.
            UnsafeConfigurationError: EB2304, EB2305, as of the class.
        """
        parts = urlsplit(url)
        place = f"kafka://{parts.netloc.rpartition('@')[2]}"
        if parts.path.strip("/"):
            raise _unclear(place, "topics are named by events and groups, not by the URL")
        login, _, hosts = parts.netloc.rpartition("@")
        user, colon, password = login.partition(":")
        given: dict[str, Any] = {"servers": _servers(hosts), "service": service}
        if user:
            given["username"] = unquote(user)
            given["password"] = unquote(password) if colon else None
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            given[name] = _option(place, name, text)
        return cls(**given)


def _servers(hosts: str) -> tuple[str, ...]:
    names = [host for host in hosts.split(",") if host]
    return tuple(name if _has_port(name) else f"{name}:{PORT}" for name in names)


def _has_port(name: str) -> bool:
    return name.rpartition("]")[2].rpartition(":")[2].isdecimal() and ":" in name


_HIDDEN = {"servers", "ssl_context", "token_provider", "username", "password", "service"}


def _option(place: str, name: str, text: str) -> object:
    if name in FIXED:
        raise UnsafeConfigurationError(
            "EB2305",
            f"{name}={text} is not up to a deployment",
            where=place,
            why=FIXED[name],
            next=f"take {name} out of the URL",
        )
    read = _READ.get(name)
    if read is None:
        raise _unclear(place, f"there is no option {name!r}; there are {', '.join(_READ)}")
    try:
        return read(text)
    except (KeyError, ValueError):
        raise _unclear(place, f"{name}={text} is no value of that option") from None


def _mapping(text: str) -> Mapping[str, str]:
    pairs = [pair.partition(":") for pair in text.split(",") if pair]
    if not all(all(pair) for pair in pairs):
        raise ValueError(text)
    return MappingProxyType({topic: name for topic, _, name in pairs})


def _sasl(text: str) -> str:
    if text.upper() not in MECHANISMS:
        raise ValueError(text)
    return text.upper()


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_BY_TYPE: Mapping[object, Callable[[str], object]] = {
    bool: lambda text: _TRUTH[text.lower()],
    int: int,
    float: float,
    int | None: int,
}
_READ: Mapping[str, Callable[[str], object]] = {
    each.name: _BY_TYPE.get(each.type, str)
    for each in fields(KafkaConfig)
    if each.name not in _HIDDEN
} | {"foreign": _mapping, "sasl_mechanism": _sasl}


def _check(config: KafkaConfig) -> None:
    place = config.where
    for is_wrong, why in (
        (not config.servers, "no host is named"),
        (
            any(each.rpartition("]")[2].count(":") > 1 for each in config.servers),
            "a port is a number, and an address with colons stands in brackets",
        ),
        (config.max_body < 1, "max_body must be positive"),
        (config.partitions is not None and config.partitions < 1, "a topic needs a partition"),
        (config.replication is not None and config.replication < 1, "a topic needs a replica"),
        (config.on_data_loss not in {"stop", "earliest"}, "on_data_loss is stop or earliest"),
        (
            config.compression is not None and config.compression not in COMPRESSIONS,
            f"compression is one of {', '.join(COMPRESSIONS)}",
        ),
        (config.username is not None and config.password is None, "a user needs a password"),
        (
            (config.sasl_mechanism == "OAUTHBEARER")
            != (config.token_provider is not None and config.username is None)
            and config.authenticates,
            "OAUTHBEARER goes with a token_provider, the others with a user and a password",
        ),
        (
            not config.tls and bool(config.ca_file or config.certificate_file or config.key_file),
            "certificates are given, but not tls=true",
        ),
        (config.key_file is not None and config.certificate_file is None, "a key, no certificate"),
        (min(_durations(config)) <= 0, "durations must be positive"),
    ):
        if is_wrong:
            raise _unclear(place, why)
    _check_network(config, place)
    _check_times(config, place)


def _durations(config: KafkaConfig) -> list[float]:
    return [
        config.session_timeout_seconds,
        config.heartbeat_seconds,
        config.rebalance_seconds,
        config.request_seconds,
        config.commit_seconds,
        config.max_gap_seconds,
        config.silence_seconds,
        config.publish_seconds,
        config.connect_seconds,
    ]


def _check_network(config: KafkaConfig, place: str) -> None:
    if config.tls or config.insecure:
        return
    if far := [server for server in config.servers if not _is_loopback(server)]:
        raise UnsafeConfigurationError(
            "EB2304",
            f"Kafka at {', '.join(far)} without TLS",
            where=place,
            why="passwords and data would cross a network in the clear",
            next="tls=true, with ca_file= for a private authority; or insecure=true",
        )


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_times(config: KafkaConfig, place: str) -> None:
    session = config.session_timeout_seconds
    for is_wrong, what, why in (
        (
            config.request_seconds <= config.rebalance_seconds,
            f"request_seconds {config.request_seconds:g} is not above rebalance_seconds "
            f"{config.rebalance_seconds:g}",
            "a join is answered when the slowest member is ready: it would time out and start anew",
        ),
        (
            config.heartbeat_seconds * 3 > session,
            f"heartbeat_seconds {config.heartbeat_seconds:g} is more than a third of the session "
            f"timeout {session:g}",
            "one late heartbeat would throw a living member out of its group",
        ),
    ):
        if is_wrong:
            raise UnsafeConfigurationError(
                "EB2305", what, where=place, why=why, next="take the defaults, or mend the ratio"
            )


def _unclear(place: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        "EB1006",
        "the options of the transport cannot be understood",
        where=place,
        why=why,
        next="kafka://[user:password@]host[:port][,host…]?tls=true&provision=true "
        "(docs: how-to/kafka)",
    )
