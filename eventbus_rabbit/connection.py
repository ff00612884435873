"""A link: one connection that is kept up, thrown away when it breaks, never repaired."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import cast

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractConnection as Wire
from aiormq.channel import Channel
from pamqp.common import FieldTable

from eventbus.errors import ConfigurationError
from eventbus.service import end
from eventbus_rabbit.config import FRAME_BUFFER, RabbitConfig
from eventbus_rabbit.errors import BrokenError, RefusedError, guarded, understood
from eventbus_rabbit.reading import Connection, FrameReader

log: logging.Logger = logging.getLogger("eventbus.rabbit")

for _client in ("aiormq", "aio_pika"):  # an app that logs hears them; else our errors say it once
    logging.getLogger(_client).addHandler(logging.NullHandler())

RPC_SECONDS = 5.0
CLOSE_SECONDS = 3.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 4.0


class Backoff:
    """0.5 s doubling to 4 s, with full jitter."""

    def __init__(self) -> None:
        self._failures = 0

    def reset(self) -> None:
        """It worked."""
        self._failures = 0

    async def wait(self) -> None:
        """Before the next try."""
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(self._failures, 3))
        self._failures += 1
        await asyncio.sleep(random.uniform(0.0, longest))  # noqa: S311 - jitter is no secret


class Link:
    """Publishing and consuming have one each: a broker in need blocks publishers only.

    Whoever uses the connection gets channels of its own and gives the connection up with `drop`
    when it does not answer; then everything on it is made anew, on a new one.
    """

    def __init__(self, config: RabbitConfig, purpose: str) -> None:
        self.trouble: str | None = "not connected"
        self.rebuilds: int = 0
        self._config = config
        self._purpose = purpose
        self._current: AbstractConnection | None = None
        self._broken = asyncio.Event()
        self._changed = asyncio.Event()  # up, or refused
        self._refused: RefusedError | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, then keep it up until `close`.

        Raises:
            BrokenError: the broker cannot be reached.
            RefusedError: it does not let us in.
        """
        connection = await self._connect()
        self._keeper = asyncio.create_task(
            self._keep_up(connection), name=f"rabbit:{self._purpose}-connection"
        )
        self._take(connection)

    async def close(self) -> None:
        """End it; bounded, harmless when called twice or in any state."""
        if self._keeper is not None:
            await end([self._keeper])
            self._keeper = None
        connection, self._current = self._current, None
        self._changed.clear()
        self.trouble = "not connected"
        if connection is not None:
            await _discard(connection)

    async def wire(self) -> Wire:
        """The connection as soon as there is one.

        Raises:
            RefusedError: the broker did not let us in the last time; it is tried again.
        """
        while True:
            if self._current is not None and not self._broken.is_set():
                return _wire(self._current)
            if self._refused is not None:
                raise self._refused
            self._changed.clear()
            await self._changed.wait()

    def frames_of(self, wire: Wire) -> FrameReader | None:
        """What it reads through; None: it is not the present one any more."""
        current = self._current
        if isinstance(current, Connection) and _wire(current) is wire:
            return current.frames
        return None

    def drop(self, wire: Wire) -> None:
        """It is of no use any more; harmless if it is gone already."""
        if self._current is not None and _wire(self._current) is wire:
            self._broken.set()

    async def channel(self, wire: Wire, *, confirms: bool = False) -> Channel:
        """A new one, of this caller alone.

        Raises:
            BrokenError: none could be opened; the connection is dropped.
        """
        try:
            opened = await guarded(
                wire.channel(
                    frame_buffer_size=FRAME_BUFFER,
                    publisher_confirms=confirms,
                    on_return_raises=True,
                ),
                RPC_SECONDS,
            )
        except BrokenError:
            self.drop(wire)
            raise
        return cast("Channel", opened)

    async def on_channel(self, use: Callable[[Channel], Awaitable[None]]) -> None:
        """Use a channel that is thrown away afterwards: a refusal closes it.

        Raises:
            BrokenError: no answer in time, or the connection is gone.
            RefusedError: the broker refused.
        """
        wire = await guarded(self.wire(), self._config.connect_timeout.total_seconds())
        channel = await self.channel(wire)
        try:
            await use(channel)
        except BrokenError:
            self.drop(wire)
            raise
        finally:
            await close_channel(channel)

    async def try_out(self, use: Callable[[Channel], Awaitable[None]]) -> None:
        """The same on a connection that is thrown away: some refusals close it whole.

        Raises:
            BrokenError: no answer in time.
            RefusedError: the broker refused.
        """
        connection = await self._connect()
        try:
            await use(cast("Channel", await guarded(_wire(connection).channel(), RPC_SECONDS)))
        finally:
            await _discard(connection)

    async def _keep_up(self, connection: AbstractConnection) -> None:
        while True:
            await self._broken.wait()
            why = _reason(connection)
            log.warning("%s connection to %s is lost: %s", self._purpose, self._config.place, why)
            self.trouble = f"no {self._purpose} connection to {self._config.place}: {why}"
            self._current = None
            await _discard(connection)
            connection = await self._reconnect()
            self.rebuilds += 1
            self._take(connection)
            log.info("%s connection to %s is back", self._purpose, self._config.place)

    async def _reconnect(self) -> AbstractConnection:
        backoff = Backoff()
        while True:
            await backoff.wait()
            try:
                return await self._connect()
            except BrokenError as error:
                self._refused, why = None, str(error)
            except RefusedError as error:
                self._refused, why = error, str(error)
                self._changed.set()
            except ConfigurationError as error:  # a certificate file that is being replaced
                why = str(error.why)
            self.trouble = f"cannot reach {self._config.place}: {why}"

    def _take(self, connection: AbstractConnection) -> None:
        self._current, self._refused, self.trouble = connection, None, None
        self._broken.clear()
        self._changed.set()
        _wire(connection).closing.add_done_callback(lambda _: self._gone(connection))

    def _gone(self, connection: AbstractConnection) -> None:
        if self._current is connection:
            self._broken.set()

    async def _connect(self) -> AbstractConnection:
        config = self._config
        seconds = config.connect_timeout.total_seconds()
        context = config.ssl_context()
        properties: FieldTable = {"connection_name": f"{config.name}:{self._purpose}"}
        return await guarded(
            aio_pika.connect(
                config.address,
                ssl_context=context,
                client_properties=properties,
                connection_class=Connection,
            ),
            seconds,
        )


async def close_channel(channel: Channel) -> None:
    """Unacknowledged deliveries go back, in order; bounded, and harmless if it is closed."""
    if channel.is_closed:
        return
    try:
        await guarded(channel.close(), CLOSE_SECONDS)
    except (BrokenError, RefusedError) as error:
        log.debug("closing a channel: %s", error)


def _wire(connection: AbstractConnection) -> Wire:
    if connection.transport is None:
        raise BrokenError("the connection is closed")
    return connection.transport.connection


def _reason(connection: AbstractConnection) -> str:
    transport = connection.transport
    closing = None if transport is None else transport.connection.closing
    if closing is None or not closing.done():
        return "it did not answer"
    if closing.cancelled() or (error := closing.exception()) is None:
        return "closed"
    return str(understood(error))


async def _discard(connection: AbstractConnection) -> None:
    try:
        await guarded(connection.close(), CLOSE_SECONDS)
    except (BrokenError, RefusedError) as error:
        log.debug("closing a connection: %s", error)
