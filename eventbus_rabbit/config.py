"""What a deployment decides: frozen, checked when made, also from a URL."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from eventbus.errors import ConfigurationError

PORTS = {"amqp": 5672, "rabbit": 5672, "amqps": 5671}
FRAME_BUFFER = 1024  # frames per channel; the client's 10 stalls the reader for all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitConfig:
    """One broker, or one address of a cluster, and how it is used.

    Args:
        tls: the connection is encrypted; `ca_file`, `cert_file` and `key_file` are paths to PEM
            files, without `ca_file` the authorities of the system count.
        verify: False takes any certificate; for tests only, the guarantee report warns.
        heartbeat: seconds; a dead peer is found after (heartbeat + 1) x 3.
        prefetch: messages that a group holds in this process, at most; `Interest.max_in_flight`
            may lower it. They count as unacknowledged, so `consumer_timeout` bounds it.
        consumer_timeout: that of the broker, which it does not tell.
        window: messages in flight on each of `publish_channels`.
        spread_interval: how often members of a group with shards announce themselves.
        shards: group -> so many queues, one consumer each; only for groups ordered by key.
        foreign: exchange -> type of messages from there that are no CloudEvents. Whoever publishes
            there makes the exchange, topic or fanout; groups that want the type get all of it.
        allow_unrouted: types, or "audit.*", that are published though nobody is bound to them.
        declare: False asks the broker only whether exchanges and queues are there, for users
            without the right to configure.

    Raises:
        ConfigurationError: EB1006, a value cannot be used.
    """

    host: str = "localhost"
    port: int = 5672
    vhost: str = "/"
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    name: str = "eventbus"
    heartbeat: int = 10
    connect_timeout: timedelta = timedelta(seconds=10)
    publish_timeout: timedelta = timedelta(seconds=10)
    consumer_timeout: timedelta = timedelta(minutes=30)
    spread_interval: timedelta = timedelta(seconds=10)
    max_body: int = 1 << 20
    prefetch: int = 200
    window: int = 256
    publish_channels: int = 2
    shards: Mapping[str, int] = field(default_factory=dict[str, int])
    foreign: Mapping[str, str] = field(default_factory=dict[str, str])
    allow_unrouted: tuple[str, ...] = ()
    declare: bool = True

    def __post_init__(self) -> None:
        for what, low, high in (
            ("port", 1, 65_535),
            ("heartbeat", 1, 600),
            ("max_body", 1, 128 << 20),
            ("prefetch", 1, 65_535),
            ("window", 1, 4_096),
            ("publish_channels", 1, 64),
        ):
            if not low <= getattr(self, what) <= high:
                raise unclear(f"{what}={getattr(self, what)}", f"it is {low} to {high}")
        for what in ("connect_timeout", "publish_timeout", "consumer_timeout", "spread_interval"):
            if getattr(self, what) <= timedelta(0):
                raise unclear(f"{what}={getattr(self, what)}", "it must be above zero")
        for group, count in self.shards.items():
            if not 1 <= count <= 256:
                raise unclear(f"shards={group}:{count}", "a group has 1 to 256 shards")
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise unclear("a certificate without TLS", "amqp:// and rabbit:// are not encrypted")

    @property
    def place(self) -> str:
        """Host, port and virtual host, for error texts: no secrets."""
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{self.host}:{self.port}/{quote(self.vhost, safe='')}"

    @property
    def address(self) -> str:
        """For the client: with the password."""
        scheme = "amqps" if self.tls else "amqp"
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            f"{scheme}://{login}@{host}:{self.port}/{quote(self.vhost, safe='')}"
            f"?heartbeat={self.heartbeat}"
        )

    @property
    def is_local(self) -> bool:
        """The broker is on this machine."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def ssl_context(self) -> ssl.SSLContext | None:
        """For the connection; reads the files, so it may block for some milliseconds.

        Raises:
            ConfigurationError: EB1006, a file cannot be read.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            raise unclear("a certificate", str(error)) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @classmethod
    def from_url(cls, url: str, service: str = "") -> "RabbitConfig":
        """`amqp://user:password@host:5672/vhost?prefetch=100&shards=billing:8`.

        Schemes `amqp` and `rabbit` are plain, `amqps` is TLS. An empty path is the virtual host
        "/". Durations are in seconds.

        Raises:
            ConfigurationError: EB1006, an option is not known or its value cannot be used.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise unclear("the address", str(error)) from error
        if parts.scheme not in PORTS:
            raise unclear(f"scheme {parts.scheme!r}", "it is amqp, amqps or rabbit")
        values: dict[str, Any] = {
            "host": parts.hostname or "localhost",
            "port": port or PORTS[parts.scheme],
            "vhost": unquote(parts.path[1:]) or "/",
            "tls": parts.scheme == "amqps",
            "name": service or "eventbus",
        }
        if parts.username is not None:
            values |= {"user": unquote(parts.username), "password": unquote(parts.password or "")}
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            if name not in OPTIONS:
                raise unclear(f"option {name!r}", f"known are {', '.join(sorted(OPTIONS))}")
            try:
                values[name] = OPTIONS[name](text)
            except ValueError as error:
                raise unclear(f"{name}={text}", str(error)) from error
        return cls(**values)


def unclear(what: str, why: str) -> ConfigurationError:
    """EB1006."""
    return ConfigurationError(
        "EB1006",
        f"the configuration of RabbitMQ cannot be used: {what}",
        where="the URL of the transport, or RabbitConfig",
        why=why,
        next="mend it: amqp://user:password@host:5672/vhost?prefetch=200&heartbeat=10",
    )


def _switch(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("it is true or false")
    return text == "true"


def _seconds(text: str) -> timedelta:
    return timedelta(seconds=float(text))


def _shards(text: str) -> Mapping[str, int]:
    pairs = (part.rpartition(":") for part in text.split(",") if part)
    return MappingProxyType({group: int(count) for group, _, count in pairs})


def _foreign(text: str) -> Mapping[str, str]:
    pairs = [part.rpartition(":") for part in text.split(",") if part]
    if not all(exchange and name for exchange, _, name in pairs):
        raise ValueError("it is exchange:type, several by comma")
    return MappingProxyType({exchange: name for exchange, _, name in pairs})


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


OPTIONS: Mapping[str, Callable[[str], object]] = {
    "ca_file": str,
    "cert_file": str,
    "key_file": str,
    "verify": _switch,
    "heartbeat": int,
    "connect_timeout": _seconds,
    "publish_timeout": _seconds,
    "consumer_timeout": _seconds,
    "spread_interval": _seconds,
    "max_body": int,
    "prefetch": int,
    "window": int,
    "publish_channels": int,
    "shards": _shards,
    "foreign": _foreign,
    "allow_unrouted": _names,
    "declare": _switch,
}
