"""What is said of a place and of settings."""

from pathlib import Path

import pytest

from eventbus.sqlite.examination import file_system_of, findings


def test_a_network_file_system_is_known_by_its_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path.resolve()}/net nfs4 rw 0 0\n"
        f"/dev/b {tmp_path.resolve()}/net/local xfs rw 0 0\n"
    )
    assert file_system_of(tmp_path / "net" / "a", mounts) == "nfs4"
    assert file_system_of(tmp_path / "net" / "local", mounts) == "xfs"
    assert file_system_of(tmp_path / "network", mounts) == "ext4"
    assert file_system_of(tmp_path, tmp_path / "none") == ""


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.sqlite.examination.file_system_of", lambda folder: "nfs4")
    levels = {finding.code: finding.level for finding in findings(str(tmp_path / "a.db"), "FULL")}
    assert levels["EB1110"] == "refuse"


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    found = findings(str(tmp_path / "missing" / "a.db"), "FULL")
    assert [finding.code for finding in found if finding.level == "refuse"] == ["EB1110"]


def test_an_old_library_is_said_and_a_new_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "a.db")
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 40, 1))
    assert "EB1109" in {finding.code for finding in findings(path, "FULL")}
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 51, 3))
    assert "EB1109" not in {finding.code for finding in findings(path, "FULL")}


def test_in_memory_there_is_only_the_one_writer_to_tell() -> None:
    assert [finding.code for finding in findings(None, "FULL")] == ["EB1115"]
