"""One bus from entering to leaving: what is opened, in which order, and given back."""

from collections.abc import Collection
from contextlib import AsyncExitStack
from datetime import timedelta

from eventbus.bus.report import Health, refuse_unsafe
from eventbus.bus.running import Running
from eventbus.bus.wiring import Wiring
from eventbus.errors import ConfigurationError


class Life:
    """Storage, transport and what runs on them, one time after another."""

    def __init__(self, wiring: Wiring) -> None:
        self.running: Running | None = None
        self.drained: bool = True  # everything ended within the grace, the last time
        self._wiring = wiring
        self._stack = AsyncExitStack()

    async def enter(self, *, consume: bool, only: Collection[str] | None = None) -> None:
        """Open the storage and the transport, then start what is chosen.

        Args:
            consume: False: publish and read only. With a storage no broker is asked for it.
            only: roles or services; None: everything.

        Raises:
            ConfigurationError: EB1007, it is entered; the report has an error.
        """
        if self.running is not None:
            raise _twice()
        wiring = self._wiring
        await self._refuse_unsafe()
        stack = AsyncExitStack()
        running = Running(wiring.parts())
        wiring.open_events()
        try:
            if wiring.storage is not None:
                await stack.enter_async_context(wiring.storage)
                if wiring.keyring is not None:
                    await wiring.keyring.check()
            if consume or running.needs_the_broker:
                await stack.enter_async_context(wiring.transport)
            if consume:
                await self._refuse_unsafe()  # what only an open storage or broker can tell
                await wiring.prepare()
                await running.start(only)
            running.measure()
        except BaseException:
            await running.stop(timedelta())
            await stack.aclose()
            raise
        self._stack, self.running = stack, running

    async def leave(self, *, work_off: bool, grace: timedelta) -> None:
        """Drain, stop, close.

        Args:
            work_off: wait for what a transport that is not durable holds.
            grace: how long running handlers may take to end; then they are cancelled.
        """
        running = self.running
        if running is None:
            return
        try:
            if work_off:
                await running.work_off(grace)
            await self._wiring.close_events()
        finally:
            try:
                self.drained = await running.stop(grace)
            finally:
                await self._wiring.afterwards.end()
                self.running = None
                await self._stack.aclose()

    def entered(self, verb: str) -> Running:
        """What runs.

        Raises:
            ConfigurationError: EB1007, the bus is not entered.
        """
        if self.running is None:
            raise ConfigurationError(
                "EB1007",
                f"bus.{verb} on a bus that is not entered",
                where=f"bus.{verb}",
                why="there is no connection yet, or not any more",
                next="async with bus: … or async with bus.client(): …",
            )
        return self.running

    async def health(self) -> Health:
        """Whether it lives and is ready, and if not, why."""
        if self.running is None:
            return Health(live=True, ready=False, causes=["not entered"], services={})
        return await self.running.health()

    async def _refuse_unsafe(self) -> None:
        refuse_unsafe(await self._wiring.findings(), strict=self._wiring.given.strict)


def _twice() -> ConfigurationError:
    return ConfigurationError(
        "EB1007",
        "the bus is entered already",
        where="async with bus",
        why="a bus has one life at a time",
        next="leave it first, or take a copy: bus.replace()",
    )
