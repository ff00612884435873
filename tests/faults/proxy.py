"""A TCP relay with rules: delays, cuts, swallowed replies, black holes; frames by length only.

Rules change while traffic flows, and each hit stands in `hits`. No TLS on proxied links.
"""

import asyncio
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, assert_never

Toward = Literal["server", "client"]
Framing = Callable[[bytes, Toward, int], int]
"""(buffer, toward, frames before) -> bytes of the first frame; 0: it is not whole yet."""
Match = Callable[[bytes], bool]


@dataclass(frozen=True)
class Delay:
    """Later, in order."""

    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Rate:
    """A slow link."""

    bytes_per_second: float


@dataclass(frozen=True)
class Swallow:
    """This frame never arrives."""


@dataclass(frozen=True)
class Cut:
    """Both sides lose the connection before this frame arrives."""

    how: Literal["fin", "rst"] = "rst"


@dataclass(frozen=True)
class Blackhole:
    """From this frame on nothing passes on this connection, and nobody is told."""


@dataclass(frozen=True)
class Instead:
    """Something else happens, the frame never arrives, and the connection is reset."""

    call: Callable[[bytes], None]


Action = Delay | Rate | Swallow | Cut | Blackhole | Instead


def postgres(buffer: bytes, toward: Toward, before: int) -> int:
    """Type and int32; the first message of a client has no type."""
    head = 0 if toward == "server" and before == 0 else 1
    if len(buffer) < head + 4:
        return 0
    size = head + int(struct.unpack_from("!i", buffer, head)[0])
    return size if len(buffer) >= size else 0


def amqp(buffer: bytes, toward: Toward, before: int) -> int:
    """Type, channel, size, payload, 0xCE; the first message of a client is the protocol header."""
    if toward == "server" and before == 0:
        return 8 if len(buffer) >= 8 else 0
    if len(buffer) < 7:
        return 0
    size = 8 + int(struct.unpack_from("!I", buffer, 3)[0])
    return size if len(buffer) >= size else 0


def kafka(buffer: bytes, toward: Toward, before: int) -> int:
    """int32."""
    if len(buffer) < 4:
        return 0
    size = 4 + int(struct.unpack_from("!i", buffer)[0])
    return size if len(buffer) >= size else 0


def every() -> Match:
    """All frames."""
    return lambda frame: True


def nth(number: int, of: Match) -> Match:
    """The number-th frame that matches, counted from 1 over all connections."""
    seen = 0

    def match(frame: bytes) -> bool:
        nonlocal seen
        seen += of(frame)
        return seen == number and of(frame)

    return match


def after_bytes(amount: int) -> Match:
    """From so many bytes on."""
    passed = 0

    def match(frame: bytes) -> bool:
        nonlocal passed
        passed += len(frame)
        return passed > amount

    return match


def commit_reply(frame: bytes) -> bool:
    """CommandComplete of a COMMIT, toward the client."""
    return frame[:1] == b"C" and frame[5:] == b"COMMIT\0"


def query(text: str) -> Match:
    """A simple query of exactly this text, toward the server."""
    return lambda frame: frame[:1] == b"Q" and frame[5:-1] == text.encode()


@dataclass
class Rule:
    """What happens to frames that match, so many times."""

    toward: Toward
    when: Match
    do: Action
    left: int
    done: asyncio.Event = field(default_factory=asyncio.Event)  # it hit for the last time


class FaultProxy:
    """One relay to one upstream; `async with` listens on a free port of 127.0.0.1."""

    def __init__(self, upstream: tuple[str, int], *, framing: Framing, seed: int = 0) -> None:
        self.hits: list[tuple[Toward, Action, bytes]] = []
        self.refusing = False  # new connections are closed at once
        self.port = 0
        self._upstream = upstream
        self._framing = framing
        self._dice = random.Random(seed)
        self._rules: list[Rule] = []
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def rule(self, *, toward: Toward, when: Match, do: Action, times: int = 1) -> Rule:
        """Add one; of several that match, the first one added acts."""
        rule = Rule(toward, when, do, times)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """No rules, no refusals; what fell into a black hole is cut."""
        self._rules.clear()
        self.refusing = False
        for link in [link for link in self._links if link.dark]:
            link.cut("rst")

    def cut_all(self) -> int:
        """Reset every connection; how many there were."""
        links = list(self._links)
        for link in links:
            link.cut("rst")
        return len(links)

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        if self._tasks:
            await asyncio.wait(self._tasks)  # their sockets are gone

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(client=writer, server=up_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, "server", link), name="proxy:server")
                pumps.create_task(self._pump(up_reader, "client", link), name="proxy:client")
        finally:
            link.cut("fin")
            self._links.discard(link)

    async def _pump(self, reader: asyncio.StreamReader, toward: Toward, link: "_Link") -> None:
        buffer, before = b"", 0
        try:
            while data := await reader.read(65536):
                buffer += data
                while size := self._framing(buffer, toward, before):
                    frame, buffer, before = buffer[:size], buffer[size:], before + 1
                    await self._pass(frame, toward, link)
        except OSError:
            pass  # the other side, or a rule, cut it
        if not link.dark:
            link.cut("fin")

    async def _pass(self, frame: bytes, toward: Toward, link: "_Link") -> None:
        action = None if link.dark else self._action(frame, toward)
        match action:
            case None:
                pass
            case Delay(seconds, jitter):
                await asyncio.sleep(seconds + self._dice.uniform(0, jitter))
            case Rate(speed):
                await asyncio.sleep(len(frame) / speed)
            case Swallow():
                return
            case Cut(how):
                link.cut(how)
            case Instead(call):
                call(frame)
                link.cut("rst")
                return
            case Blackhole():
                link.dark = True
            case _:
                assert_never(action)
        if not link.dark:
            writer = link.server if toward == "server" else link.client
            writer.write(frame)
            await writer.drain()

    def _action(self, frame: bytes, toward: Toward) -> Action | None:
        for rule in self._rules:
            if rule.toward == toward and rule.left and rule.when(frame):
                rule.left -= 1
                self.hits.append((toward, rule.do, frame))
                if not rule.left:
                    rule.done.set()
                return rule.do
        return None


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dark: bool = False

    def cut(self, how: Literal["fin", "rst"]) -> None:
        for writer in (self.client, self.server):
            if how == "rst":
                writer.transport.abort()
            else:
                writer.close()
