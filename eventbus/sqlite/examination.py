"""What a file, the library and the settings mean for the promises: findings."""

import os
import sqlite3
from pathlib import Path

from eventbus.errors import Finding

_NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
_MENDED = (3, 51, 3)


def findings(path: str | None, synchronous: str) -> list[Finding]:
    """All that is to be said; a database in memory needs few words."""
    said = [
        Finding(
            level="say",
            code="EB1115",
            what="handlers take turns: SQLite has one writer",
            why="a transaction holds the writer from its first statement to its commit",
            next="keep handlers short, or use PostgreSQL for handlers that run at once",
        )
    ]
    if path is None:
        return said
    if synchronous != "FULL":
        said.append(_below_full(synchronous))
    if sqlite3.sqlite_version_info < _MENDED:
        said.append(_old_library())
    return said + _about_the_place(Path(path))


def _below_full(synchronous: str) -> Finding:
    return Finding(
        level="warn",
        code="EB1108",
        what=f"synchronous={synchronous}: the last commits go with the power",
        why="a commit is not forced to the disk before it is confirmed",
        next="leave synchronous=FULL",
    )


def _old_library() -> Finding:
    return Finding(
        level="say",
        code="EB1109",
        what=f"the SQLite library is {sqlite3.sqlite_version}, before 3.51.3",
        why="two processes that write one file at once may corrupt it; one bus alone does not",
        next="stop the bus before other programs write the file, or update the library",
    )


def _about_the_place(path: Path) -> list[Finding]:
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return [_refused(f"{folder.name}/ is no directory that can be written", str(folder))]
    kind = file_system_of(folder)
    if kind in _NETWORK:
        return [_refused(f"the database lies on a network file system ({kind})", str(folder))]
    return []


def _refused(what: str, where: str) -> Finding:
    return Finding(
        level="refuse",
        code="EB1110",
        what=what,
        why=f"{where}: SQLite needs a local directory for its file, log, index and locks",
        next="choose a local path",
    )


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system, where the system tells it; else empty."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    real = str(folder.resolve())
    for line in lines:
        _, point, found, *_ = line.split(" ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind
