"""What a run cost: wall time, our CPU time, and how much of the machine others used meanwhile."""

import gc
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from eventbus.cli.process import collect_rarely

CPUS = os.cpu_count() or 1
TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    """Runs while entered: what is made ready before, and cleared up after, costs nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.noise = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        gc.freeze()  # this and the next as `eventbus run` does; for every case, the peers' too
        self._often = gc.get_threshold()
        collect_rarely()
        self._busy = busy_seconds()
        self._cpu = cpu_seconds()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        gc.unfreeze()
        gc.set_threshold(*self._often)
        self.cpu_seconds = cpu_seconds() - self._cpu
        others = busy_seconds() - self._busy - self.cpu_seconds
        self.noise = max(0.0, others / (self.seconds * CPUS))


def cpu_seconds() -> float:
    """User and system time of this process and of children that ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def busy_seconds() -> float:
    """CPU time of everything on this machine, ever; 0 where nobody says."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, interrupt, soft, *_ = (int(ticks) for ticks in first)
    return (user + nice + system + interrupt + soft) / TICKS


def wait_for_quiet(at_most: float) -> None:
    """Return when others use less than a tenth of the machine, or it takes too long."""
    until = time.monotonic() + at_most
    while time.monotonic() < until:
        before, own = busy_seconds(), cpu_seconds()
        time.sleep(0.2)
        others = busy_seconds() - before - (cpu_seconds() - own)
        if others / (0.2 * CPUS) < 0.1:
            return


def memory_mib(name: str) -> float:
    """`VmRSS` or `VmHWM` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


def flush_ms() -> float:
    """How long it takes to write and flush 8 KiB where the databases of the runs lie."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 8192)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000
