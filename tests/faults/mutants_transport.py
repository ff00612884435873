"""Named faults of the memory transport, each a patch of one seam; every one breaks a promise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import pytest

from eventbus.errors import Confirmed, PublishError, PublishResult
from eventbus.memory import MemoryBroker, MemoryTransport, transport
from eventbus.memory.channel import Channel, Entry
from eventbus.memory.cursor import Cursor
from eventbus.memory.history import PartitionLog
from eventbus.memory.log import LogGroup, LogStyle
from eventbus.memory.queue import QueueGroup
from eventbus.memory.subscription import MemoryDelivery, MemorySubscription
from eventbus.memory.watermark import Watermark
from eventbus.message import Message
from eventbus.transport import Delivery, Interest, OnLost

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """What is broken, and which test of the suite must turn red."""

    name: str
    caught_by: str
    apply: Patch
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    style: Literal["log", "queue"] = "log"
    stepwise: bool = False


MUTANTS: list[Mutant] = []


def mutant(caught_by: str, **where: Any) -> Callable[[Patch], Patch]:
    def register(apply: Patch) -> Patch:
        name = apply.__name__.replace("_", " ")
        MUTANTS.append(Mutant(name=name, caught_by=caught_by, apply=apply, **where))
        return apply

    return register


@mutant("test_acks_out_of_order_commit_no_gap")
def commits_the_latest_offset_not_the_finished_prefix(patch: pytest.MonkeyPatch) -> None:
    def finish(self: Watermark, offset: int, epoch: int) -> bool:
        self.safe = max(self.safe, offset + 1)
        return True

    patch.setattr(Watermark, "finish", finish)


@mutant("test_acks_out_of_order_that_leave_no_gap_all_count")
def forgets_acks_above_a_gap(patch: pytest.MonkeyPatch) -> None:
    def finish(self: Watermark, offset: int, epoch: int) -> bool:
        if offset == self.safe:
            self.safe += 1
        return True

    patch.setattr(Watermark, "finish", finish)


@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order")
@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order", style="queue")
def acknowledges_on_delivery(patch: pytest.MonkeyPatch) -> None:
    hold = MemorySubscription.hold

    def hold_and_ack(self: MemorySubscription, batch: Sequence[MemoryDelivery], size: int) -> None:
        hold(self, batch, size)
        self.ack(batch)

    patch.setattr(MemorySubscription, "hold", hold_and_ack)


@mutant("test_a_partition_that_comes_back_brings_what_had_no_verdict", stepwise=True)
@mutant("test_what_is_acknowledged_while_a_revoke_waits_never_comes_again")
def goes_on_behind_what_was_handed_out_after_a_rebalance(patch: pytest.MonkeyPatch) -> None:
    assign = Cursor.assign

    def assign_at_handed(self: Cursor, reader: MemorySubscription | None, generation: int) -> None:
        assign(self, reader, generation)
        self.position = self.handed

    patch.setattr(Cursor, "assign", assign_at_handed)


@mutant("test_what_is_acknowledged_while_a_revoke_waits_never_comes_again")
def forgets_acks_given_while_a_revoke_waits(patch: pytest.MonkeyPatch) -> None:
    lose = MemorySubscription.lose

    def lose_at_once(self: MemorySubscription) -> list[MemoryDelivery]:
        lost = lose(self)
        self.forget(lost)
        return lost

    patch.setattr(MemorySubscription, "lose", lose_at_once)
    patch.setattr(LogGroup, "send", lambda self, member: None)


@mutant("test_nothing_of_a_key_is_stored_behind_a_refusal", arguments={"place": 2})
@mutant("test_what_is_too_large_is_rejected_and_the_rest_is_told_apart", style="queue")
def stores_what_stands_behind_a_refusal(patch: pytest.MonkeyPatch) -> None:
    publish = MemoryTransport.publish

    async def publish_all(self: MemoryTransport, messages: Sequence[Message]) -> None:
        refused: PublishError | None = None
        for message in messages:
            try:
                await publish(self, [message])
            except PublishError as error:
                refused = error
        if refused is not None:
            await publish(self, [])
            place = next(
                at for at, each in enumerate(messages) if len(each.payload) > self._max_body
            )
            refused.results = transport._results(messages, place, refused.results[0])
            raise refused

    patch.setattr(MemoryTransport, "publish", publish_all)


@mutant("test_what_is_too_large_is_rejected_and_the_rest_is_told_apart")
def calls_confirmed_what_was_not_sent(patch: pytest.MonkeyPatch) -> None:
    def results(
        messages: Sequence[Message], place: int, at: PublishResult
    ) -> Sequence[PublishResult]:
        return [at if index == place else Confirmed() for index in range(len(messages))]

    patch.setattr(transport, "_results", results)


@mutant("test_a_call_keeps_the_order_given")
def spreads_a_key_over_partitions(patch: pytest.MonkeyPatch) -> None:
    turns: Iterator[int] = count()
    patch.setattr(LogStyle, "_index", lambda self, key: next(turns) % self._partitions)


@mutant("test_a_call_keeps_the_order_given", style="queue")
def puts_new_messages_first(patch: pytest.MonkeyPatch) -> None:
    def put(self: QueueGroup, entry: Entry) -> None:
        self.ready.appendleft(entry)
        self._wake()

    patch.setattr(QueueGroup, "put", put)


@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order")
@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order", style="queue")
def forgets_the_redelivered_flag(patch: pytest.MonkeyPatch) -> None:
    init = MemoryDelivery.__init__

    def never_again(self: MemoryDelivery, *arguments: Any) -> None:
        init(self, *arguments)
        self.redelivered = False

    patch.setattr(MemoryDelivery, "__init__", never_again)


@mutant("test_what_was_never_handed_out_is_not_flagged_redelivered")
@mutant("test_what_was_never_handed_out_is_not_flagged_redelivered", style="queue")
def flags_everything_redelivered(patch: pytest.MonkeyPatch) -> None:
    init = MemoryDelivery.__init__

    def always_again(self: MemoryDelivery, *arguments: Any) -> None:
        init(self, *arguments)
        self.redelivered = True

    patch.setattr(MemoryDelivery, "__init__", always_again)


@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order")
def commits_what_is_unacknowledged_on_leaving(patch: pytest.MonkeyPatch) -> None:
    leave = LogGroup.leave

    def leave_committed(self: LogGroup, member: MemorySubscription) -> None:
        for cursor in self._read_by(member):
            cursor.committed = cursor.position
        leave(self, member)

    patch.setattr(LogGroup, "leave", leave_committed)


@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order", style="queue")
def drops_what_is_unacknowledged_on_leaving(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "close", lambda self: [])


@mutant("test_a_member_that_leaves_under_load_hands_over_in_order", style="queue")
@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order", style="queue")
def returns_what_is_unacknowledged_to_the_tail(patch: pytest.MonkeyPatch) -> None:
    def to_the_tail(self: QueueGroup, deliveries: Sequence[Any]) -> None:
        self.ready.extend(delivery.origin for delivery in reversed(deliveries))
        self._wake()

    patch.setattr(QueueGroup, "_return", to_the_tail)


@mutant("test_a_verdict_after_leaving_counts_for_nothing")
def counts_a_late_ack(patch: pytest.MonkeyPatch) -> None:
    finish = Watermark.finish

    def settle(self: MemorySubscription, deliveries: Sequence[Any]) -> list[MemoryDelivery]:
        for delivery in deliveries:
            self.open.pop(delivery, None)
        return list(deliveries)

    patch.setattr(MemorySubscription, "_settle", settle)
    patch.setattr(Watermark, "finish", lambda self, offset, epoch: finish(self, offset, self.epoch))


@mutant("test_a_verdict_given_twice_is_harmless")
def takes_back_what_was_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def nack(self: MemorySubscription, deliveries: Sequence[Delivery]) -> None:
        for cursor in self._group.cursors.values():  # type: ignore[attr-defined]  # log style
            cursor.committed = min(cursor.committed, cursor.log.first)
            cursor.watermark = Watermark(0, cursor.committed)

    patch.setattr(MemorySubscription, "nack", nack)


@mutant("test_a_cancelled_member_leaves_and_gives_back")
def yields_empty_batches(patch: pytest.MonkeyPatch) -> None:
    following = MemorySubscription.__anext__

    async def anything(self: MemorySubscription) -> Sequence[Delivery]:
        room = self._max_in_flight - len(self.open)
        return self._group.take(self, room) if self.open else await following(self)

    patch.setattr(MemorySubscription, "__anext__", anything)


@mutant("test_a_member_holds_no_more_than_it_asked_for")
@mutant("test_a_member_holds_no_more_than_it_asked_for", style="queue")
def ignores_max_in_flight(patch: pytest.MonkeyPatch) -> None:
    init = MemorySubscription.__init__

    def without_bound(self: MemorySubscription, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **{**options, "max_in_flight": 1 << 30})

    patch.setattr(MemorySubscription, "__init__", without_bound)


@mutant("test_members_share_the_messages_of_a_group")
def gives_every_member_everything(patch: pytest.MonkeyPatch) -> None:
    subscription = MemoryBroker.subscription
    members = count()

    def alone(
        self: MemoryBroker, interest: Interest, on_lost: OnLost, max_held: int
    ) -> MemorySubscription:
        own = replace(interest, group=f"{interest.group}-{next(members)}")
        return subscription(self, own, on_lost, max_held)

    patch.setattr(MemoryBroker, "subscription", alone)


@mutant("test_members_share_the_messages_of_a_group")
def gives_the_first_member_everything(patch: pytest.MonkeyPatch) -> None:
    assign = Cursor.assign

    def to_the_first(self: Cursor, reader: MemorySubscription | None, generation: int) -> None:
        first = reader._group.members[0] if reader else None  # type: ignore[attr-defined]  # log
        assign(self, first, generation)

    patch.setattr(Cursor, "assign", to_the_first)


@mutant("test_a_key_is_with_one_member_at_a_time", style="queue")
def lets_every_member_of_an_ordered_group_consume(patch: pytest.MonkeyPatch) -> None:
    init = QueueGroup.__init__

    def unordered(self: QueueGroup, *arguments: Any) -> None:
        init(self, *arguments)
        self._single_active = False

    patch.setattr(QueueGroup, "__init__", unordered)


@mutant("test_what_has_no_verdict_comes_again_flagged_and_in_order")
def never_says_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemorySubscription, "lose", lambda self: list(self.open))


@mutant(
    "test_what_is_acknowledged_never_comes_again", arguments={"sent_by": "leaving"}, stepwise=True
)
def leaves_without_sending_verdicts(patch: pytest.MonkeyPatch) -> None:
    async def leave(self: MemorySubscription) -> None:
        self.drop()

    patch.setattr(MemorySubscription, "leave", leave)


@mutant("test_a_message_is_handled_when_every_group_has_acknowledged_it", stepwise=True)
def flushes_nothing(patch: pytest.MonkeyPatch) -> None:
    async def flush(self: MemorySubscription) -> None:
        await self._step()

    patch.setattr(MemorySubscription, "flush", flush)


@mutant("test_a_new_group_sees_no_history_if_it_starts_at_the_latest")
def starts_every_group_at_the_earliest(patch: pytest.MonkeyPatch) -> None:
    know = LogStyle.know
    patch.setattr(
        LogStyle, "know", lambda self, interest: know(self, replace(interest, start="earliest"))
    )


@mutant("test_a_new_group_sees_the_history_if_it_starts_at_the_earliest")
def starts_every_group_at_the_latest(patch: pytest.MonkeyPatch) -> None:
    know = LogStyle.know
    patch.setattr(
        LogStyle, "know", lambda self, interest: know(self, replace(interest, start="latest"))
    )


@mutant("test_a_group_goes_on_where_it_was_whatever_its_start_says")
def forgets_a_group_without_members(patch: pytest.MonkeyPatch) -> None:
    join = LogGroup.join

    def join_anew(self: LogGroup, member: MemorySubscription) -> None:
        for cursor in [] if self.members else self.cursors.values():
            cursor.committed = cursor.log.end
        join(self, member)

    patch.setattr(LogGroup, "join", join_anew)


@mutant(
    "test_what_was_given_back_comes_again_at_the_latest_after_leaving", arguments={"order": "key"}
)
@mutant(
    "test_what_was_given_back_comes_again_at_the_latest_after_leaving",
    arguments={"order": "none"},
    style="queue",
)
def takes_a_nack_for_an_ack(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemorySubscription, "nack", MemorySubscription.ack)


@mutant("test_nothing_of_a_key_overtakes_what_was_given_back")
def goes_on_behind_what_was_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogGroup, "give_back", lambda self, member, back: None)


@mutant("test_nothing_of_a_key_overtakes_what_was_given_back", style="queue")
def goes_on_behind_what_the_channel_has_to_return(patch: pytest.MonkeyPatch) -> None:
    take = QueueGroup.take

    def take_anyway(self: QueueGroup, member: MemorySubscription, room: int) -> Any:
        channel = self._channels[member]
        held, channel.given_back = channel.given_back, []
        try:
            return take(self, member, room)
        finally:
            channel.given_back = held

    patch.setattr(QueueGroup, "take", take_anyway)


@mutant("test_a_group_gets_only_the_types_it_asked_for", style="queue")
def sends_every_type(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(QueueGroup, "wants", lambda self, name: True)


@mutant("test_a_broken_envelope_arrives_in_its_place_and_says_why")
@mutant("test_a_broken_envelope_arrives_in_its_place_and_says_why", style="queue")
def keeps_quiet_about_a_broken_envelope(patch: pytest.MonkeyPatch) -> None:
    store = MemoryBroker.store
    patch.setattr(MemoryBroker, "store", lambda self, message, malformed=None: store(self, message))


@mutant("test_every_part_of_a_message_crosses_unchanged")
def loses_the_headers(patch: pytest.MonkeyPatch) -> None:
    store = MemoryBroker.store
    patch.setattr(
        MemoryBroker,
        "store",
        lambda self, message, malformed=None: store(self, replace(message, headers={}), malformed),
    )


@mutant("test_a_message_is_handled_when_every_group_has_acknowledged_it")
def tells_when_the_first_group_is_done(patch: pytest.MonkeyPatch) -> None:
    def settle(self: LogStyle, log: PartitionLog) -> list[Message]:
        return log.settle(max(cursor.committed for cursor in self._cursors[log.name]))

    patch.setattr(LogStyle, "settle", settle)


@mutant("test_each_is_told_once_though_it_came_twice")
def tells_again_what_was_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PartitionLog, "settle", lambda self, upto: self.between(self.first, upto))


@mutant("test_a_group_whose_members_have_left_still_counts")
def counts_only_groups_with_members(patch: pytest.MonkeyPatch) -> None:
    def settle(self: LogStyle, log: PartitionLog) -> list[Message]:
        cursors = self._cursors[log.name]
        return log.settle(min(at.committed for at in cursors if at.reader is not None))

    patch.setattr(LogStyle, "settle", settle)


@mutant("test_leaving_leaves_nothing_running", arguments={"state": "waiting"})
def leaves_the_iterator_waiting(patch: pytest.MonkeyPatch) -> None:
    wake = MemorySubscription.wake

    def wake_while_joined(self: MemorySubscription) -> None:
        if not self.left:
            wake(self)

    patch.setattr(MemorySubscription, "wake", wake_while_joined)


@mutant("test_leaving_does_not_wait_for_an_on_lost_that_hangs")
def leaves_a_hanging_on_lost_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemorySubscription, "_telling_elsewhere", lambda self: [])


@mutant("test_outside_of_its_life_a_transport_refuses")
def publishes_though_it_is_closed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryTransport, "_broker_if_entered", lambda self: self.broker)


@mutant("test_examine_answers_before_and_after_entering")
def hides_that_it_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: MemoryTransport, interests: Sequence[Interest]) -> Sequence[Any]:
        await self.broker.step()
        return []

    patch.setattr(MemoryTransport, "examine", nothing)
