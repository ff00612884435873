"""Where Kafka's jars come from; a script stands in for Maven."""

import hashlib
import re
from pathlib import Path

import pytest

from eventbus.testing.services import kafka_maven
from eventbus.testing.services.kafka import bootstrap_servers
from eventbus.testing.services.kafka_maven import (
    POM,
    Programs,
    find_programs,
    install_programs,
    jars,
    version,
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of PATH, and a cache, both this test's own; there is a Java 17."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kafka_maven, "cache", lambda: tmp_path / "cache")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    program(folder / "java", "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2")
    return folder


def program(file: Path, body: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


COPY = """
for word in "$@"; do case "$word" in
  -DoutputDirectory=*) out="${word#*=}";;
esac; done
/bin/mkdir -p "$out"; echo jar > "$out/kafka.jar"
"""


def test_the_pom_pins_kafka_and_a_log_of_the_version_that_kafka_names() -> None:
    text = POM.read_text()
    pinned = dict(
        re.findall(r"<artifactId>(\S+)</artifactId>\s+<version>(\S+)</version>\s+</dep", text)
    )
    assert pinned == {"kafka_2.13": "4.1.2", "slf4j-simple": "1.7.36"}
    assert version() == "4.1.2"


def test_jars_are_kept_by_the_hash_of_the_pom(path: Path, tmp_path: Path) -> None:
    key = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    assert jars() == tmp_path / "cache" / "eventbus" / "kafka" / key


def test_what_is_not_fetched_is_missing_until_it_is_installed(path: Path) -> None:
    said: list[str] = []
    missing = find_programs()
    assert isinstance(missing, str)
    assert "Kafka 4.1.2 is not fetched yet" in missing
    program(path / "mvn", COPY)
    assert install_programs(said.append) == Programs(path / "java", jars(), "4.1.2")
    assert [file.name for file in jars().iterdir()] == ["kafka.jar"]
    assert said == ["kafka: fetching Kafka 4.1.2 from Maven Central, about 43 MB"]


def test_what_is_fetched_needs_no_maven(path: Path) -> None:
    jars().mkdir(parents=True)
    assert isinstance(install_programs(lambda text: None), Programs)


def test_a_fetch_that_fails_leaves_nothing_that_looks_whole(path: Path) -> None:
    program(path / "mvn", f"{COPY}\necho the network is down; exit 1")
    assert install_programs(lambda text: None) == (
        "mvn dependency:copy-dependencies failed: the network is down"
    )
    assert list(jars().parent.iterdir()) == []


def test_a_fetch_that_another_checkout_has_finished_meanwhile_is_taken(path: Path) -> None:
    program(path / "mvn", f"{COPY}\n/bin/mkdir -p {jars()}; echo theirs > {jars()}/theirs.jar")
    assert isinstance(install_programs(lambda text: None), Programs)
    assert [file.name for file in jars().iterdir()] == ["theirs.jar"]
    assert list(jars().parent.iterdir()) == [jars()]


def test_an_old_java_is_none(path: Path) -> None:
    program(path / "java", "echo 'openjdk version \"11.0.2\"' >&2")
    assert find_programs() == "no Java 17 or newer is installed (looked in JAVA_HOME and PATH)"


def test_java_home_comes_before_path(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jars().mkdir(parents=True)
    (tmp_path / "home").mkdir()
    program(tmp_path / "home" / "bin" / "java", "echo 'openjdk version \"21.0.1\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    found = find_programs()
    assert isinstance(found, Programs)
    assert found.java == tmp_path / "home" / "bin" / "java"


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://localhost", ["localhost:9092"]),
        ("kafka://127.0.0.1:1,127.0.0.1:2", ["127.0.0.1:1", "127.0.0.1:2"]),
        ("kafka://u:p@one:1,two", ["one:1", "two:9092"]),
    ],
)
def test_a_url_names_one_broker_or_more(url: str, servers: list[str]) -> None:
    assert bootstrap_servers(url) == servers
