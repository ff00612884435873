"""Topics: whether they exist and fit, a plan of what is missing, making it (`HasTopology`)."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from eventbus.errors import Finding, TransportError
from eventbus.transport import Change, Interest, Place
from eventbus_kafka.clients import HEADER_ROOM
from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control

log: logging.Logger = logging.getLogger("eventbus.kafka")

DEFAULT_PARTITIONS = 6
MISSING_CODES = {3, 17}


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What the broker says of one."""

    partitions: int
    replication: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKafkaTopic(Change):
    """A topic that does not exist."""

    topic: str
    partitions: int
    replication: int


class Topics:
    """Asks by the control client; keeps what it saw, to notice a changed partition count."""

    def __init__(self, config: KafkaConfig, control: Control) -> None:
        self._config = config
        self._control = control
        self._making = asyncio.Lock()

    async def find(self, names: Sequence[str]) -> Mapping[str, Topic]:
        """Those that exist.

        Raises:
            TransportError: EB2001, EB2302.
        """
        found = await self._control.describe_topics(names) if names else {}
        return {
            name: Topic(
                partitions=len(said["partitions"]),
                replication=min((len(p["replicas"]) for p in said["partitions"]), default=0),
            )
            for name, said in found.items()
            if said["error_code"] not in MISSING_CODES and said["partitions"]
        }

    async def ensure(self, name: str) -> bool:
        """Whether it exists now; made if this deployment provisions.

        Raises:
            TransportError: EB2001, EB2302, EB2314.
        """
        async with self._making:
            if name in await self.find([name]):
                return True
            if not self._config.provision:
                return False
            base, _, kind = name.rpartition(".")
            alike = base.rpartition(".")[0] if kind == "dlq" else ""
            like = (await self.find([alike])).get(alike) if alike else None
            await self.apply([await self._new(name, like)])
            return True

    async def plan(self, interests: Sequence[Interest]) -> Sequence[Change]:
        """The topics that groups want and the cluster lacks; of dead letters as many partitions.

        One with another partition count than declared is destructive to mend: keys would move.

        Raises:
            TransportError: EB2001, EB2302.
        """
        wanted = _wanted(interests)
        there = await self.find([*wanted, *filter(None, wanted.values())])
        changes: list[Change] = []
        for name, alike in wanted.items():
            if name not in there:
                changes.append(await self._new(name, there.get(alike or "")))
            elif self._differs(name, there[name], alike):
                said = _partitions(there[name].partitions)
                what = f"topic {name}: {said}, declared are {self._config.partitions}"
                changes.append(Change(what=f"delete and create {what}", destructive=True))
        return changes

    async def status(self, interests: Sequence[Interest]) -> Sequence[Place]:
        """Every topic that groups want.

        Raises:
            TransportError: EB2001, EB2302.
        """
        wanted = _wanted(interests)
        there = await self.find(list(wanted))
        return [self._place(name, there.get(name), alike) for name, alike in wanted.items()]

    def _place(self, name: str, topic: Topic | None, alike: str | None) -> Place:
        if topic is None:
            return Place(kind="topic", name=name, state="missing", what="does not exist")
        what = f"{_partitions(topic.partitions)}, replicated {topic.replication} times"
        if self._differs(name, topic, alike):
            what = f"{what}; declared are {_partitions(self._config.partitions or 0)}"
            return Place(kind="topic", name=name, state="different", what=what)
        return Place(kind="topic", name=name, state="there", what=what)

    def _differs(self, name: str, topic: Topic, alike: str | None) -> bool:
        """Of dead letters any count is right: a declared one is about topics with keys."""
        declared = self._config.partitions
        return alike is None and declared is not None and topic.partitions != declared

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make them, and wait until the cluster knows them; one that exists by now is fine.

        Raises:
            TransportError: EB2001, EB2302; EB2303, a change is destructive, and nothing was
                made; EB2314, the broker refused one.
        """
        for change in changes:
            if change.destructive:
                raise self._would_destroy(change)
        wanted = [change for change in changes if isinstance(change, NewKafkaTopic)]
        if not wanted:
            return
        made = [
            NewTopic(
                name=each.topic,
                num_partitions=each.partitions,
                replication_factor=each.replication,
                topic_configs=self._settings(each.replication),
            )
            for each in wanted
        ]
        answer = await self._control.admin_call(
            "create topics", lambda admin: admin.create_topics(made)
        )
        for name, code, *said in answer.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise self._refused(name, f"{for_code(code).__name__}: {said[0] if said else ''}")
        await self._appeared([each.topic for each in wanted])

    async def findings(self, interests: Sequence[Interest]) -> Sequence[Finding]:
        """What the cluster's answers mean for the promises."""
        names = topics_of(interests)
        there = await self.find(list(_wanted(interests)))
        settings = await self._settings_of(list(there))
        keyed = {name for each in interests if each.order == "key" for name in each.topics}
        return [
            *(_missing(name) for name in names if name not in there),
            *(
                finding
                for name, topic in there.items()
                for finding in self._judge(name, topic, settings.get(name, {}), name in keyed)
            ),
            *(
                _no_letters(each.group, name)
                for each in interests
                for name in each.dead_topics
                if name not in there
            ),
        ]

    def _judge(
        self, name: str, topic: Topic, settings: Mapping[str, str], keyed: bool
    ) -> Iterator[Finding]:
        declared = self._config.partitions
        if declared is not None and topic.partitions != declared:
            yield Finding(
                level="refuse" if keyed else "warn",
                code="EB2303",
                what=f"topic {name!r} has {topic.partitions} partitions, declared are {declared}",
                why="with another count keys move to other partitions, and lose their order there",
                next=f"let consumers read to the end, then declare partitions={topic.partitions}",
            )
        yield from _weaknesses(name, topic, settings)
        needed = self._config.max_body + HEADER_ROOM
        allowed = int(settings.get("max.message.bytes") or needed)
        if allowed < needed:
            yield Finding(
                level="warn",
                code="EB2311",
                what=f"topic {name!r} takes {allowed:,} bytes, a message may have {needed:,}",
                why="the broker refuses what is larger, and it stays in the outbox as failed",
                next=f"kafka-configs --alter --topic {name} --add-config max.message.bytes={needed}"
                " | a smaller max_body",
            )

    def _settings(self, replication: int) -> dict[str, str]:
        settings = {"max.message.bytes": str(self._config.max_body + HEADER_ROOM)}
        if replication >= 3:
            settings["min.insync.replicas"] = "2"
        return settings

    async def _new(self, name: str, like: Topic | None) -> NewKafkaTopic:
        partitions = like.partitions if like else self._config.partitions or DEFAULT_PARTITIONS
        replication = self._config.replication or min(3, await self._control.brokers())
        return NewKafkaTopic(
            what=f"create topic {name}: {partitions} partitions, {replication} replicas",
            destructive=False,
            topic=name,
            partitions=partitions,
            replication=replication,
        )

    async def _appeared(self, names: Sequence[str]) -> None:
        """Brokers learn of a topic one after the other."""
        try:
            async with asyncio.timeout(10):
                while set(names) - set(await self.find(names)):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise self._refused(", ".join(names), "made, but not seen within 10 s") from None

    async def _settings_of(self, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        if not names:
            return {}
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        answers: list[Any] = await self._control.admin_call(
            "describe settings", lambda admin: admin.describe_configs(wanted)
        )
        return {
            resource[3]: {entry[0]: entry[1] for entry in resource[4]}
            for answer in answers
            for resource in answer.resources
            if not resource[0]
        }

    def _would_destroy(self, change: Change) -> TransportError:
        return TransportError(
            "EB2303",
            f"not applied: {change.what}",
            where=self._config.where,
            why="what it holds would be lost, or its keys would move; nothing was changed",
            next="let consumers read to the end, then declare the partitions that it has",
        )

    def _refused(self, name: str, why: str) -> TransportError:
        return TransportError(
            "EB2314",
            f"topic {name} cannot be made",
            where=self._config.where,
            why=why,
            next="make it with Kafka's own tools, or mend replication= and partitions=",
        )


def topics_of(interests: Sequence[Interest]) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(topic for each in interests for topic in each.topics))


def _wanted(interests: Sequence[Interest]) -> dict[str, str | None]:
    """Topics, and for dead letters that whose partitions they get: keys keep their order there."""
    wanted: dict[str, str | None] = dict.fromkeys(topics_of(interests))
    for each in interests:
        wanted |= dict(zip(each.dead_topics, each.topics, strict=False))
    return wanted


def _partitions(count: int) -> str:
    return f"{count} partition{'' if count == 1 else 's'}"


def _no_letters(group: str, name: str) -> Finding:
    return Finding(
        level="refuse",
        code="EB2301",
        what=f"topic {name!r} does not exist: group {group!r} could not give up a message",
        why="without a storage what fails for good goes there, or it would be tried for ever",
        next="eventbus topology apply | provision=true | storage=",
    )


def _missing(name: str) -> Finding:
    return Finding(
        level="refuse",
        code="EB2301",
        what=f"topic {name!r} does not exist",
        why="its group would wait for ever, or the broker would make it with settings of its own",
        next="create it | eventbus topology apply | provision=true",
    )


def _weaknesses(name: str, topic: Topic, settings: Mapping[str, str]) -> Iterator[Finding]:
    in_sync = int(settings.get("min.insync.replicas") or 1)
    if topic.replication == 1:
        yield _weak(name, "one replica", "what was confirmed is gone with that broker's disk")
    elif in_sync < 2:
        yield _weak(
            name,
            "min.insync.replicas=1",
            "a message may be confirmed by one broker alone, and be lost with it",
        )
    if "compact" in settings.get("cleanup.policy", ""):
        yield _weak(name, "cleanup.policy=compact", "older events of a key are thrown away")


def _weak(name: str, setting: str, why: str) -> Finding:
    return Finding(
        level="warn",
        code="EB2310",
        what=f"topic {name!r} has {setting}",
        why=why,
        next="three replicas, min.insync.replicas=2, cleanup.policy=delete",
    )
