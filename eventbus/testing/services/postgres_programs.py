"""The programs of PostgreSQL: the newest that is installed, or a package installed now."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eventbus.testing.services.packages import install_packages, rights_of_root, run
from eventbus.testing.services.service import Say

OLDEST = 13  # DROP DATABASE … WITH (FORCE)
PATTERNS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PGDG on Red Hat
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
)
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
    is none, `create_main_cluster = false` is written, so that the package makes no cluster.
    """
    if shutil.which("apt-get") and not _NO_CLUSTER.exists():
        rights = rights_of_root()
        if rights is not None:
            run([*rights, "mkdir", "-p", str(_NO_CLUSTER.parent)])
            run([*rights, "tee", str(_NO_CLUSTER)], text="create_main_cluster = false\n")
            say(f"postgres: {_NO_CLUSTER} written: the package makes no cluster")
    refused = install_packages("postgres", ["postgresql"], say)
    if refused is not None:
        return refused
    return find_programs() or f"the package brought no PostgreSQL {OLDEST} or newer"


def _folders(patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from Path("/").glob(pattern.removeprefix("/"))


def _examine(folder: Path) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in _NEEDED):
        return None
    try:
        text = run([str(folder / "postgres"), "--version"], seconds=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+(\.\d+)?", text)
    if found is None:
        return None
    programs = Programs(folder, found.group())
    return programs if programs.major >= OLDEST else None
