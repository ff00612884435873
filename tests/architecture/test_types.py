"""What users see is typed to the last name: pyright's own measure of completeness."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.architecture.source import ROOT


def test_every_public_name_has_a_known_type(tmp_path: Path) -> None:
    """On a copy: an editable installation is a path hook, which pyright does not follow."""
    shutil.copytree(
        ROOT / "eventbus", tmp_path / "eventbus", ignore=shutil.ignore_patterns("__pycache__")
    )
    beside = tmp_path / "elsewhere"
    beside.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--pythonpath", sys.executable),
            *("--verifytypes", "eventbus", "--ignoreexternal"),
        ],
        cwd=beside,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    found = done.stdout.replace(f"{tmp_path}/", "")
    assert "Type completeness score: 100%" in found, found
    assert done.returncode == 0, found
