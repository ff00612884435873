"""What a configuration means for the promises: findings, pure."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from eventbus.errors import Finding
from eventbus.transport import Interest
from eventbus_rabbit.config import RabbitConfig
from eventbus_rabbit.errors import RefusedError
from eventbus_rabbit.subscription import prefetch_of
from eventbus_rabbit.topology import queues_of


def examined(config: RabbitConfig, interests: Sequence[Interest]) -> Iterator[Finding]:
    """From the configuration alone."""
    yield from _connection(config)
    for interest in interests:
        yield from _times(config, interest)
        yield from _history(interest)
        yield from _shards(config, interest)
        yield from _foreign(config, interest)
    for group in sorted(set(config.shards) - {interest.group for interest in interests}):
        yield Finding(
            level="warn",
            code="EB2207",
            what=f"shards are declared for group {group!r}, which is not among the groups",
            why="they would be a slip of the pen: the group keeps one queue",
            next="mend the name in shards=",
        )


def _connection(config: RabbitConfig) -> Iterator[Finding]:
    if not config.tls and not config.is_local:
        yield Finding(
            level="warn",
            code="EB2208",
            what=f"the connection to {config.host} is not encrypted",
            why="user, password and bodies can be read on the way",
            next="take amqps://, with ca_file= if the authority is your own",
        )
    if config.tls and not config.verify:
        yield Finding(
            level="warn",
            code="EB2208",
            what=f"the certificate of {config.host} is not checked",
            why="whoever sits in between can read and change everything",
            next="take verify=false out, and name the authority with ca_file=",
        )


def _times(config: RabbitConfig, interest: Interest) -> Iterator[Finding]:
    broker, group = config.consumer_timeout, interest.group
    why = "the broker closes the channel and hands everything on it to others while it still runs"
    if interest.timeout >= broker:
        yield Finding(
            level="refuse",
            code="EB1104",
            what=f"group {group!r} is unsafe: its timeout of {_s(interest.timeout)} is not below "
            f"the broker's consumer_timeout of {_s(broker)}",
            why=why,
            next="lower the timeout, or hand long work to a job table",
        )
        return
    held = prefetch_of(interest, config) * len(queues_of(interest, config))
    longest = held * interest.timeout / max(1, interest.lanes)
    if longest > broker / 2:
        yield Finding(
            level="refuse",
            code="EB1104",
            what=f"group {group!r} is unsafe: {held} messages x {_s(interest.timeout)} / "
            f"{interest.lanes} lanes = {_s(longest)}, more than half of consumer_timeout "
            f"{_s(broker)}",
            why=f"what waits in our lanes counts as unacknowledged there; {why}",
            next="lower prefetch or timeout, or take more lanes",
        )
    mib = held * config.max_body / (1 << 20)
    yield Finding(
        level="say",
        code="EB2209",
        what=f"group {group!r} holds at most {held} messages, {mib:,.0f} MiB in the worst case",
        why="RabbitMQ bounds what is under way by count only",
        next="lower prefetch if that is too much",
    )


def _history(interest: Interest) -> Iterator[Finding]:
    if interest.start == "latest":
        yield Finding(
            level="warn",
            code="EB1107",
            what=f'group {interest.group!r} has start="latest"',
            why="on RabbitMQ a queue begins with its group anyway: it never sees earlier messages",
            next="nothing, or take start= out",
        )
    else:
        yield Finding(
            level="say",
            code="EB2210",
            what=f"group {interest.group!r} sees what is published since its queue exists",
            why="RabbitMQ keeps no history; a type that no group wants is refused when published",
            next="start a new group before its publishers, once",
        )


def _shards(config: RabbitConfig, interest: Interest) -> Iterator[Finding]:
    if interest.group not in config.shards:
        return
    if interest.order == "none":
        yield Finding(
            level="warn",
            code="EB2207",
            what=f"group {interest.group!r} asks for no order: its shards are ignored",
            why="members share one queue without order",
            next='take its shards out, or order="key"',
        )
        return
    yield Finding(
        level="say",
        code="EB2207",
        what=f"group {interest.group!r} has {config.shards[interest.group]} shards, by key",
        why="messages without a key all go to one of them; changing the number moves keys",
        next="give every type of the group a key",
    )


def _foreign(config: RabbitConfig, interest: Interest) -> Iterator[Finding]:
    for exchange in interest.topics:
        if exchange in config.foreign:
            yield Finding(
                level="say",
                code="EB2211",
                what=f"group {interest.group!r}: duplicates possible of messages from {exchange!r}",
                why="what is no CloudEvent is known by its message_id; without one each delivery "
                "is a message of its own",
                next="let its publishers set message_id, the same when they send again",
            )


def refused(interest: Interest, error: RefusedError) -> Finding:
    """What the broker said to the topology of a group."""
    return Finding(
        level="refuse",
        code=error.code,
        what=f"group {interest.group!r}: {error.what}",
        why=error.why,
        next=error.next,
    )


def _s(time: timedelta) -> str:
    return f"{time.total_seconds():,.0f} s"
