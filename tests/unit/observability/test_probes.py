"""Probes answer from a thread of their own, whatever the event loop does."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from eventbus.errors import ConfigurationError
from eventbus.instrumentation import NoInstrumentation
from eventbus.observability.probes import LoopTick, Probes
from eventbus.observability.prometheus import PrometheusInstrumentation


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Facts:
    """What the checks say."""

    alive: tuple[bool, list[str]] = (True, [])
    readiness: tuple[bool, list[str]] = (True, [])
    more: dict[str, object] = field(default_factory=lambda: {"version": "1"})


@contextmanager
def serving(facts: Facts, tick: LoopTick | None = None, metrics: bool = True) -> Iterator[Probes]:
    probes = Probes(
        "127.0.0.1",
        0,
        live=lambda: facts.alive,
        ready=lambda: facts.readiness,
        metrics=(lambda: b"eventbus_up 1\n") if metrics else None,
        info=lambda: facts.more,
        tick=tick,
    )
    probes.start()
    try:
        yield probes
    finally:
        probes.stop()


def ask(probes: Probes, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and body; blocks whoever calls it."""
    connection = http.client.HTTPConnection("127.0.0.1", probes.port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def test_all_is_well() -> None:
    with serving(Facts()) as probes:
        for path in ("/livez", "/healthz", "/readyz", "/livez?verbose"):
            assert ask(probes, path) == (200, "text/plain; charset=utf-8", "ok\n")


def test_what_is_not_well_is_said_on_its_own_page() -> None:
    facts = Facts(readiness=(False, ["the broker cannot be reached", "draining"]))
    with serving(facts) as probes:
        assert ask(probes, "/livez")[0] == 200
        assert ask(probes, "/readyz")[::2] == (503, "the broker cannot be reached\ndraining\n")
        facts.alive, facts.readiness = (False, []), (True, ["paused: bank"])
        assert ask(probes, "/livez")[::2] == (503, "not ok\n")
        assert ask(probes, "/readyz")[::2] == (200, "ok\npaused: bank\n")


def test_metrics_and_facts_are_served() -> None:
    with serving(Facts()) as probes:
        metrics = (200, "text/plain; version=0.0.4; charset=utf-8", "eventbus_up 1\n")
        assert ask(probes, "/metrics") == metrics
        status, kind, body = ask(probes, "/info")
        assert (status, kind, json.loads(body)) == (200, "application/json", {"version": "1"})


def test_a_scrape_reads_what_was_reported() -> None:
    metrics = PrometheusInstrumentation()
    well = lambda: (True, list[str]())  # noqa: E731 - a value for two arguments
    probes = Probes("127.0.0.1", 0, live=well, ready=well, metrics=metrics.text, info=dict)
    probes.start()
    try:
        metrics.gauge("loop_lag_seconds", 0.25)
        assert "eventbus_loop_lag_seconds 0.25" in ask(probes, "/metrics")[2]
    finally:
        probes.stop()


@pytest.mark.parametrize("path", ["/", "/livez/", "/../etc/passwd", "/metrics", "//"])
def test_there_is_nothing_else(path: str) -> None:
    with serving(Facts(), metrics=False) as probes:
        status, _, body = ask(probes, path)
        assert status == 404
        assert "/livez\n" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_nothing_but_get_is_answered(method: str) -> None:
    with serving(Facts()) as probes:
        assert ask(probes, "/livez", method)[0] == 501


def test_a_check_that_breaks_is_an_answer_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    facts = Facts(more={"not": object()})
    with serving(facts) as probes:
        assert ask(probes, "/info")[0] == 500
        assert ask(probes, "/livez")[0] == 200
    assert "the page /info failed" in caplog.text


async def test_it_answers_while_the_loop_is_blocked() -> None:
    clock = Clock()
    tick = LoopTick(now=clock)
    with serving(Facts(), tick) as probes:
        # ask() blocks this very loop until the answer is there
        assert ask(probes, "/livez")[0] == 200
        clock.seconds = 30
        assert ask(probes, "/livez")[0] == 200
        clock.seconds = 31
        assert ask(probes, "/livez")[::2] == (503, "the event loop has not run for 31 s\n")
        assert ask(probes, "/readyz")[0] == 200
        tick.touch()
        assert ask(probes, "/livez")[0] == 200


class Reported(NoInstrumentation):
    """The last value of a gauge, and word that there is one."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.last: tuple[str, float] | None = None

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        self.last = (name, value)
        self.told.set()

    async def next(self) -> tuple[str, float] | None:
        self.told.clear()
        await self.told.wait()
        return self.last


async def test_a_loop_that_runs_ticks_until_it_is_stopped() -> None:
    clock, reported, stopping = Clock(), Reported(), asyncio.Event()
    tick = LoopTick(now=clock, instrumentation=reported, every_seconds=0.5)
    clock.seconds = 100
    assert tick.live()[0] is False
    running = asyncio.create_task(tick.run(stopping), name="tick:loop")
    async with asyncio.timeout(30):
        assert await reported.next() == ("loop_lag_seconds", 0)
        assert tick.live() == (True, [])
        clock.seconds += 3  # before the next tick: 2.5 s later than it should be
        assert await reported.next() == ("loop_lag_seconds", 2.5)
        assert tick.age_seconds() == 0
        stopping.set()
        await running


def test_one_who_connects_and_says_nothing_keeps_nobody_waiting() -> None:
    with (
        serving(Facts()) as probes,
        socket.create_connection(("127.0.0.1", probes.port)),
    ):
        assert ask(probes, "/livez")[0] == 200


def test_starting_and_stopping_twice_is_the_same_as_once() -> None:
    with serving(Facts()) as probes:
        port = probes.port
        probes.start()
        assert probes.port == port
        probes.stop()
        probes.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_no_thread_is_left_after_the_end() -> None:
    with serving(Facts()) as probes:
        name = f"probes:{probes.port}"
        (thread,) = [each for each in threading.enumerate() if each.name == name]
        assert thread.daemon
    thread.join(5)
    assert not thread.is_alive()


def test_an_address_in_use_is_refused_with_its_reason() -> None:
    with serving(Facts()) as probes:
        second = Probes(
            "127.0.0.1",
            probes.port,
            live=lambda: (True, []),
            ready=lambda: (True, []),
            metrics=None,
            info=dict,
        )
        with pytest.raises(ConfigurationError, match="in use") as raised:
            second.start()
        assert raised.value.code == "EB1008"
