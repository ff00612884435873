"""Foreign programs as child processes: they see a broker and nothing of this package."""

import asyncio
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

Line = Mapping[str, Any]

_HERE = Path(__file__).parent
_INTERPRETER = "EVENTBUS_OUTSIDE_PYTHON"
_SECONDS = 60.0


async def foreign(program: str, *arguments: object, given: Iterable[Line] = ()) -> list[Any]:
    """What one of `foreign/*.py` prints for these lines; it runs without this directory's code."""
    script = str(_HERE / "foreign" / f"{program}.py")
    lines = "".join(f"{json.dumps(dict(line))}\n" for line in given)
    out = await run(_interpreter(), "-I", script, *map(str, arguments), given=lines.encode())
    return [json.loads(line) for line in out.splitlines()]


async def run(*command: str, given: bytes = b"", seconds: float = _SECONDS) -> bytes:
    """The output of a program that must end well.

    Raises:
        AssertionError: it did not; with what it said.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await child.communicate(given)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, f"{command[0]} {command[1:]}: {err.decode()[-2000:]}"
    return out


def tool(name: str, package: str) -> str:
    """A program of the distribution; a missing one fails the test, for it would check nothing."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install {package} | make outside", pytrace=False)
    return found


def _interpreter() -> str:
    named = os.environ.get(_INTERPRETER)
    path = Path(named) if named else _HERE.parents[1] / ".venv-outside" / "bin" / "python"
    if not path.exists():
        pytest.fail(f"no {path}: make outside makes it | {_INTERPRETER}=", pytrace=False)
    return str(path)
