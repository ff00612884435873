"""A member of a group in a process of its own, to be killed: `python -m … URL GROUP TOPIC ACKS`.

Prints a line per batch; acknowledges the first ACKS messages, holds the rest, flushes, says so.
"""

import asyncio
import sys
from collections.abc import Sequence

from eventbus.transport import Delivery, Interest
from tests.integration.kafka.conftest import on


async def nothing(lost: Sequence[Delivery], deadline: float) -> None:
    print("lost", len(lost), flush=True)


async def main(url: str, group: str, topic: str, acks: int, instance: str) -> None:
    interest = Interest(group=group, topics=(topic,), types=(), max_in_flight=50)
    options = {"group_instance_id": instance} if instance else {}
    async with (
        on(url, **options) as transport,
        transport.subscribe(interest, on_lost=nothing) as member,
    ):
        got: list[Delivery] = []
        async for batch in member:
            got += batch
            print("got", *(delivery.message.payload.decode() for delivery in batch), flush=True)
            if len(got) >= acks:
                member.ack(got[:acks])
                await member.flush()
                print("flushed", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
