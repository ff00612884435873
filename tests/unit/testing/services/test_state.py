"""The state that shells and workers share: who uses what, and who died."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError
from eventbus.testing.services.processes import Process, identified, this_process
from eventbus.testing.services.service import Running
from eventbus.testing.services.state import Entry, State, started_here, state_of_this_checkout

ME = this_process()
RUNNING = Running(
    service="postgres",
    url="postgresql://postgres@127.0.0.1:1/postgres",
    lane="native",
    version="15.1",
    processes=(Process(1, "x"),),
    directory="/somewhere",
)


def dead() -> Process:
    """A process that has ended and been waited for."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = identified(child.pid)
        assert process.alive
        child.communicate(b"\n")
    return process


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    entry = Entry(running=RUNNING, started_by=ME, kept=True, users=(ME, ME))
    with State(tmp_path).locked() as entries:
        entries["postgres"] = entry
    assert State(tmp_path).read() == {"postgres": entry}


def test_what_was_changed_before_an_error_is_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), State(tmp_path).locked() as entries:
        entries["postgres"] = started_here(RUNNING)
        raise ZeroDivisionError
    assert "postgres" in State(tmp_path).read()


def test_an_entry_is_wanted_until_its_last_use_has_ended() -> None:
    entry = started_here(RUNNING)
    assert not entry.wanted
    twice = entry.used_by(ME).used_by(ME)
    assert twice.left_once_by(ME).wanted
    assert not twice.left_once_by(ME).left_once_by(ME).wanted
    assert not twice.left_by(ME).wanted


def test_an_entry_of_dead_users_only_is_not_wanted_unless_kept() -> None:
    orphan = started_here(RUNNING).used_by(dead())
    assert not orphan.wanted
    assert Entry(running=RUNNING, started_by=ME, kept=True, users=orphan.users).wanted
    assert orphan.used_by(ME).users == (ME,)


def test_a_later_process_of_the_same_number_is_not_taken_for_it() -> None:
    assert ME.alive
    assert not Process(ME.pid, "another time").alive


def test_the_lock_keeps_others_out(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def read() -> None:
        with State(tmp_path).locked() as entries:
            seen.append(set(entries))

    with State(tmp_path).locked() as entries:
        other = threading.Thread(target=read)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        entries["postgres"] = started_here(RUNNING)
    other.join(10)
    assert seen == [{"postgres"}]


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "other/9", "services": {}}'])
def test_a_state_of_another_version_is_refused_by_name(tmp_path: Path, text: str) -> None:
    tmp_path.joinpath("state.json").write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        State(tmp_path).read()
    assert caught.value.code == "EB1303"
    assert str(tmp_path) in caught.value.where


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    tmp_path.joinpath("file").touch()
    state = State(tmp_path / "file" / "services")
    with pytest.raises(ConfigurationError, match="has no place") as caught, state.locked():
        pass
    assert "EVENTBUS_TEST_SERVICES_DIR" in caught.value.next


def test_each_checkout_has_a_directory_in_the_cache_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVENTBUS_TEST_SERVICES_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    directories = []
    for name in ("one", "two"):
        nested = tmp_path / name / "src"
        nested.mkdir(parents=True)
        nested.parent.joinpath("pyproject.toml").touch()
        for place in (nested, nested.parent):
            monkeypatch.chdir(place)
            directories.append(state_of_this_checkout().directory)
    assert directories[0] == directories[1] != directories[2] == directories[3]
    assert all(directory.is_relative_to(tmp_path) for directory in directories)
