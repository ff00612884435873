"""A RabbitMQ for one test, to be broken on purpose."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from eventbus.testing.services.processes import wait_until
from eventbus.testing.services.rabbitmq import (
    Rabbit,
    management_url,
    scripts_or_reason,
    start_node,
)
from eventbus.testing.services.rabbitmq_node import Node, new_node
from eventbus.testing.services.service import ServiceMissingError
from eventbus.testing.services.state import forget_private, note_private, state_of_this_checkout

_WRITTEN_SECONDS = 10.0


@asynccontextmanager
async def private_rabbit(
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator["RabbitServer"]:
    """A native node of the caller's own, started; gone with its epmd and its data after the block.

    If this process is killed, the next one that looks for services ends it.

    Args:
        settings: lines of `rabbitmq.conf`.

    Raises:
        ServiceMissingError: EB1302, it is not installed; a container is no help here.
        ConfigurationError: EB1303, it does not start.
    """
    server = await asyncio.to_thread(RabbitServer.create, settings or {})
    try:
        await server.start()
        yield server
    finally:
        await asyncio.shield(asyncio.create_task(server.remove(), name="rabbit:remove"))


class RabbitServer:
    """A node and what may happen to it; on return of a call, it has happened.

    Calls take turns. The loop goes on meanwhile: clients under test see each step.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._name = f"rabbit:private:{uuid.uuid4().hex[:8]}"

    @classmethod
    def create(cls, settings: Mapping[str, str]) -> Self:
        """A directory, no server yet. Raises as `private_rabbit` does."""
        scripts = scripts_or_reason(install=False, say=lambda text: None)
        if isinstance(scripts, str):
            raise ServiceMissingError(
                "EB1302",
                "no RabbitMQ that a test may break",
                where="private_rabbit",
                why=scripts,
                next=Rabbit.enabled_by.rpartition(" | ")[0],
            )
        return cls(new_node(scripts, state_of_this_checkout().directory, settings))

    @property
    def url(self) -> str:
        """Of the vhost `/`; it stays the same over restarts."""
        return self._node.url

    @property
    def management_url(self) -> str:
        """Of the management plugin's pages and its HTTP interface; the user is that of `url`."""
        return management_url(self._node.url)

    @property
    def pid(self) -> int:
        """That of the virtual machine; 0 if it does not run."""
        return self._node.pid

    @property
    def directory(self) -> Path:
        """Holds `log` and the data."""
        return self._node.directory

    @property
    def settings(self) -> dict[str, str]:
        """Lines of `rabbitmq.conf`; what is changed here counts from the next start."""
        return self._node.settings

    async def start(self) -> None:
        """Start it, and wait until it takes connections; durable data are there again.

        Raises:
            ConfigurationError: EB1303, it was not ready within 60 s.
        """
        await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """SIGTERM, and wait until it is gone. Nothing if it is down.

        Raises:
            ConfigurationError: EB1303, it still runs after 60 s.
        """
        await asyncio.to_thread(self._node.stop)

    async def restart(self) -> None:
        """Stop and start; raises as they do."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """SIGKILL to the virtual machine; epmd stays for the next start."""
        await asyncio.to_thread(self._node.kill)

    async def freeze(self) -> None:
        """SIGSTOP: nothing is answered, no connection breaks."""
        await asyncio.to_thread(self._node.freeze)

    async def thaw(self) -> None:
        """SIGCONT."""
        await asyncio.to_thread(self._node.thaw)

    async def wait_for_queue(self, queue: str, *, vhost: str = "/") -> None:
        """Wait until a quorum queue that was declared would be there after a kill: up to 1 s.

        Raises:
            TimeoutError: it was not within 10 s; it may not exist.
        """
        found = await asyncio.to_thread(
            wait_until, lambda: self._node.remembers(queue, vhost), _WRITTEN_SECONDS
        )
        if not found:
            raise TimeoutError(f"quorum queue {queue!r} of vhost {vhost!r} is not written down")

    async def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says, as in `control("stop_app")` and `control("start_app")`.

        Raises:
            ConfigurationError: EB1303, it fails, or does not end within 60 s.
        """
        return await asyncio.to_thread(self._node.control, *arguments)

    async def remove(self) -> None:
        """End it and its epmd, and delete its data."""
        await asyncio.to_thread(self._remove)

    def _start(self) -> None:
        note_private(self._name, start_node(self._node))

    def _remove(self) -> None:
        self._node.remove()
        forget_private(self._name)
