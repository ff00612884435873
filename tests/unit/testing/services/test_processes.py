"""Servers that are started, and ended only if they are still what was started."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus.testing.services.kafka import Kafka
from eventbus.testing.services.processes import (
    BESIDE,
    Process,
    born,
    family,
    free_port,
    identified,
    kill,
    spawn,
    wait_until,
)
from eventbus.testing.services.rabbitmq import Rabbit
from eventbus.testing.services.service import Running, Service


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Process]:
    """A shell with a child of its own, started as servers are."""
    command = ["/bin/sh", "-c", "echo begun; sleep 300 & wait"]
    process = spawn(command, directory=tmp_path, environment={"PATH": os.environ["PATH"]})
    assert wait_until(lambda: len(family(process)) == 2, 10)
    yield process
    kill([process])


def test_what_is_killed_takes_its_children_along(parent: Process) -> None:
    pids = family(parent)
    assert kill([parent])
    assert [born(pid) for pid in pids] == [None, None]


def test_the_output_is_in_the_log_and_the_session_its_own(parent: Process, tmp_path: Path) -> None:
    assert (tmp_path / "log").read_text() == "begun\n"
    assert os.getsid(parent.pid) != os.getsid(0)


def test_nothing_of_our_environment_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    environment = {"PATH": os.environ["PATH"], "MINE": "1"}
    process = spawn(["env"], directory=tmp_path, environment=environment)
    assert wait_until(lambda: not process.alive, 10)
    log = (tmp_path / "log").read_text()
    assert "MINE=1" in log
    assert "SECRET_OF_OURS" not in log


@pytest.mark.parametrize("service", [Rabbit(), Kafka()], ids=lambda service: service.name)
def test_a_process_that_has_the_number_by_chance_is_left_alone(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        service.stop(
            Running(
                service=service.name,
                url="none",
                lane="native",
                version="1",
                processes=(Process(stranger.pid, "long ago"),),
                directory=str(tmp_path / "data"),
            )
        )
        assert identified(stranger.pid).alive
        assert not (tmp_path / "data").exists()
        stranger.communicate(b"\n")
    assert stranger.returncode == 0


def test_a_free_port_has_a_free_companion_below_the_ports_of_clients() -> None:
    port = free_port()
    assert port + BESIDE < 32768
    for each in (port, port + BESIDE):
        with socket.create_server(("127.0.0.1", each)):
            pass


def test_nobody_is_given_a_port_that_another_was_given_and_does_not_use_yet() -> None:
    """With a random one each time a Kafka had two listeners on one port, once in a while."""
    given = [free_port() for _ in range(1_000)]
    assert len(set(given)) == len(given)
