"""A year of a shop's orders, each a saga: `python -m examples.order_book [CSV]`.

Without a CSV file, on the command line or in EVENTBUS_EXAMPLE_DATA, a synthetic order book is
made up. In one process on SQLite; with a broker as --transport and PostgreSQL as --storage the
services are processes of their own. Killed at any moment and started again with the same command,
it goes on where it was, and ends with the same totals. Exit code 0: the sums are right; 1: they are
not; 2: no usable input.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from eventbus import EventBus
from eventbus.errors import EventBusError
from examples.order_book.app import order_book, prepare
from examples.order_book.figures import figures
from examples.order_book.processes import ServiceError, services, until_done
from examples.order_book.reading import Progress, progress, read
from examples.order_book.report import report
from examples.order_book.sources import Source, UnreadableError, of_file, of_seed

SHOWN_WARNINGS = 20
ORDERS = "ORDER_BOOK_ORDERS"  # set for the process that reads, where services are processes


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m examples.order_book", description=__doc__)
    parser.add_argument("csv", nargs="?", type=Path, default=_from_environment())
    parser.add_argument("--storage", help="default: order_book-<input>.db in this directory")
    parser.add_argument("--transport", default="memory://", help="kafka://… or amqp://…")
    parser.add_argument(
        "--limit", type=amount, help="read only so many lines; an order that is cut becomes two"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the synthetic order book")
    parser.add_argument(
        "--invoices", type=amount, default=1_000, help="of the synthetic order book"
    )
    parser.add_argument("--progress", type=float, default=1.0, help="seconds between two reports")
    return parser.parse_args()


def amount(text: str) -> int:
    """A number that can be one of lines."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines or invoices")
    return int(text)


def _from_environment() -> Path | None:
    given = os.environ.get("EVENTBUS_EXAMPLE_DATA")
    return Path(given) if given else None


async def run(source: Source, given: argparse.Namespace, storage: str) -> int:
    """Read, wait, report; on a broker in a process of its own, which is started again if it dies.

    Returns:
        the exit code.
    """
    bus = order_book(storage, given.transport)
    if given.transport.startswith("memory:"):
        async with bus:
            return await orders(bus, source, given)
    if ORDERS in os.environ:
        async with bus.client():
            return await orders(bus, source, given)
    await bus.upgrade()
    async with services(given.transport, storage):
        command = (sys.executable, "-m", "examples.order_book", *sys.argv[1:])
        return await until_done("orders", command, {**os.environ, ORDERS: "1"})


async def orders(bus: EventBus, source: Source, given: argparse.Namespace) -> int:
    """What is the same on every stack."""
    began = time.monotonic()
    upto = await prepare(bus, source)
    print(source.name)
    if upto:
        print(f"an earlier run read {upto:,} lines: going on behind them")
    await read(bus, source, upto, limit=given.limit, warn=warner(), tell=teller(given.progress))
    end = await progress(bus)
    text, holds = report(await figures(bus), source, whole=given.limit is None)
    took = time.monotonic() - began
    print(f"\n{text}\nthis run: {end.upto - upto:,} lines read in {took:.1f} s", flush=True)
    return 0 if holds else 1


def warner() -> Callable[[int, str], None]:
    """Says on which line what is wrong, the first times; all of them are kept and counted."""
    seen = 0

    def warn(number: int, why: str) -> None:
        nonlocal seen
        seen += 1
        if seen <= SHOWN_WARNINGS:
            print(f"warning: line {number + 1} is passed over: {why}", file=sys.stderr)
        elif seen == SHOWN_WARNINGS + 1:
            print("warning: more such lines: see table malformed", file=sys.stderr)

    return warn


def teller(seconds: float) -> Callable[[Progress], None]:
    """Prints a line of progress, at most every so many seconds."""
    last = time.monotonic() - seconds

    def tell(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(
                f"read {now.upto:,} lines, {now.placed:,} orders placed,"
                f" {now.under_way:,} under way, {now.parcels:,} shipped",
                flush=True,
            )

    return tell


def main() -> int:
    """The exit code."""
    given = arguments()
    try:
        source = of_file(given.csv) if given.csv else of_seed(given.seed, given.invoices)
        storage = given.storage or f"sqlite:///order_book-{source.fingerprint[:8]}.db"
        return asyncio.run(run(source, given, storage))
    except UnreadableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (EventBusError, ServiceError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
