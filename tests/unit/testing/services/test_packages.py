"""When nothing is installed, and what is said then; a recorder stands in for apt."""

from pathlib import Path

import pytest

from eventbus.testing.services import packages
from eventbus.testing.services.packages import install_packages

NEEDS_DEBIAN = pytest.mark.skipif(
    not Path("/etc/debian_version").exists(), reason="capability debian: it is another system"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH; programs in it write down how they were called."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(packages, "_POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "rights_of_root", list)
    return folder


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def tools(folder: Path, apt: str) -> None:
    """What is called as root, on files of this test only."""
    program(folder, "env", 'while [ "${1%%=*}" != "$1" ]; do shift; done; exec "$@"')
    program(folder, "tee", '/usr/bin/tee "$@"')
    program(folder, "chmod", '/bin/chmod "$@"')
    program(folder, "rm", '/bin/rm "$@"')
    program(folder, "apt-get", f'echo "$@" >> {folder / "calls"}\n{apt}')


def test_without_apt_it_is_said_what_to_install(programs: Path, said: list[str]) -> None:
    reason = install_packages("rabbit", ["rabbitmq-server"], said.append)
    assert reason is not None
    assert "no Debian or Ubuntu: install rabbitmq-server" in reason
    assert said == []


@NEEDS_DEBIAN
def test_without_the_rights_the_command_is_said(
    programs: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools(programs, "exit 1")
    monkeypatch.setattr(packages, "rights_of_root", lambda: None)
    reason = install_packages("kafka", ["one", "two"], said.append)
    assert reason is not None
    assert reason.endswith("as root: apt-get install --no-install-recommends one two")
    assert not (programs / "calls").exists()


@NEEDS_DEBIAN
def test_no_service_is_started_while_packages_are_installed(
    programs: Path, said: list[str], tmp_path: Path
) -> None:
    tools(programs, f"/bin/cp {tmp_path / 'policy-rc.d'} {tmp_path / 'seen'}")
    assert install_packages("rabbit", ["rabbitmq-server"], said.append) is None
    assert (tmp_path / "seen").read_text() == "#!/bin/sh\nexit 101\n"
    assert not (tmp_path / "policy-rc.d").exists()
    assert said == ["rabbit: installing rabbitmq-server of this distribution"]


@NEEDS_DEBIAN
def test_a_policy_of_the_system_is_left_alone(
    programs: Path, said: list[str], tmp_path: Path
) -> None:
    tools(programs, "exit 0")
    (tmp_path / "policy-rc.d").write_text("theirs")
    assert install_packages("rabbit", ["rabbitmq-server"], said.append) is None
    assert (tmp_path / "policy-rc.d").read_text() == "theirs"


@NEEDS_DEBIAN
def test_the_lists_are_fetched_once_before_it_is_given_up(programs: Path, said: list[str]) -> None:
    tools(programs, "echo no such package >&2; exit 100")
    reason = install_packages("rabbit", ["rabbitmq-server"], said.append)
    assert reason == "apt-get install rabbitmq-server failed: no such package"
    install = "install -y --no-install-recommends rabbitmq-server"
    assert (programs / "calls").read_text().splitlines() == [install, "update", install]
