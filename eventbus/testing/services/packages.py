"""Packages of Debian and Ubuntu, installed without a server that starts by itself."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eventbus.testing.services.service import Say

INSTALL_SECONDS = 300.0
_POLICY = Path("/usr/sbin/policy-rc.d")
_APT = ("env", "DEBIAN_FRONTEND=noninteractive", "UCF_FORCE_CONFFOLD=1", "apt-get")


def install_packages(service: str, packages: Sequence[str], say: Say) -> str | None:
    """Install them with what they need; None, or why that is not done here.

    Waits at most 300 s for each of apt's commands. Services of the packages are not started: if
    the system has no policy of its own for that, there is one during the installation.
    """
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None or not Path("/etc/debian_version").exists():
        return f"it is not installed, and this is no Debian or Ubuntu: install {wanted}"
    rights = rights_of_root()
    if rights is None:
        return f"it is not installed; as root: apt-get install --no-install-recommends {wanted}"
    say(f"{service}: installing {wanted} of this distribution")
    try:
        with _nothing_starts(rights):
            return _install(rights, packages)
    except subprocess.TimeoutExpired as error:
        return f"apt-get install {wanted} took longer than {error.timeout:.0f} s"


def rights_of_root() -> list[str] | None:
    """What to write before a command that needs root; None: we may not."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None or run([sudo, "-n", "true"]).returncode != 0:
        return None
    return [sudo, "-n"]


def run(
    command: list[str], *, text: str | None = None, seconds: float = INSTALL_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """A command to its end, its output taken.

    Raises:
        OSError: there is no such program.
        subprocess.TimeoutExpired: it ran for longer.
    """
    return subprocess.run(  # noqa: S603  # our own words, no shell
        command, input=text or "", capture_output=True, text=True, timeout=seconds, check=False
    )


def _install(rights: list[str], packages: Sequence[str]) -> str | None:
    install = [*rights, *_APT, "install", "-y", "--no-install-recommends", *packages]
    if run(install).returncode == 0:
        return None
    run([*rights, *_APT, "update"])  # a fresh system has no package lists yet
    done = run(install)
    if done.returncode == 0:
        return None
    return f"apt-get install {' '.join(packages)} failed: {done.stderr.strip()[-400:]}"


@contextmanager
def _nothing_starts(rights: list[str]) -> Iterator[None]:
    """Debian's own way to say that no service may be started; its policy is left alone."""
    if _POLICY.exists():
        yield
        return
    run([*rights, "tee", str(_POLICY)], text="#!/bin/sh\nexit 101\n")
    run([*rights, "chmod", "755", str(_POLICY)])
    try:
        yield
    finally:
        run([*rights, "rm", "-f", str(_POLICY)])
