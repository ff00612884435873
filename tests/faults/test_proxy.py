"""The fault proxy does what its rules say, and nothing else."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.faults.proxy import (
    Action,
    Blackhole,
    Cut,
    Delay,
    FaultProxy,
    Framing,
    Rate,
    Swallow,
    after_bytes,
    amqp,
    every,
    kafka,
    nth,
    postgres,
)

SECONDS = 0.05  # that a byte which must not come is waited for


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, int]]:
    """A server that sends back whatever it gets."""

    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield host, port
    server.close()
    for task in answering:
        task.cancel()
    if answering:
        await asyncio.wait(answering, timeout=5)
    await asyncio.sleep(0)  # sockets close in the next turn


def frames(*bodies: bytes) -> list[bytes]:
    return [struct.pack("!i", len(body)) + body for body in bodies]


async def _sent(proxy: FaultProxy, parts: Sequence[bytes], *, expect: int) -> bytes:
    """What comes back of them, up to so many bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        for part in parts:
            writer.write(part)
        async with asyncio.timeout(30):
            return await reader.readexactly(expect)
    finally:
        writer.transport.abort()


async def test_without_rules_everything_passes(echo: tuple[str, int]) -> None:
    sent = frames(b"a", b"", b"c" * 100_000)
    async with FaultProxy(echo, framing=kafka) as proxy:
        assert await _sent(proxy, sent, expect=len(b"".join(sent))) == b"".join(sent)
        assert proxy.hits == []


async def test_a_frame_is_swallowed_and_only_that_one(echo: tuple[str, int]) -> None:
    sent = frames(b"a", b"b", b"c")
    async with FaultProxy(echo, framing=kafka) as proxy:
        rule = proxy.rule(toward="server", when=nth(2, every()), do=Swallow())
        assert await _sent(proxy, sent, expect=10) == sent[0] + sent[2]
        assert rule.done.is_set()
        assert proxy.hits == [("server", Swallow(), sent[1])]


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_ends_the_connection_before_the_frame(echo: tuple[str, int], how: str) -> None:
    sent = frames(b"a" * 10, b"b")
    async with FaultProxy(echo, framing=kafka) as proxy:
        action = Cut("fin" if how == "fin" else "rst")
        proxy.rule(toward="client", when=after_bytes(len(sent[0])), do=action)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)) as caught:
            await _sent(proxy, sent, expect=19)
        if isinstance(caught.value, asyncio.IncompleteReadError):
            assert caught.value.partial in {b"", sent[0]}
        assert await _sent(proxy, frames(b"x"), expect=5) == frames(b"x")[0]


@pytest.mark.parametrize("action", [Delay(0.03, 0.01), Rate(200)])
async def test_slow_is_slow_and_in_order(echo: tuple[str, int], action: Action) -> None:
    sent = frames(b"a" * 4, b"b" * 4)
    loop = asyncio.get_running_loop()
    async with FaultProxy(echo, framing=kafka) as proxy:
        proxy.rule(toward="server", when=every(), do=action, times=2)
        began = loop.time()
        assert await _sent(proxy, sent, expect=16) == b"".join(sent)
        assert loop.time() - began >= 0.06


async def test_a_black_hole_tells_nobody_until_it_is_healed(echo: tuple[str, int]) -> None:
    async with FaultProxy(echo, framing=kafka) as proxy:
        proxy.rule(toward="server", when=nth(2, every()), do=Blackhole())
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(frames(b"a")[0])
        assert await reader.readexactly(5) == frames(b"a")[0]
        writer.write(b"".join(frames(b"b", b"c")))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await reader.read(1)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            assert await reader.read(1) == b""
            raise ConnectionResetError  # a FIN says the same
        writer.transport.abort()


async def test_refusing_ends_new_connections_and_only_those(echo: tuple[str, int]) -> None:
    async with FaultProxy(echo, framing=kafka) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(frames(b"a")[0])
        await reader.readexactly(5)
        proxy.refusing = True
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await _sent(proxy, frames(b"b"), expect=5)
        writer.write(frames(b"c")[0])
        assert await reader.readexactly(5) == frames(b"c")[0]
        writer.transport.abort()


@pytest.mark.parametrize(
    ("framing", "first", "later"),
    [
        (postgres, b"\0\0\0\x08abcd", b"Q\0\0\0\x06a\0"),
        (amqp, b"AMQP\0\0\x09\x01", b"\x01\0\x01\0\0\0\x02hi\xce"),
        (kafka, b"\0\0\0\x02hi", b"\0\0\0\x02hi"),
    ],
)
def test_frames_are_told_apart_at_every_length(
    framing: Framing, first: bytes, later: bytes
) -> None:
    for start in range(len(first)):
        assert framing(first[:start], "server", 0) == 0
    assert framing(first + later, "server", 0) == len(first)
    for start in range(len(later)):
        assert framing(later[:start], "server", 1) == 0
        assert framing(later[:start], "client", 0) == 0
    assert framing(later + first, "server", 1) == len(later)
    assert framing(later + first, "client", 0) == len(later)
