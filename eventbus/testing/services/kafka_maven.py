"""The jars of Apache Kafka: fetched once from Maven Central, kept in the user's cache."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from eventbus.testing.services.packages import install_packages, run
from eventbus.testing.services.service import Say
from eventbus.testing.services.state import cache

POM = Path(__file__).with_name("pom.xml")
OLDEST_JAVA = 17
FETCH_SECONDS = 300.0
_SPACE = "{http://maven.apache.org/POM/4.0.0}"


@dataclass(frozen=True, slots=True)
class Programs:
    """A Java, and the folder of Kafka's jars of one version."""

    java: Path
    jars: Path
    version: str


def find_programs() -> Programs | str:
    """What is installed and fetched already; or what is missing."""
    java = _java()
    if java is None:
        return f"no Java {OLDEST_JAVA} or newer is installed (looked in JAVA_HOME and PATH)"
    if not jars().is_dir():
        return f"Kafka {version()} is not fetched yet, or another: {jars()} is missing"
    return Programs(java, jars(), version())


def install_programs(say: Say) -> Programs | str:
    """Install Java and Maven where they are missing, and fetch the jars; or why it is not done.

    Waits at most 300 s for each command.
    """
    if _java() is None:
        refused = install_packages("kafka", ["openjdk-17-jre-headless"], say)
        if refused is not None:
            return refused
    if not jars().is_dir():
        refused = _fetch(say)
        if refused is not None:
            return refused
    return find_programs()


def jars() -> Path:
    """Where the jars of this very POM are kept; complete if it exists."""
    key = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    return cache() / "eventbus" / "kafka" / key


def version() -> str:
    """That of Kafka in the POM."""
    for dependency in ElementTree.parse(POM).iter(f"{_SPACE}dependency"):  # noqa: S314  # our own file
        if dependency.findtext(f"{_SPACE}groupId") == "org.apache.kafka":
            return str(dependency.findtext(f"{_SPACE}version"))
    raise LookupError(f"{POM} names no org.apache.kafka")


def _fetch(say: Say) -> str | None:
    if shutil.which("mvn") is None:
        refused = install_packages("kafka", ["maven"], say)
        if refused is not None:
            return refused
    say(f"kafka: fetching Kafka {version()} from Maven Central, about 43 MB")
    home = jars().parent
    home.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="fetching-", dir=home))
    try:
        return _copy_dependencies(draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy_dependencies(draft: Path) -> str | None:
    """Fetch into a draft, and give it its name when it is whole."""
    shutil.copy(POM, draft / "pom.xml")  # Maven writes beside the POM
    command = ["mvn", "-q", "-B", "-f", str(draft / "pom.xml"), "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={draft / 'jars'}"]
    try:
        done = run([*command, *options], seconds=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        return f"mvn {command[-1]} took longer than {FETCH_SECONDS:.0f} s"
    if done.returncode != 0:
        return f"mvn {command[-1]} failed: {(done.stdout + done.stderr).strip()[-400:]}"
    try:
        (draft / "jars").rename(jars())
    except OSError:  # another checkout was faster
        if not jars().is_dir():
            raise
    return None


def _java() -> Path | None:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None) or shutil.which("java")
    if found is None:
        return None
    try:
        text = run([found, "-version"], seconds=20).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    major = re.search(r'version "(\d+)', text)
    return Path(found) if major and int(major.group(1)) >= OLDEST_JAVA else None
