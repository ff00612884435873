"""What happened, as processes believed it: operations in the order of one clock."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Verb = Literal["publish", "deliver", "effect", "append", "read", "step", "lease", "fault"]
Type = Literal["invoke", "ok", "fail", "info", "start", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A line of a history. `fail` certainly did not happen, `info` perhaps did."""

    t: int
    p: str
    op: int
    f: Verb
    type: Type
    key: str = ""
    seq: int = 0
    id: str = ""
    value: Mapping[str, Any] = field(default_factory=dict[str, Any])


class History:
    """Of one process: in memory, and with a path as JSON lines that survive kill -9.

    Args:
        process: `p` of its lines.
        clock: nanoseconds; one clock for all histories that are merged.
        path: one `os.write` per line, appended.
    """

    def __init__(
        self,
        process: str,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        path: Path | None = None,
    ) -> None:
        self.operations: list[Operation] = []
        self._process = process
        self._clock = clock
        self._file = None if path is None else os.open(path, _APPEND, 0o600)
        self._next = 0

    def invoke(self, f: Verb, **facts: Any) -> int:
        """An operation begins; its number."""
        self._next += 1
        self.note(f, "invoke", self._next, **facts)
        return self._next

    def note(self, f: Verb, type: Type, op: int, **facts: Any) -> None:
        """It ended, so far as its process knows."""
        line = Operation(t=self._clock(), p=self._process, op=op, f=f, type=type, **facts)
        self.operations.append(line)
        if self._file is not None:
            os.write(self._file, json.dumps(asdict(line)).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def read(path: Path) -> list[Operation]:
    """The lines of a file; a last one that its process did not finish is left out."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [Operation(**json.loads(line)) for line in lines]


def merged(histories: Iterable[Sequence[Operation]]) -> list[Operation]:
    """One history; an `invoke` that its process never completed becomes `info` at the end."""
    lines = sorted((line for each in histories for line in each), key=lambda line: line.t)
    begun: dict[tuple[str, int], Operation] = {}
    for line in lines:
        if line.type == "invoke":
            begun[line.p, line.op] = line
        else:
            begun.pop((line.p, line.op), None)
    end = lines[-1].t if lines else 0
    unknown = [
        Operation(
            t=end,
            p=line.p,
            op=line.op,
            f=line.f,
            type="info",
            key=line.key,
            seq=line.seq,
            id=line.id,
            value=line.value,
        )
        for line in begun.values()
    ]
    return [*lines, *unknown]
