"""How far a rebuild is: a bar on a terminal, else a line of JSON every five seconds."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.flags import Settings
from eventbus.cli.output import to_json

if TYPE_CHECKING:
    from eventbus.sourcing.rebuild import Beat

LINE_SECONDS = 5.0
BAR_SECONDS = 0.1
RATE_SECONDS = 10.0  # the rate is the mean of the last ones
ETA_AFTER_SECONDS = 3.0
_WIDTH = 22


class Pace:
    """Rate and time left of a phase, from what was done when."""

    def __init__(self) -> None:
        self._phase = ""
        self._began = 0.0
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, phase: str, done: int, now: float) -> None:
        """So much was done by then."""
        if phase != self._phase:
            self._phase, self._began = phase, now
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Per second."""
        (first, before), (last, done) = self._seen[0], self._seen[-1]
        return (done - before) / (last - first) if last > first else 0.0

    def eta(self, total: int) -> float | None:
        """Seconds left; None: nobody can tell yet."""
        last, done = self._seen[-1]
        if last - self._began < ETA_AFTER_SECONDS or self.rate <= 0:
            return None
        return max(0.0, (total - done) / self.rate)


class Bar:
    """Shows beats on stderr, and never more often than somebody can read."""

    def __init__(self, settings: Settings) -> None:
        self._quiet = settings.quiet
        self._terminal = sys.stderr.isatty() and settings.output == "table"
        self._pace = Pace()
        self._next = 0.0
        self._phase = ""
        self._open = False

    def show(self, beat: "Beat") -> None:
        """One beat."""
        now = time.monotonic()
        self._pace.note(beat.phase, beat.done, now)
        if self._quiet or (now < self._next and beat.phase == self._phase):
            return
        self._next = now + (BAR_SECONDS if self._terminal else LINE_SECONDS)
        if self._terminal:
            self._draw(beat)
        else:
            click.echo(to_json(self._facts(beat)), err=True)
        self._phase = beat.phase

    def end(self) -> None:
        """What comes next begins on a line of its own."""
        if self._open:
            click.echo("", err=True)
            self._open = False

    def _facts(self, beat: "Beat") -> Mapping[str, Any]:
        return {
            "projection": beat.name,
            "phase": beat.phase,
            "done": beat.done,
            "total": beat.total,
            "rows": beat.rows,
            "rate": round(self._pace.rate, 1),
            "eta_seconds": self._pace.eta(beat.total),
            "parked": beat.parked,
            "shards": [asdict(part) for part in beat.shards],
        }

    def _draw(self, beat: "Beat") -> None:
        if beat.phase != self._phase:
            self.end()
            if self._phase in {"", "plan"} and beat.new:
                versions = f"{beat.name}  v{beat.old} -> v{beat.new}"
                click.echo(
                    f"{versions}   shadow table {beat.table}   {beat.parts} shards", err=True
                )
        click.echo(f"\r\x1b[K{line(beat, self._pace)}", err=True, nl=False)
        self._open = True


def line(beat: "Beat", pace: Pace) -> str:
    """The bar, as far as it can be drawn."""
    head = f"  {beat.phase:<9}"
    if not beat.total:
        return head.rstrip()
    share = min(1.0, beat.done / beat.total)
    filled = int(share * _WIDTH)
    bar = ("=" * filled + ">")[:_WIDTH].ljust(_WIDTH)
    left = pace.eta(beat.total)
    eta = "" if left is None else f"   ETA {int(left) // 60}:{int(left) % 60:02d}"
    counts = f"{beat.done:,} / {beat.total:,}"
    rate = f"{pace.rate / 1000:.1f}k ev/s"
    return f"{head} [{bar}] {share * 100:3.0f} %  {counts}   {rate}{eta}   parked {beat.parked}"


def outcome_lines(result: Mapping[str, Any]) -> list[str]:
    """What became of it, for a person."""
    verified = result["verified"]
    switched = "switched" if result["switched"] else f"v{result['old']} goes on serving"
    return [
        f"{result['name']}  v{result['old']} -> v{result['new']}  {result['rows']:,} rows"
        f" up to {result['built_to']:,}",
        f"  verify    {verified['equal']:,} equal, {verified['differ']:,} differ"
        f"   +{verified['new']:,} new   -{verified['gone']:,} gone   parked {result['parked']}",
        f"  {switched}",
    ]
