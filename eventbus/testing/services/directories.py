"""Where a service keeps its files: a directory of its own, for the user who runs it."""

import os
import shutil
import tempfile
from pathlib import Path


def new_directory(parent: Path, name: str, owner: str | None) -> Path:
    """A new directory; in /var/tmp if we are root and the owner could not get below `parent`.

    Args:
        parent: made if it is missing.
        name: how the directory's name begins.
        owner: who runs the service if we are root; None: we.

    Raises:
        LookupError: there is no such owner here.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if owner is None or os.geteuid() != 0:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    open_to_all = all(folder.stat().st_mode & 0o001 for folder in (parent, *parent.parents))
    home = parent if open_to_all else Path("/var/tmp")  # noqa: S108  # mkdtemp is safe there; a disk, unlike /tmp
    directory = Path(tempfile.mkdtemp(prefix=f"eventbus-{name}-", dir=home))
    try:
        shutil.chown(directory, owner, owner)
    except LookupError:
        directory.rmdir()
        raise
    return directory
