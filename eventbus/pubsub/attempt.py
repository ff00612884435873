"""One attempt of a group at one message: decode, filter, call its handlers, time them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from eventbus.codec import Registry, decode_untyped
from eventbus.event import TypedMessage, Untyped
from eventbus.handler import BatchHandler, Context, Fence, Invocation, Middleware
from eventbus.instrumentation import Instrumentation
from eventbus.message import Message
from eventbus.personal import Opening
from eventbus.pubsub.participant import Participant
from eventbus.pubsub.routes import Handler, Route, Routes
from eventbus.pubsub.watchdog import Run, Watchdog
from eventbus.storage import Transaction

Decoded = TypedMessage | Untyped
NO_DATA: Mapping[str, Any] = MappingProxyType({})
_Chain = Callable[[Invocation], Awaitable[None]]


class Attempts:
    """Runs the handlers of a group; raises what they raise."""

    def __init__(
        self,
        routes: Routes,
        registry: Registry,
        watchdog: Watchdog,
        *,
        middleware: Sequence[Middleware] = (),
        instrumentation: Instrumentation | None = None,
        fence: Fence | None = None,
    ) -> None:
        self.watchdog = watchdog
        self.participant: Participant = Participant(fence, instrumentation)
        self._routes = routes
        self._registry = registry
        self._instrumentation = instrumentation
        self._middleware = tuple(middleware)
        self._chains: dict[Handler, _Chain] = {}
        self._threads: ThreadPoolExecutor | None = None

    def needs_context(self, route: Route) -> bool:
        """Whether anybody will look at the context of a message."""
        return route.needs_context or bool(self._middleware)

    async def read_keys(self, messages: Sequence[Message], tx: Transaction | None) -> None:
        """Those of personal data in all of them, in one read; they are kept for a while."""
        sealed = [one for one in messages if one.type in self._registry.personal]
        if sealed:
            await self._registry.openings(sealed, tx)

    async def opening(
        self, message: Message, route: Route, tx: Transaction | None
    ) -> Opening | None:
        """With what its personal fields are read, if somebody will read them."""
        if message.type not in self._registry.personal or not route.by_class or route.batches:
            return None
        return (await self._registry.openings([message], tx))[0]

    def decode(self, message: Message, route: Route, opening: Opening | None = None) -> Decoded:
        """The typed message if a handler wants its class, else its data.

        A batch handler decodes for itself: it gets the type alone. In data, and without an
        opening, personal fields stay sealed.

        Raises:
            CodecError: quarantine it.
        """
        if route.batches is not None:
            return Untyped(message.type, NO_DATA)
        if route.by_class:
            return self._registry.decode(message, opening)
        return decode_untyped(message)

    async def handle(
        self, route: Route, what: Decoded, message: Message, context: Context | None, run: Run
    ) -> None:
        """Call the handlers one after another: one verdict for all of them.

        Raises:
            HandlerTimeoutError: EB4103, one ran longer than its group allows.
        """
        run.message = message
        for handler in route.handlers:
            seen: Any = what
            if isinstance(handler.what[0], str) and not isinstance(what, Untyped):
                seen = decode_untyped(message)  # by name a handler gets data, known or not
            if handler.filter is None or handler.filter(seen):
                await self.call(handler, [seen] if handler.batch else seen, context, run)

    async def call(self, handler: Handler, what: Any, context: Context | None, run: Run) -> None:
        """Call one handler, under the eyes of the watchdog.

        Raises:
            HandlerTimeoutError: EB4103, it ran longer than its group allows.
        """
        began = run.began = run.time()
        run.called = True
        run.what = handler.name
        try:
            if self._middleware or not handler.plain:
                invocation = Invocation(handler.call, what, cast("Context", context))
                await self._chain(handler)(invocation)
            elif handler.takes_context:
                await handler.call(what, context)
            else:
                await handler.call(what)
        except asyncio.CancelledError:
            timed_out = self.watchdog.timed_out(run)
            if timed_out is None:
                raise
            raise timed_out from None
        finally:
            run.ended()
        if self._instrumentation is not None:
            self._observe(handler, began)

    async def call_batch(
        self,
        handler: Handler,
        whats: Sequence[Decoded],
        contexts: Sequence[Context],
        run: Run,
    ) -> Sequence[Exception | None]:
        """Call a batch handler once, under the eyes of the watchdog; middleware is around the call.

        A middleware that does not go on takes all of them for done.

        Raises:
            HandlerTimeoutError: EB4103, it ran longer than its group allows.
        """
        assert handler.batches is not None  # noqa: S101 - the only caller asked
        batches: BatchHandler = handler.batches
        pairs = zip(whats, contexts, strict=True)
        calls = [Invocation(handler.call, what, context) for what, context in pairs]
        failures: list[Exception | None] = [None] * len(calls)

        async def together(_: Invocation) -> None:
            failures[:] = await batches.handle_batch(calls, contexts[0].storage)

        run.began = run.time()
        run.called = True
        run.what = self._routes.group.name
        run.message = None
        try:
            await self._wrapped(together)(Invocation(handler.call, whats, contexts[0]))
        except asyncio.CancelledError:
            timed_out = self.watchdog.timed_out(run)
            if timed_out is None:
                raise
            raise timed_out from None
        finally:
            run.ended()
        return failures

    def close(self) -> None:
        """Let go of the threads; what runs in one ends by itself."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _chain(self, handler: Handler) -> _Chain:
        chain = self._chains.get(handler)
        if chain is None:
            chain = self._chains[handler] = self._wrapped(partial(self._innermost, handler))
        return chain

    def _wrapped(self, chain: _Chain) -> _Chain:
        """In all middleware, the first outermost."""
        for wrapper in reversed(self._middleware):
            chain = partial(_through, wrapper, chain)
        return chain

    async def _innermost(self, handler: Handler, invocation: Invocation) -> None:
        what, context = invocation.what, invocation.context
        arguments = (what, context) if handler.takes_context else (what,)
        if handler.synchronous:
            await self._in_thread(invocation.handler, arguments)
            return
        if handler.kind == "event":
            await invocation.handler(*arguments)
        else:
            await self.participant.handle(handler, invocation)

    async def _in_thread(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        group = self._routes.group
        if self._threads is None:
            self._threads = ThreadPoolExecutor(group.lanes, f"eventbus-{group.name}")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, copy_context().run, function, *arguments)

    def _observe(self, handler: Handler, began: float) -> None:
        assert self._instrumentation is not None  # noqa: S101 - asked by the only caller
        self._instrumentation.observe(
            "handler_duration_seconds",
            asyncio.get_running_loop().time() - began,
            group=handler.group.name,
            handler=handler.name,
        )


async def _through(wrapper: Middleware, inner: _Chain, invocation: Invocation) -> None:
    await wrapper(invocation, inner)
