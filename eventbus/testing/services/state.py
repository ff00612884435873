"""What runs for this checkout: one JSON file under a lock, for shells and workers alike."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eventbus.errors import ConfigurationError
from eventbus.testing.services.processes import Process, this_process
from eventbus.testing.services.service import Running

DIRECTORY = "EVENTBUS_TEST_SERVICES_DIR"
SCHEMA = "eventbus.testing.services/1"
_WAIT_SECONDS = 480.0  # somebody else may be installing packages or pulling an image


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A service that was started here: until `down` if kept, else until its last user ends."""

    running: Running
    started_by: Process
    kept: bool = False
    users: tuple[Process, ...] = ()

    def used_by(self, user: Process) -> "Entry":
        """One more use, perhaps not this user's first; users that died are forgotten."""
        return replace(self, users=(*(each for each in self.users if each.alive), user))

    def left_once_by(self, user: Process) -> "Entry":
        """One use less."""
        users = list(self.users)
        if user in users:
            users.remove(user)
        return replace(self, users=tuple(users))

    def left_by(self, user: Process) -> "Entry":
        """No use of this user is left."""
        return replace(self, users=tuple(each for each in self.users if each != user))

    @property
    def wanted(self) -> bool:
        """Somebody still needs it."""
        return self.kept or any(user.alive for user in self.users)


class State:
    """The entries of one directory, by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "state.json"

    def read(self) -> dict[str, Entry]:
        """The entries now; the next moment somebody may change them.

        Raises:
            ConfigurationError: EB1303, the file cannot be understood.
        """
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _unusable(self.directory, error) from error
        try:
            return _entries(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                "EB1303",
                "the state of the test services cannot be read",
                where=str(self._file),
                why=f"it was not written by this version: {error!r}",
                next="end what still runs by the pids in it, then delete the file",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[dict[str, Entry]]:
        """The entries to read and change; nobody else does until the block is left.

        What was changed is written, also when the block raises.

        Raises:
            ConfigurationError: EB1303, another process has held the lock for 480 s, or the
                directory cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            lock = open(self.directory / "lock", "a", encoding="utf-8")  # noqa: SIM115  # closed below
        except OSError as error:
            raise _unusable(self.directory, error) from error
        with lock:
            _lock(lock.fileno(), self.directory)
            entries = self.read()
            before = dict(entries)
            try:
                yield entries
            finally:
                if entries != before:
                    self._write(entries)

    def _write(self, entries: dict[str, Entry]) -> None:
        services = {name: asdict(entry) for name, entry in entries.items()}
        draft = self._file.with_suffix(f".{os.getpid()}")
        draft.write_text(
            json.dumps({"schema": SCHEMA, "services": services}, indent=2), encoding="utf-8"
        )
        draft.replace(self._file)


def state_of_this_checkout() -> State:
    """The state in EVENTBUS_TEST_SERVICES_DIR, or in the user's cache, keyed by the checkout."""
    chosen = os.environ.get(DIRECTORY)
    if chosen:
        return State(Path(chosen).resolve())
    key = hashlib.sha256(str(_checkout(Path.cwd())).encode()).hexdigest()[:12]
    return State(cache() / "eventbus" / "test-services" / key)


def started_here(running: Running) -> Entry:
    """An entry of which nobody is a user yet."""
    return Entry(running=running, started_by=this_process())


def note_private(name: str, running: Running) -> None:
    """Write down a server of this process alone; if we are killed, the next run ends it.

    Raises:
        ConfigurationError: as `State.locked` does.
    """
    with state_of_this_checkout().locked() as entries:
        entries[name] = started_here(running).used_by(this_process())


def forget_private(name: str) -> None:
    """It is gone; raises as `note_private` does."""
    with state_of_this_checkout().locked() as entries:
        entries.pop(name, None)


def _checkout(start: Path) -> Path:
    for folder in (start, *start.parents):
        if any((folder / name).exists() for name in (".git", "pyproject.toml")):
            return folder
    return start


def cache() -> Path:
    """Where this user keeps what can be fetched or made again."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _unusable(directory: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        "EB1303",
        "the state of the test services has no place",
        where=str(directory),
        why=str(error),
        next=f"set {DIRECTORY} to a directory that this user can write",
    )


def _lock(descriptor: int, directory: Path) -> None:
    import fcntl  # not on Windows, where services are found by URL only

    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    "EB1303",
                    "the test services are locked by another process",
                    where=str(directory / "lock"),
                    why=f"it was held for {_WAIT_SECONDS:.0f} s",
                    next="look who starts or stops services, or use another "
                    f"{DIRECTORY} for this run",
                ) from error
            time.sleep(0.02)
        else:
            return


def _entries(document: dict[str, Any]) -> dict[str, Entry]:
    if document["schema"] != SCHEMA:
        raise ValueError(document["schema"])
    return {name: _entry(row) for name, row in document["services"].items()}


def _entry(row: dict[str, Any]) -> Entry:
    running = row["running"]
    processes = tuple(Process(**each) for each in running["processes"])
    return Entry(
        running=Running(**{**running, "processes": processes}),
        started_by=Process(**row["started_by"]),
        kept=row["kept"],
        users=tuple(Process(**each) for each in row["users"]),
    )
