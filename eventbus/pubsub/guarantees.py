"""What each group is promised under this configuration, as findings; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from eventbus.errors import Finding
from eventbus.handler import Group

GRACE = timedelta(seconds=25)
DRAIN_REST = timedelta(seconds=12)  # of the grace, for everything but running handlers
INBOX_DAYS = 7
IDLE_MARGIN = timedelta(seconds=15)  # as 45 s is above the timeout of 30 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the report needs to know of a bus."""

    has_storage: bool
    storage_durable: bool
    transport_durable: bool
    memory: bool
    service: str | None
    longest_idle: timedelta | None = None  # of a transaction, before the database ends it


def findings_of(groups: Iterable[Group], setting: Setting) -> Sequence[Finding]:
    """The lines about the wiring, group by group."""
    found: list[Finding] = []
    if setting.service is None and not setting.memory:
        found.append(
            Finding(
                level="refuse",
                code="EB1114",
                what="the bus has no service= name",
                why="it is the source of every message, and ids are unique per source only",
                next='EventBus(…, service="shop")',
            )
        )
    for group in groups:
        found += [
            _effect(group, setting),
            _order(group, setting),
            *_timeout(group),
            *_idle(group, setting),
            *_start(group, setting),
        ]
    return found


def _effect(group: Group, setting: Setting) -> Finding:
    if setting.has_storage and group.transactional:
        lasting = "" if setting.storage_durable else ", as long as this process lives"
        return Finding(
            level="say",
            code="EB1102",
            what=f"group {group.name!r}: effect exactly once, for {INBOX_DAYS} days{lasting}",
            why="inbox row, the handler's SQL and what it publishes are one commit",
            next="keep effects in ctx.sql and ctx.publish",
        )
    why = "the group says transactional=False" if setting.has_storage else "there is no storage"
    return Finding(
        level="say",
        code="EB1103",
        what=f"group {group.name!r}: effect at least once",
        why=f"{why}; a crash between effect and acknowledgement repeats it",
        next="hand ctx.idempotency_key to what the handler calls",
    )


def _order(group: Group, setting: Setting) -> Finding:
    if group.order == "none":
        return Finding(
            level="say",
            code="EB1116",
            what=f"group {group.name!r}: no order",
            why='it says order="none": single messages are parked, nothing waits behind them',
            next='leave order= at "key" where order matters',
        )
    if setting.has_storage or group.on_give_up == "block":
        return Finding(
            level="say",
            code="EB1112",
            what=f"group {group.name!r}: order per key, through retries and dead letters",
            why="a key is parked with its message, and redrive releases it in sequence"
            if setting.has_storage
            else 'a key is retried for ever: on_give_up="block"',
            next="nothing to do",
        )
    return Finding(
        level="say",
        code="EB1112",
        what=f"group {group.name!r}: order per key ends at a dead letter",
        why="without a storage later messages of the key go on past it",
        next='add a storage, or Group(…, on_give_up="block")',
    )


def _timeout(group: Group) -> Iterable[Finding]:
    share = GRACE - DRAIN_REST
    if group.timeout <= share or group.timeout == Group("default").timeout:
        return ()
    return (
        Finding(
            level="warn",
            code="EB1106",
            what=f"group {group.name!r}: timeout {group.timeout} is longer than its share"
            f" of the drain, {share}",
            why="a handler that still runs then is cancelled, and its message delivered again",
            next="lower Group(timeout=…), or raise --grace",
        ),
    )


def _idle(group: Group, setting: Setting) -> Iterable[Finding]:
    """A handler that waits longer than the database does would be cut and run again, for ever."""
    longest = setting.longest_idle
    if longest is None or not group.transactional or group.timeout < longest:
        return ()
    wanted = int((group.timeout + IDLE_MARGIN).total_seconds())
    return (
        Finding(
            level="refuse",
            code="EB1123",
            what=f"group {group.name!r}: timeout {group.timeout}, and the database ends a"
            f" transaction that is silent for {longest}",
            why="a handler that waits for something else meanwhile loses its transaction at every"
            " attempt, and is no failure that could be parked",
            next=f"transactional=False for work outside the database, or ?idle={wanted} in the URL"
            " of the storage",
        ),
    )


def _start(group: Group, setting: Setting) -> Iterable[Finding]:
    if group.start == "earliest":
        return ()
    return (
        Finding(
            level="warn",
            code="EB1107",
            what=f"group {group.name!r}: history before its first start is skipped",
            why='it says start="latest"',
            next='start="earliest", unless that is what you want',
        ),
    )
