"""What the lane of Docker decides where there is no engine, or one without the image.

No container runs in these tests: that needs an engine.
"""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eventbus.testing.services import docker
from eventbus.testing.services.__main__ import main
from eventbus.testing.services.find import SERVICES
from eventbus.testing.services.postgres import IMAGE, Postgres
from eventbus.testing.services.processes import BESIDE
from eventbus.testing.services.service import Absent, Running, Service, variable
from eventbus.testing.services.state import DIRECTORY, State, started_here

CONTAINER = "c" * 64
COMPOSE = Path(__file__).parents[4] / "docker-compose.test.yml"


def start() -> Absent:
    """The lane, which must be out; what it said on the way is its caller's."""
    found = docker.start(Postgres(), say=lambda text: None)
    assert isinstance(found, Absent)
    return found


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DOCKER_HOST", "unset by each test")
    monkeypatch.delenv("EVENTBUS_TEST_POSTGRES_IMAGE", raising=False)
    yield
    assert "DOCKER_HOST" in os.environ


class Engine(BaseHTTPRequestHandler):
    """As much of an engine as says that it has no image; `pull` decides how a pull ends."""

    pull = "refused"
    finished = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/version":
            self.answer(200, {"ApiVersion": "1.44"})
        elif self.path.endswith(f"/containers/{CONTAINER}/json"):
            self.answer(200, {"Id": CONTAINER})
        else:
            self.answer(404, {"message": f"No such image: {self.path}"})

    def do_DELETE(self) -> None:
        self.finished.wait(30)
        self.answer(204, None)

    def do_POST(self) -> None:
        if self.pull == "hangs":
            self.finished.wait(30)
        self.answer(500, {"message": "registry cannot be reached"})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Engine]]:
    class Mine(Engine):
        finished = threading.Event()

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        thread = threading.Thread(target=server.serve_forever, name="engine")
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        yield Mine
        Mine.finished.set()
        server.shutdown()
        thread.join()


def test_without_an_engine_the_lane_is_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'no.sock'}")
    assert start().reason.startswith("no engine answers within 2 s: ")


def test_an_engine_that_accepts_and_never_answers_is_given_up_after_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        reason = start().reason
        assert 1.9 < time.monotonic() - began < 10
    assert reason.startswith("no engine answers within 2 s: ")


def test_an_image_that_cannot_be_pulled_leads_to_the_next_lane(engine: type[Engine]) -> None:
    reason = start().reason
    assert reason.startswith(f"{IMAGE} is not here and cannot be pulled: ")
    assert "registry cannot be reached" in reason


def test_a_pull_that_hangs_is_given_up(
    engine: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.pull = "hangs"
    monkeypatch.setattr(docker, "PULL_SECONDS", 1.0)
    assert start().reason == f"{IMAGE} is not here and not pulled within 1 s"


def test_the_image_is_chosen_by_the_environment(
    engine: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_POSTGRES_IMAGE", "mirror.example/postgres:16")
    assert start().reason.startswith("mirror.example/postgres:16 is not here")


def test_a_container_that_is_not_removed_in_time_is_told_and_stays_written_down(
    engine: type[Engine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setattr(docker, "REMOVE_SECONDS", 1)
    there = Running(service="postgres", url="", lane="docker", version="17", container=CONTAINER)
    gone = replace(there, service="kafka", container=None, lane="native")
    with State(tmp_path).locked() as entries:
        entries |= {"postgres": started_here(there), "kafka": started_here(gone)}
    assert main(["down"]) == 1
    said = capsys.readouterr().err
    assert "EB1303 a container for tests was not removed" in said
    assert "ended kafka" in said, "the others are ended all the same"
    assert set(State(tmp_path).read()) == {"postgres"}


def section(name: str) -> str:
    """What compose says of one service."""
    return COMPOSE.read_text().partition(f"  {name}:\n")[2].partition("\n\n")[0]


@pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
def test_compose_runs_the_images_with_the_settings_of_the_package(service: Service) -> None:
    text = section(service.name)
    published = {
        int(inside): int(outside)
        for outside, inside in re.findall(r'- "127\.0\.0\.1:(\d+):(\d+)"', text)
    }
    port = next(iter(published.values()))
    container = service.container(port)
    beside = {} if container.beside is None else {container.beside: port + BESIDE}
    assert published == {container.port: port, **beside}
    assert re.findall(r"^    image: (.+)$", text, re.MULTILINE) == [container.image]
    environment = dict(re.findall(r'^      ([A-Z_]+): "?(.+?)"?$', text, re.MULTILINE))
    assert environment == container.environment
    listed = re.findall(r"^      - ([^\"].*)$", text, re.MULTILINE)
    words = listed or "".join(re.findall(r"^    command: (.+)$", text, re.MULTILINE)).split()
    assert tuple(words) == container.command


@pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
def test_compose_says_the_url_of_each_service(service: Service) -> None:
    name = variable(service.name)
    url = re.findall(rf"^#   export {name}=(.+)$", COMPOSE.read_text(), re.MULTILINE)
    port = int(re.findall(r'- "127\.0\.0\.1:(\d+):', section(service.name))[0])
    assert url == [service.container_url("127.0.0.1", port)]


def test_compose_publishes_on_loopback_only() -> None:
    published = re.findall(r'^      - "(.+)"', COMPOSE.read_text(), re.MULTILINE)
    assert published
    assert all(each.startswith("127.0.0.1:") for each in published)
