"""What the bus says about itself: health, description, the guarantee report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eventbus.bus.sagas import linted, without_storage
from eventbus.codec import Registry
from eventbus.errors import Finding, UnsafeConfigurationError
from eventbus.event import TypedMessage
from eventbus.pubsub.guarantees import Setting, findings_of
from eventbus.pubsub.routes import Routes
from eventbus.saga.definition import Definition as SagaDefinition
from eventbus.saga.family import Family
from eventbus.sourcing.definition import Definition
from eventbus.storage import Storage
from eventbus.transport import Addresses, HasAddresses, Interest, Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What /livez and /readyz answer, and why not."""

    live: bool
    ready: bool
    causes: Sequence[str]
    services: Mapping[str, str]  # "consumer:billing" -> "running", "paused by an operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the bus is made of, and what it promises: printed by `describe` and `guarantees`."""

    service: str | None
    transport: str
    storage: str | None
    groups: Mapping[str, Routes]
    types: Registry
    findings: Sequence[Finding]
    interests: Sequence[Interest] = ()  # what the broker must know of the groups
    sagas: Sequence[SagaDefinition] = ()  # every version that was handed over
    own: frozenset[type[TypedMessage]] = frozenset()  # handed over as such, or read from its log
    addresses: Addresses | None = None  # where others find it; None: nothing outside the process


async def findings_about(
    transport: Transport,
    storage: Storage | None,
    groups: Mapping[str, Routes],
    *,
    service: str | None,
    scheme: str,
    projections: Mapping[str, Definition],
    sagas: Mapping[str, Family],
) -> list[Finding]:
    """The guarantee report: about the wiring, the sagas, from the transport, from the storage."""
    setting = Setting(
        has_storage=storage is not None,
        storage_durable=storage is not None and storage.capabilities.durable,
        transport_durable=transport.capabilities.durable,
        memory=scheme == "memory",
        service=service,
        longest_idle=None if storage is None else storage.capabilities.longest_idle,
    )
    return [
        *findings_of((routes.group for routes in groups.values()), setting),
        *linted(sagas, groups),
        *await transport.examine(interests_of(groups, storage)),
        *(lost(projections, sagas) if storage is None else await storage.examine()),
    ]


def interests_of(groups: Mapping[str, Routes], storage: Storage | None) -> Sequence[Interest]:
    """What the broker must know of all groups."""
    return [routes.interest(letters=storage is None) for routes in groups.values()]


def lost(projections: Mapping[str, Definition], sagas: Mapping[str, Family]) -> Iterable[Finding]:
    """EB1264, EB7065: what has no place without a storage."""
    yield from without_storage(sagas)
    if projections:
        yield Finding(
            level="refuse",
            code="EB1264",
            what=f"projection {next(iter(projections))!r} on a bus without a storage",
            why="the log that it follows and the rows that it writes stand in the storage",
            next='EventBus(…, storage="sqlite:///app.db")',
        )


def addresses_of(transport: Transport) -> Addresses | None:
    """What an adapter tells others of itself; None where it does not."""
    return transport.addresses if isinstance(transport, HasAddresses) else None


def refuse_unsafe(findings: Iterable[Finding], *, strict: bool) -> None:
    """Raise for the first finding that refuses; under `strict` for a warning too.

    Raises:
        UnsafeConfigurationError: with the finding's code, or EB1101 for a warning.
    """
    for finding in findings:
        if finding.level == "refuse":
            raise UnsafeConfigurationError(
                finding.code,
                finding.what,
                where="entering the bus",
                why=finding.why,
                next=finding.next,
            )
        if strict and finding.level == "warn":
            raise UnsafeConfigurationError(
                "EB1101",
                finding.what,
                where="EventBus(…, strict=True)",
                why=f"{finding.code}: {finding.why}",
                next=finding.next,
            )


def scheme_of(adapter: object) -> str:
    """What an adapter is called in origins, metrics and reports: the scheme of its URL."""
    if isinstance(adapter, str):
        scheme = adapter.partition("://")[0]
        return "rabbit" if scheme.startswith("amqp") else scheme
    while hasattr(adapter, "inner"):  # what tests wrap around it
        adapter = adapter.inner
    name = type(adapter).__name__.lower()
    return name.removesuffix("transport").removesuffix("storage") or name
