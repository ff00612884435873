"""run and dev as processes of their own: signals, exit codes, probes, the first screen."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

from eventbus.cli.reload import stamps
from eventbus.testing.services.processes import free_port

from .conftest import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

FILL = """
import asyncio
from worker_app import Slow, bus


async def fill() -> None:
    async with bus.client():
        await bus.publish(Slow())


asyncio.run(fill())
"""

WORKER = """
import asyncio
import atexit
import gc
from datetime import timedelta

from eventbus import Event, EventBus, Group, subscribe


class Slow(Event, type="shop.slow"):
    pass


@subscribe(Slow, group=Group("slow", timeout=timedelta(seconds=60)))
async def hang(event: Slow) -> None:
    print("hanging", flush=True)
    await asyncio.Event().wait()


@subscribe(Slow, group="stubborn")
async def swallow(event: Slow) -> None:
    print("swallowed", flush=True)


bus = EventBus("memory://", storage="sqlite:///slow.db", service="shop", handlers=[hang])
swift = EventBus("memory://", service="shop", handlers=[swallow])
atexit.register(lambda: print(gc.get_freeze_count(), gc.get_threshold()[0]))
"""

Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Start a command as a child; what still runs at the end is killed."""
    (project / "worker_app.py").write_text(WORKER, encoding="utf-8")
    started: list[Process] = []

    def start(*args: str) -> Process:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "eventbus", *args]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


def until(stream: IO[str] | None, text: str) -> list[str]:
    """The lines up to the one that contains a text."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"{text!r} never came: {lines}")


def end(process: Process, number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_reports_its_guarantees_and_a_signal_drains_it(
    start: Start, number: signal.Signals
) -> None:
    process = start("run", "worker_app:swift")
    lines = until(process.stderr, "EB1111")
    assert re.fullmatch(
        r"  eventbus \S+   worker_app:swift   memory://   1 handler, 1 type", lines[0]
    )
    assert any("EB1103  group 'stubborn': effect at least once" in line for line in lines)
    until(process.stderr, "ready;")
    code, err = end(process, number)
    assert (code, "draining" in err) == (0, True)


WAITING = "threading.Event().wait()"
BROKEN = f"try:\n    {WAITING}\nexcept SystemExit:\n    raise RuntimeError('in half')"


@pytest.mark.parametrize(
    ("command", "waiting"),
    [
        (("run",), WAITING),
        (("run",), BROKEN),  # as a lock that the signal came upon
        (("outbox", "relay"), WAITING),
        (("saga", "worker"), WAITING),
    ],
)
def test_a_worker_that_is_told_to_end_before_it_began_ends_well(
    start: Start, project: Path, command: tuple[str, ...], waiting: str
) -> None:
    text = f"import threading\n\nprint('importing', flush=True)\n{waiting}\n"
    (project / "slow_app.py").write_text(text, encoding="utf-8")
    process = start(*command, "slow_app:bus")
    until(process.stdout, "importing")
    assert end(process, signal.SIGTERM) == (0, "")


def test_collections_leave_out_what_a_worker_starts_with_and_are_rare(start: Start) -> None:
    process = start("run", "worker_app:swift")
    until(process.stderr, "ready;")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    frozen, apart = map(int, out.split()[-2:])
    assert frozen > 10_000
    assert apart > 10_000


def test_dev_prints_a_line_per_event_and_ctrl_c_ends_it(start: Start, project: Path) -> None:
    process = start("dev", "worker_app:swift", "--publish", "shop.slow")
    lines = until(process.stdout, "done")
    assert lines[0].startswith("  eventbus ")
    assert lines[1] == "swallowed"
    assert re.fullmatch(
        r"  \d\d:\d\d:\d\d  shop\.slow  -> stubborn\.swallow  done \d+\.\d ms", lines[2]
    )
    assert end(process, signal.SIGINT) == (0, "")


SPEAKING = """
import logging
{setup}
from eventbus import Event, EventBus, subscribe

log = logging.getLogger(__name__)


class Heard(Event, type="shop.heard"):
    pass


@subscribe(Heard, group="speaking")
async def speak(event: Heard) -> None:
    log.info("of the app")
    logging.getLogger("some.client").info("of a client, at length")
    logging.getLogger("some.client").warning("of a client")


bus = EventBus("memory://", handlers=[speak])
"""


def test_an_app_that_sets_no_logs_up_is_heard_in_the_form_of_ours(
    start: Start, project: Path
) -> None:
    (project / "speaking_app.py").write_text(SPEAKING.format(setup=""), encoding="utf-8")
    process = start("-o", "json", "dev", "speaking_app:bus", "--publish", "shop.heard")
    until(process.stdout, "done")
    code, err = end(process, signal.SIGINT)
    first, second = [json.loads(line) for line in err.splitlines()]
    assert (code, first["logger"], first["message"]) == (0, "speaking_app", "of the app")
    assert (second["logger"], second["message"]) == ("some.client", "of a client")


def test_who_asks_for_quiet_hears_warnings_alone(start: Start, project: Path) -> None:
    (project / "speaking_app.py").write_text(SPEAKING.format(setup=""), encoding="utf-8")
    process = start("-q", "-o", "json", "dev", "speaking_app:bus", "--publish", "shop.heard")
    until(process.stdout, "done")
    _, err = end(process, signal.SIGINT)
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["of a client"]


def test_an_app_that_has_set_its_logs_up_keeps_them(start: Start, project: Path) -> None:
    setup = "logging.basicConfig(level=logging.WARNING, format='mine: %(message)s')"
    (project / "speaking_app.py").write_text(SPEAKING.format(setup=setup), encoding="utf-8")
    process = start("dev", "speaking_app:bus", "--publish", "shop.heard")
    until(process.stdout, "done")
    assert end(process, signal.SIGINT) == (0, "mine: of a client\n")


def test_dev_shows_a_failure_without_a_traceback(start: Start) -> None:
    process = start("dev", "shop_app:bus", "--publish", 'shop.ordered {"order": "A-1"}')
    lines = until(process.stdout, "failed ValueError: card refused")
    assert "shop.ordered A-1  -> dying.die" in lines[-1]
    code, err = end(process, signal.SIGINT)
    assert (code, "Traceback" in err) == (0, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('shop.ordered {"cents": 1}', "order: Field required"),
        ("shop.ordered {", "Invalid JSON"),
        ("else.where [1", "no JSON object"),
    ],
)
def test_dev_publishes_nothing_that_does_not_validate(run: Run, text: str, said: str) -> None:
    ran = run("dev", "shop_app:bus", "--publish", 'shop.ordered {"order": "A"}', "--publish", text)
    assert ran.code == 2
    assert said in ran.err.splitlines()[0]
    assert ran.out == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shop.slwo", "  nobody here handles shop.slwo: is shop.slow meant?"),
        ("else.where", "  nobody here handles else.where"),
    ],
)
def test_dev_says_that_nobody_handles_it(start: Start, name: str, said: str) -> None:
    process = start("dev", "worker_app:swift", "--publish", name)
    assert until(process.stderr, "nobody")[-1] == said
    assert end(process, signal.SIGINT)[0] == 0


def hanging(start: Start, *flags: str) -> Process:
    """A worker whose handler never ends."""
    subprocess.run([sys.executable, "-c", FILL], check=True, timeout=110)
    process = start("run", "worker_app:bus", *flags)
    until(process.stdout, "hanging")
    return process


def test_a_second_signal_ends_at_once(start: Start) -> None:
    process = hanging(start)
    process.send_signal(signal.SIGTERM)
    until(process.stderr, "draining")
    assert end(process, signal.SIGTERM)[0] == 143


def test_a_second_ctrl_c_ends_at_once(start: Start) -> None:
    process = hanging(start)
    process.send_signal(signal.SIGINT)
    until(process.stderr, "draining")
    assert end(process, signal.SIGINT)[0] == 130


def test_a_used_up_grace_is_partly_done(start: Start) -> None:
    process = hanging(start, "--grace", "500ms")
    code, err = end(process, signal.SIGTERM)
    assert (code, "the grace of 0:00:00.500000 is used up" in err) == (4, True)


def test_probes_follow_the_life_of_the_worker(start: Start) -> None:
    port = free_port()
    process = start("run", "worker_app:swift", "--http", f"127.0.0.1:{port}")
    until(process.stderr, "ready;")
    assert get(port, "/livez") == (200, "ok\n")
    assert get(port, "/readyz") == (200, "ok\n")
    assert json.loads(get(port, "/info")[1])["groups"] == ["stubborn"]
    metrics = get(port, "/metrics")[1]
    assert 'eventbus_healthy{probe="readyz"} 1.0' in metrics
    assert end(process, signal.SIGTERM)[0] == 0


def test_a_draining_worker_is_not_ready_but_lives(start: Start) -> None:
    port = free_port()
    process = hanging(start, "--http", f"127.0.0.1:{port}")
    process.send_signal(signal.SIGTERM)
    until(process.stderr, "draining")
    assert get(port, "/livez")[0] == 200
    assert get(port, "/readyz") == (503, "draining\n")


def test_an_address_in_use_is_refused(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start("run", "worker_app:swift", "--http", f"127.0.0.1:{taken.getsockname()[1]}")
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "EB1008" in err) == (2, True)


@pytest.mark.parametrize("address", ["8080", "localhost:http", "127.0.0.1:99999"])
def test_what_is_no_address_is_a_usage_error(start: Start, address: str) -> None:
    process = start("run", "worker_app:swift", "--http", address)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "EB8001 --http" in err) == (2, True)


def test_groups_that_memory_does_not_reach_from_here_are_named(start: Start, filled: Path) -> None:
    process = start("run", "shop_app:bus", "--group", "fine")
    report = "\n".join(until(process.stderr, "ready;"))
    assert "EB1111  memory:// reaches this process only: what is for " in report
    assert "retrying" in report.rpartition("only: ")[2]
    assert end(process, signal.SIGTERM)[0] == 0
    whole = start("run", "shop_app:bus")
    assert "reaches this process only" not in "\n".join(until(whole.stderr, "ready;"))


def test_a_second_bus_on_a_file_is_refused(start: Start, filled: Path) -> None:
    first = start("run", "shop_app:bus", "--group", "fine")
    until(first.stderr, "ready;")
    second = start("run", "shop_app:bus")
    _, err = second.communicate(timeout=60)
    assert (second.returncode, "EB5303" in err) == (5, True)
    assert end(first, signal.SIGTERM)[0] == 0


def test_an_unsafe_bus_does_not_start(start: Start) -> None:
    process = start("run", "shop_app:unsafe")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "EB1110" in err, "Traceback" in err) == (2, True, False)


def test_reload_starts_again_when_a_file_changes(start: Start, project: Path) -> None:
    process = start("dev", "worker_app:swift", "--publish", "shop.slow", "--reload")
    until(process.stdout, "done")
    text = (project / "worker_app.py").read_text().replace("swallowed", "swallowed again")
    (project / "worker_app.py").write_text(text)
    until(process.stdout, "swallowed again")
    assert end(process, signal.SIGTERM)[0] == 0


def test_hidden_folders_do_not_reload(project: Path) -> None:
    (project / ".venv").mkdir()
    (project / ".venv" / "x.py").write_text("")
    (project / "seen.py").write_text("")
    found: Sequence[str] = list(stamps())
    assert "seen.py" in found
    assert not any(".venv" in name for name in found)
