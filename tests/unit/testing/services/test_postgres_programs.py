"""Which PostgreSQL is taken."""

from pathlib import Path

import pytest

from eventbus.testing.services.postgres_programs import find_programs


def install(folder: Path, version: str, *, without: str = "") -> Path:
    """Programs that know their version and nothing else."""
    folder.mkdir(parents=True)
    for name in {"initdb", "pg_ctl", "postgres"} - {without}:
        program = folder / name
        program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of our own, empty."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path / "path"


def test_the_newest_version_is_taken(tmp_path: Path) -> None:
    for version in ("9.6.24", "13.2", "17beta1", "15.4"):
        install(tmp_path / "lib" / version / "bin", version)
    found = find_programs([f"{tmp_path}/lib/*/bin"])
    assert found is not None
    assert (found.major, found.folder) == (17, tmp_path / "lib" / "17beta1" / "bin")


def test_versions_below_13_are_none(tmp_path: Path) -> None:
    install(tmp_path / "lib" / "12" / "bin", "12.22")
    assert find_programs([f"{tmp_path}/lib/*/bin"]) is None


def test_a_folder_without_the_server_is_none(tmp_path: Path) -> None:
    install(tmp_path / "lib" / "15" / "bin", "15.4", without="initdb")
    assert find_programs([f"{tmp_path}/lib/*/bin"]) is None


def test_path_is_looked_through_when_the_usual_places_have_none(tmp_path: Path, path: Path) -> None:
    install(path, "14.1")
    found = find_programs([f"{tmp_path}/lib/*/bin"])
    assert found is not None
    assert (found.version, found.folder) == ("14.1", path)
