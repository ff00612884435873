"""Real services for tests: a URL in the environment, a container, native processes."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from eventbus.errors import ConfigurationError
from eventbus.testing.services import docker
from eventbus.testing.services.kafka import Kafka
from eventbus.testing.services.postgres import Postgres
from eventbus.testing.services.processes import Process, this_process
from eventbus.testing.services.rabbitmq import Rabbit
from eventbus.testing.services.service import (
    Absent,
    ProbeError,
    Running,
    Say,
    Service,
    ServiceMissingError,
    variable,
    without_password,
)
from eventbus.testing.services.state import Entry, started_here, state_of_this_checkout

SERVICES: Mapping[str, Service] = {
    service.name: service for service in (Postgres(), Rabbit(), Kafka())
}

_PATIENCE = 15.0  # seconds


def say_nothing(what: object) -> None:
    """For callers that do not want to hear of progress."""


@contextmanager
def running(name: str) -> Iterator[Running]:
    """A service for the time of the block: what runs and answers, or a new one.

    A new one is stopped when its last user has left; one that `up` started stays.

    Raises:
        ServiceMissingError: EB1302, no lane gives it.
        ConfigurationError: EB1301, the URL in the environment does not answer; EB1303, it is
            installed here and does not start.
    """
    user = this_process()
    try:
        yield acquire(name, user)
    finally:
        _release_once(name, user)


def up(name: str, *, say: Say = say_nothing) -> Running:
    """What runs and answers, or a new one; it stays until `down`.

    What is missing is installed if this is Debian or Ubuntu and we may. Raises as `running` does.
    """
    return acquire(name, None, install=True, say=say)


def acquire(
    name: str, user: Process | None, *, install: bool = False, say: Say = say_nothing
) -> Running:
    """As `running`, without the block: `release(user)` ends it; without a user it is kept.

    Safe in several processes at once: one starts the service, the others wait and use it.
    """
    service = SERVICES[name]
    url = os.environ.get(variable(name))
    if url:
        return _from_environment(service, url)
    if sys.platform == "win32":
        raise _missing(service, [Absent("native", "it is not started on Windows")])
    state = state_of_this_checkout()
    with state.locked() as entries:
        _end_unwanted(entries)
        entry = entries.get(name)
        if entry is not None and not _answers(service, entry.running, patience=_PATIENCE):
            end(entries.pop(name).running)
            entry = None
        if entry is None:
            entry = started_here(_start(service, install=install, say=say))
        entries[name] = replace(entry, kept=True) if user is None else entry.used_by(user)
        return entry.running


def release(user: Process) -> None:
    """The user needs nothing any more, however often it acquired: end what nobody else wants."""
    state = state_of_this_checkout()
    if not state.read():  # nothing was ever started: leave no trace
        return
    with state.locked() as entries:
        for name, entry in entries.items():
            entries[name] = entry.left_by(user)
        _end_unwanted(entries)


def _release_once(name: str, user: Process) -> None:
    state = state_of_this_checkout()
    if name not in state.read():  # it came from the environment: leave no trace
        return
    with state.locked() as entries:
        if name in entries:
            entries[name] = entries[name].left_once_by(user)
        _end_unwanted(entries)


def down(names: Sequence[str] = (), *, ended: Callable[[Entry], object] = say_nothing) -> None:
    """End what was started here and is named (default: all of it), and tell of each.

    Raises:
        ConfigurationError: EB1303, the first that does not end; it stays written down, and the
            others are ended.
    """
    state = state_of_this_checkout()
    if not state.read():
        return
    failures: list[ConfigurationError] = []
    with state.locked() as entries:
        for name in [name for name in entries if not names or name.partition(":")[0] in names]:
            try:
                end(entries[name].running)
            except ConfigurationError as error:
                failures.append(error)
            else:
                ended(entries.pop(name))
    if failures:
        raise failures[0]


def status() -> dict[str, Entry]:
    """What was started here and still answers."""
    entries = state_of_this_checkout().read()
    return {
        name: entry
        for name, entry in entries.items()
        if _answers(SERVICES[entry.running.service], entry.running)
    }


def end(running: Running) -> None:
    """Stop what was started here, in its lane."""
    if running.container is not None:
        docker.remove(running.container)
    else:
        SERVICES[running.service].stop(running)


def _from_environment(service: Service, url: str) -> Running:
    try:
        version = service.probe(url)
    except ProbeError as error:
        raise ConfigurationError(
            "EB1301",
            f"{service.title} for tests does not answer",
            where=f"{variable(service.name)}={without_password(url)}",
            why=str(error),
            next=f"start it, correct the URL, or unset {variable(service.name)} "
            "so that Docker and native processes are tried",
        ) from error
    return Running(service=service.name, url=url, lane="environment", version=version)


def _start(service: Service, *, install: bool, say: Say) -> Running:
    in_docker = docker.start(service, say=say)
    if isinstance(in_docker, Running):
        return in_docker
    parent = state_of_this_checkout().directory
    native = service.start(parent, install=install, say=say)
    if isinstance(native, Running):
        return native
    raise _missing(service, [in_docker, native])


def _missing(service: Service, absent: Sequence[Absent]) -> ServiceMissingError:
    lanes = [f"{variable(service.name)} is not set", *(f"{a.lane}: {a.reason}" for a in absent)]
    return ServiceMissingError(
        "EB1302",
        f"no {service.title} for tests",
        where="environment, Docker, native processes",
        why="; ".join(lanes),
        next=service.enabled_by,
    )


def _end_unwanted(entries: dict[str, Entry]) -> None:
    for name in [name for name, entry in entries.items() if not entry.wanted]:
        end(entries.pop(name).running)


def _answers(service: Service, running: Running, *, patience: float = 0) -> bool:
    """Its processes are the ones we started, and it answers within `patience` seconds.

    One probe on a busy machine says little, and what is ended here may have other users.
    """
    deadline = time.monotonic() + patience
    while all(process.alive for process in running.processes):
        try:
            service.probe(running.url)
        except ProbeError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        else:
            return True
    return False
