"""The programs of PostgreSQL: the newest that is installed, or a package installed now."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eventbus.testing.services.service import Say

OLDEST = 13  # DROP DATABASE … WITH (FORCE)
PATTERNS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PGDG on Red Hat
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
)
INSTALL_SECONDS = 300.0
_NEEDED = ("initdb", "pg_ctl", "postgres")
_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with `initdb`, `pg_ctl` and `postgres` of one version."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The first number of the version."""
        return int(re.match(r"\d+", self.version).group())  # type: ignore[union-attr]  # it was parsed from digits


def find_programs(patterns: Iterable[str] | None = None) -> Programs | None:
    """The newest in the usual places; only if there is none, the ones on PATH."""
    usual = [
        programs for folder in _folders(patterns or PATTERNS) if (programs := _examine(folder))
    ]
    if usual:
        return max(usual, key=lambda programs: programs.major)
    on_path = shutil.which("pg_ctl")
    return None if on_path is None else _examine(Path(on_path).resolve().parent)


def install_programs(say: Say) -> Programs | str:
    """Install Debian's package without a cluster of its own; or why that is not done here.

    Waits at most 300 s for each of apt's commands. Existing configuration is left alone; if there
    is none, `create_main_cluster = false` is written, so that the package starts no server.
    """
    apt = shutil.which("apt-get")
    if apt is None or not Path("/etc/debian_version").exists():
        return (
            "it is not installed, and this is no Debian or Ubuntu: install PostgreSQL 13 or newer"
        )
    rights = _rights()
    if rights is None:
        return "it is not installed; as root: apt-get install --no-install-recommends postgresql"
    say("postgres: installing the package postgresql of this distribution")
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "UCF_FORCE_CONFFOLD=1"]
    install = [*rights, *environment, apt, "install", "-y", "--no-install-recommends", "postgresql"]
    try:
        if not _NO_CLUSTER.exists():
            _run([*rights, "mkdir", "-p", str(_NO_CLUSTER.parent)])
            _run([*rights, "tee", str(_NO_CLUSTER)], text="create_main_cluster = false\n")
            say(f"postgres: {_NO_CLUSTER} written: the package starts no server")
        if _run(install).returncode != 0:  # a fresh system has no package lists yet
            _run([*rights, *environment, apt, "update"])
            done = _run(install)
            if done.returncode != 0:
                return f"apt-get install postgresql failed: {done.stderr.strip()[-400:]}"
    except subprocess.TimeoutExpired as error:
        return f"apt-get install postgresql took longer than {error.timeout:.0f} s"
    return find_programs() or f"the package brought no PostgreSQL {OLDEST} or newer"


def _rights() -> list[str] | None:
    """What to write before a command that needs root."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None or _run([sudo, "-n", "true"]).returncode != 0:
        return None
    return [sudo, "-n"]


def _folders(patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from Path("/").glob(pattern.removeprefix("/"))


def _examine(folder: Path) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in _NEEDED):
        return None
    try:
        text = _run([str(folder / "postgres"), "--version"], seconds=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+(\.\d+)?", text)
    if found is None:
        return None
    programs = Programs(folder, found.group())
    return programs if programs.major >= OLDEST else None


def _run(
    command: list[str], *, text: str | None = None, seconds: float = INSTALL_SECONDS
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603  # our own words, no shell
        command, input=text or "", capture_output=True, text=True, timeout=seconds, check=False
    )
