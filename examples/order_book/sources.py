"""Where lines come from: a file, or the synthetic order book."""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from examples.order_book import synthetic
from examples.order_book.invoices import COLUMNS, LONGEST_LINE_BYTES
from examples.order_book.totals import FULFILLED, PUBLISHED, PUBLISHED_SHA256, Outcomes, Totals


class UnreadableError(Exception):
    """The input as a whole cannot be used; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """Lines that are the same whenever they are read, and what they are known to add up to."""

    name: str
    fingerprint: str
    lines: Callable[[], Iterator[bytes]]  # without the header
    known: tuple[Totals, Outcomes] | None
    known_by: str = ""


def of_file(path: Path) -> Source:
    """A CSV file, compressed with gzip or not.

    Raises:
        UnreadableError: it is not there, damaged, or has other columns.
    """
    try:
        with _opened(path) as file:
            header = file.readline(LONGEST_LINE_BYTES).decode("utf-8-sig", "replace").strip()
        with _opened(path) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"{path}: {error}") from error
    if tuple(header.split(",")) != COLUMNS:
        raise UnreadableError(f"{path}: line 1 must be the header {','.join(COLUMNS)}")
    published = digest.hexdigest() == PUBLISHED_SHA256
    return Source(
        path.name,
        digest.hexdigest(),
        lambda: _lines(path),
        (PUBLISHED, FULFILLED) if published else None,
        "the published totals",
    )


def of_seed(seed: int, invoices: int) -> Source:
    """The synthetic order book: no file, the same lines for the same seed."""
    sums = synthetic.sums(seed, invoices)
    return Source(
        f"synthetic order book of {invoices:,} invoices, seed {seed}",
        hashlib.sha256(f"synthetic 2 {seed} {invoices}".encode()).hexdigest(),
        lambda: synthetic.lines(seed, invoices),
        (sums.totals(), sums.outcomes()),
        "the totals added up while it was made up",
    )


def _lines(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        file.readline(LONGEST_LINE_BYTES)
        while line := file.readline(LONGEST_LINE_BYTES):
            yield line


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path, "rb")) if packed else path.open("rb")
