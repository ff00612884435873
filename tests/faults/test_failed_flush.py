"""Row 26: a disk that refuses to flush. What was not flushed is told as unknown, never as done."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#define FAILS(name) int name(int file) { \\
  int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, #name); \\
  if (access(getenv("FLUSH_FAILS"), F_OK) == 0) { errno = EIO; return -1; } \\
  return real(file); }
FAILS(fsync)
FAILS(fdatasync)
"""
PROGRAM = """
import asyncio
import os
import sys
from pathlib import Path

from eventbus import Event, EventBus, subscribe
from eventbus.errors import CommitUnknownError

fails = Path(os.environ["FLUSH_FAILS"])


class Placed(Event, type="shop.placed", key="order"):
    order: str


@subscribe(Placed, group="billing")
async def bill(event: Placed) -> None:
    print("billed", event.order, flush=True)


bus = EventBus("memory://", storage="sqlite:///shop.db", service="shop", handlers=[bill])


async def publish() -> None:
    async with bus.client():
        await bus.publish(Placed(order="before"))
        fails.touch()
        try:
            await bus.publish(Placed(order="meanwhile"))
        except CommitUnknownError as error:
            print("unknown", flush=True)
            if "dies" in sys.argv:
                os._exit(9)
            fails.unlink()
            print(await error.resolve(), flush=True)
        else:
            print("acknowledged", flush=True)
        await bus.publish(Placed(order="after"))


async def handle() -> None:
    async with bus:
        await bus.until_idle()


asyncio.run(handle() if "handles" in sys.argv else publish())
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Loaded before all others: flushing fails while a file is there."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("capability: Linux with a C compiler")
    source, made = tmp_path / "flush.c", tmp_path / "flush.so"
    source.write_text(LIBRARY, encoding="utf-8")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True, capture_output=True
    )
    return made


def ran(directory: Path, library: Path, what: str) -> tuple[int, list[str]]:
    """The exit code of the program, and what it said."""
    (directory / "program.py").write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "program.py", what],
        cwd=directory,
        env={**os.environ, "LD_PRELOAD": str(library), "FLUSH_FAILS": str(directory / "fails")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 9}, done.stderr
    return done.returncode, done.stdout.split("\n")[:-1]


def test_who_lives_is_told_the_truth_when_it_asks(tmp_path: Path, library: Path) -> None:
    code, told = ran(tmp_path, library, "publishes")
    assert code == 0
    assert told[0] == "unknown"
    assert told[1] in {"committed", "rolled_back"}
    _, billed = ran(tmp_path, library, "handles")
    kept = ["meanwhile"] if told[1] == "committed" else []
    assert sorted(billed) == sorted(f"billed {each}" for each in ["before", *kept, "after"])


def test_who_dies_leaves_it_whole_or_not_at_all(tmp_path: Path, library: Path) -> None:
    assert ran(tmp_path, library, "dies") == (9, ["unknown"])
    (tmp_path / "fails").unlink()
    _, billed = ran(tmp_path, library, "handles")
    assert sorted(billed) in (["billed before"], ["billed before", "billed meanwhile"])
    assert ran(tmp_path, library, "handles") == (0, [])
