"""What befalls the broker of a bank and the links to it: rows 9 to 12, 14 and 16 of the matrix."""

from asyncio import Event
from collections.abc import Awaitable, Callable, Mapping
from random import Random

from eventbus.service import pause
from tests.faults.bank.brokers import Broker, Node
from tests.faults.proxy import Blackhole, Delay, Swallow, Toward, every

DARK: tuple[tuple[Toward, ...], ...] = (("server", "client"), ("server",), ("client",))
FOREVER = 1 << 40  # frames
Act = Callable[[], Awaitable[None]]


class Outages:
    """Each act returns when it is healed; what work makes of it is the verdict's business.

    Args:
        broker: whose nodes and links are touched.
        random: which node, for how long.
        stopping: an act that lasts ends early.
        longest: seconds that a broker is frozen, or dark, at most.
    """

    def __init__(self, broker: Broker, random: Random, stopping: Event, longest: float) -> None:
        self._broker = broker
        self._random = random
        self._stopping = stopping
        self._longest = longest

    @property
    def acts(self) -> Mapping[str, Act]:
        """By kind; none where there is no broker."""
        if not self._broker.nodes:
            return {}
        return {
            "broker stop": self._stop,
            "broker kill": self._kill,
            "broker freeze": self._freeze,
            "black hole": self._darken,
            "flapping": self._flap,
            "slow link": self._slow_down,
        }

    async def _stop(self) -> None:
        """Row 9."""
        node = self._one()
        await node.stop()
        await node.start()

    async def _kill(self) -> None:
        """Row 10: nobody says goodbye."""
        node = self._one()
        await node.kill()
        await pause(self._stopping, self._random.uniform(0, 2))
        await node.start()

    async def _freeze(self) -> None:
        """Row 11: nothing is answered, no connection breaks."""
        node = self._one()
        await node.freeze()
        try:
            await pause(self._stopping, self._random.uniform(3, self._longest))
        finally:
            await node.thaw()

    async def _darken(self) -> None:
        """Row 12: both ways, or one: the other side hears, and is not heard."""
        ways = self._random.choice(DARK)
        do = Blackhole() if len(ways) == 2 else Swallow()
        for link in self._broker.links:
            for way in ways:
                link.rule(toward=way, when=every(), do=do, times=FOREVER)
        await self._heal_after(self._random.uniform(3, self._longest))

    async def _flap(self) -> None:
        """Row 16: connections break, and for a while new ones are refused."""
        for _ in range(self._random.randint(4, 10)):
            for link in self._broker.links:
                link.cut_all()
                link.refusing = self._random.random() < 0.5
            if await pause(self._stopping, self._random.uniform(0.1, 1.0)):
                break
        await self._heal_after(0.0)

    async def _slow_down(self) -> None:
        """Row 14: every frame is late."""
        for link in self._broker.links:
            for way in DARK[0]:
                link.rule(toward=way, when=every(), do=Delay(0.01, 0.05), times=FOREVER)
        await pause(self._stopping, self._random.uniform(3, self._longest))
        for link in self._broker.links:
            link.heal()

    async def _heal_after(self, seconds: float) -> None:
        """What lost frames is of no use: such connections end."""
        await pause(self._stopping, seconds)
        for link in self._broker.links:
            link.heal()
            link.cut_all()

    def _one(self) -> Node:
        return self._random.choice(self._broker.nodes)
