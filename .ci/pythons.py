"""Print the oldest or the newest supported CPython that this machine has."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")


def candidates(version):
    """Where an interpreter of a version may be."""
    yield shutil.which(f"python{version}")
    roots = [os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"]
    for root in filter(None, roots):
        for found in sorted(Path(root, "versions").glob(f"{version}.*/bin/python"), reverse=True):
            yield str(found)


def works(path, version):
    """A shim may exist without its interpreter."""
    try:
        answer = subprocess.run(
            [path, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def main():
    """Print one path; fail with the reason if there is none."""
    versions = SUPPORTED if sys.argv[1] == "oldest" else SUPPORTED[::-1]
    for version in versions:
        for path in candidates(version):
            if path and works(path, version):
                print(path)
                return
    sys.exit(f"eventbus needs CPython {SUPPORTED[0]} to {SUPPORTED[-1]} with venv: none was found")


main()
