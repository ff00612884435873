"""Steps that the worker executes itself: claimed, beaten for, finished under their fence."""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from typing import Any

from eventbus.errors import CommitUnknownError, StorageError
from eventbus.event import Reply
from eventbus.resilience.seldom import SeldomLog
from eventbus.saga.definition import Definition, StepSpec
from eventbus.saga.engine import Engine
from eventbus.saga.input import CallDone, GaveUp, Outcome
from eventbus.saga.migration import migrated_call
from eventbus.saga.step_flow import step_named
from eventbus.saga.timers import AGAIN
from eventbus.saga.transition import raise_if_ours, write
from eventbus.saga.work import run_call
from eventbus.service import Alarm, end
from eventbus.storage import Storage
from eventbus.storage.sagas import LOOKED_AFTER, Call

log: logging.Logger = logging.getLogger("eventbus.saga")

LEASE = timedelta(seconds=30)
AT_ONCE = 20  # calls in a process, of one saga
LONGEST_REST_SECONDS = LOOKED_AFTER.total_seconds()
GIVE_BACK_SECONDS = 2.0
NO_TIMEOUT = timedelta(days=365)


class CallWorker:
    """Executes call steps with no transaction open; at least once, the effect id is the key."""

    def __init__(self, engine: Engine, storage: Storage) -> None:
        self.finished: int = 0  # ever: progress
        self.trouble: str | None = None
        self._lines = SeldomLog(log)
        self._engine = engine
        self._storage = storage
        self._running: dict[asyncio.Task[None], Call] = {}
        self._runs = False
        self._busy = False
        self._alarm = Alarm(
            lambda at_most: storage.wait("timers", at_most=at_most),
            f"calls:{engine.family.name}",
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Claim and execute until stopping; then end, and give back what was cut."""
        self._runs = True
        try:
            async with self._alarm.set(stopping):
                while not stopping.is_set():
                    if not await self._turn():
                        await self._alarm.rest(LONGEST_REST_SECONDS)
            self._runs = False
            while self._running:
                await asyncio.wait(tuple(self._running))
        finally:
            self._runs = False
            await self._give_back()

    async def idle(self) -> bool:
        """Whether nothing runs; what is due is claimed, what is due later does not count."""
        if not self._runs:
            return True
        if self._busy or self._running:
            return False
        name = f"calls:{self._engine.family.name}"  # whoever asks: it is our turn that claims
        return not await asyncio.create_task(self._turn(), name=name)

    async def _turn(self) -> int:
        self._busy = True
        try:
            free = AT_ONCE - len(self._running)
            if free <= 0 or not self._engine.family.has_calls:
                return 0
            async with self._storage.transaction() as tx:
                calls = await tx.sagas.claim_calls(
                    self._engine.family.reads,
                    owner=self._engine.tools.worker,
                    ttl=LEASE,
                    limit=free,
                )
            self.trouble = None
            self._lines.over("calls of %s go on", self._engine.family.name)
            for call in calls:
                task = asyncio.create_task(self._execute(call), name=f"calls:{call.saga}")
                self._running[task] = call
                task.add_done_callback(self._ended)
            return len(calls)
        except StorageError as error:
            self.trouble = None if isinstance(error, CommitUnknownError) else error.what
            self._engine.tools.count_unknown(error, "calls")
            text = "calls of %s wait for the database: %s"
            self._lines.tell(error.code, text, self._engine.family.name, error)
            return 0
        finally:
            self._busy = False

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._alarm.ring()
        if not task.cancelled() and (error := task.exception()) is not None:
            # once its lease has ended it runs again
            self._engine.tools.count_unknown(error, "calls")
            log.error("a call failed outside its step", exc_info=error)

    async def _execute(self, call: Call) -> None:
        """One attempt, under a beat; its end is fed to the saga."""
        definition = self._engine.family.reading(call.definition)
        if definition is None:
            await self._renew(call, timedelta())
            return
        try:
            call = migrated_call(definition, call)
            spec = step_named(definition, call.step)
        except Exception as error:  # a migration is the author's code and may fail in any way
            await self._stuck(call, error)
            return
        work = asyncio.create_task(_attempt(definition, spec, call), name=f"call:{call.step}")
        beat = asyncio.create_task(self._beat(call), name=f"beat:{call.step}")
        try:
            await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():  # somebody drew a higher fence: whatever comes of it is not ours
                self._engine.tools.count("fenced_writes_total", operation="saga call")
                return
            outcome, reply, why = work.result()
        finally:
            await end([work, beat])
        if outcome == "unknown" and call.phase == "forward" and _may_try_again(spec, call):
            await self._renew(call, spec.resend.wait(call.attempt))
            return
        try:
            await self._finish(call, CallDone(call.effect_id, call.fence, outcome, reply, why))
        except Exception as error:  # the border where the author's code may fail in any way
            raise_if_ours(error)
            await self._stuck(call, error)

    async def _beat(self, call: Call) -> None:
        """Until the call is not ours any more."""
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 3)
            try:
                async with self._storage.transaction() as tx:
                    if not await tx.sagas.renew_calls([call], ttl=LEASE):
                        return
            except StorageError as error:
                self._engine.tools.count_unknown(error, "calls")
                log.warning("the lease of a call was not extended: %s", error)

    async def _renew(self, call: Call, ttl: timedelta) -> None:
        async with self._storage.transaction() as tx:
            await tx.sagas.renew_calls([call], ttl=ttl)

    async def _finish(self, call: Call, done: CallDone) -> None:
        """Under the lock of the saga: delete the row under its fence, then advance."""
        async with self._storage.transaction() as tx:
            records = await tx.sagas.lock([call.saga_id])
            if not await tx.sagas.finish_calls([call]):
                self._engine.tools.count("fenced_writes_total", operation="saga call")
                return
            found = [self._engine.transition(record, tx) for record in records]
            transitions = [one for one in found if one is not None]
            for one in transitions:
                await one.feed(done)
            await write(tx, transitions, self._engine.tools)
        self.finished += 1

    async def _stuck(self, call: Call, error: Exception) -> None:
        """The author's code cannot take what came of it: a person is told, and it runs again."""
        log.exception("the end of call %s of saga %s", call.step, call.saga_id, exc_info=error)
        async with self._storage.transaction() as tx:
            transitions = self._engine.transitions(await tx.sagas.lock([call.saga_id]), tx)
            for one in transitions:
                await one.feed(GaveUp(f"call:{call.step}", _said(error)))
            await write(tx, transitions, self._engine.tools)
            await tx.sagas.renew_calls([call], ttl=AGAIN)

    async def _give_back(self) -> None:
        """What was cut is free at once for another worker."""
        running, self._running = dict(self._running), {}
        if not running:
            return
        await end(running)
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS), self._storage.transaction() as tx:
                await tx.sagas.renew_calls(list(running.values()), ttl=timedelta())


async def _attempt(
    definition: Definition, spec: StepSpec, call: Call
) -> tuple[Outcome, Reply | None, str]:
    seconds = (spec.timeout or NO_TIMEOUT).total_seconds()
    try:
        async with asyncio.timeout(seconds):
            reply: Any = await run_call(definition, call)
    except spec.failures as error:
        return "rejected", None, _said(error)
    except TimeoutError:
        return "unknown", None, f"it took longer than {spec.timeout}"
    except Exception as error:  # the border where the author's code may fail in any way
        log.warning("call %s of saga %s: %s", call.step, call.saga_id, _said(error))
        return "unknown", None, _said(error)
    return "succeeded", reply, ""


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _may_try_again(spec: StepSpec, call: Call) -> bool:
    return call.attempt < spec.resend.attempts
