"""The order book: every line counted once, whatever is in the file and whenever it is killed."""

import gzip
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from eventbus.testing import given
from examples.order_book import synthetic
from examples.order_book.app import order_book, prepare
from examples.order_book.events import (
    CreditNoteIssued,
    DebtAdjusted,
    OrderCancelled,
    OrderPlaced,
    StockCorrected,
)
from examples.order_book.figures import figures
from examples.order_book.invoices import MalformedError, chunks, parsed
from examples.order_book.orders import DayBook, Order, goods_of
from examples.order_book.outcomes import Fate, fate_of
from examples.order_book.reading import progress, read
from examples.order_book.report import report
from examples.order_book.sources import UnreadableError, of_file, of_seed

ROOT = Path(__file__).parents[2]
REAL = os.environ.get("EVENTBUS_EXAMPLE_DATA")
FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
MESSY = [
    "1001,85123A,LANTERN,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
    '1001,71053,"LANTERN, ""WHITE""",6,2010-12-01 08:26:00,0.001,17850.0,United Kingdom',
    "1001,71053,LANTERN,1,2010-12-01 08:27:00,3.39,17850.0,United Kingdom",  # a second time
    "C1002,85123A,LANTERN,-2,2010-12-31 23:59:59,2.55,17850.0,United Kingdom",
    "A1003,B,Adjust bad debt,1,2011-01-01 00:00:00,-11062.06,,United Kingdom",
    "1004,22423,,-5,2011-01-02 10:00:00,0.0,,EIRE",  # corrected, free, a guest
    "1001,22423,CAKESTAND,1,2010-12-01 08:26:00,10,17850.0,United Kingdom",  # not contiguous
]
BROKEN = {
    b"1005,22423,six columns,1,2011-01-02 10:00:00,1.0": "6 columns, not 8",
    b"1005,22423,,six,2011-01-02 10:00:00,1.0,,EIRE": "Quantity 'six' is no whole number",
    b"1005,22423,,1,2011-02-30 10:00:00,1.0,,EIRE": "InvoiceDate '2011-02-30 10:00:00' is no time",
    b"1005,22423,,1,2011-01-02 10:00:00,NaN,,EIRE": "UnitPrice 'NaN' is no number",
    b"1005,22423,,1,2011-01-02 10:00:00,0.0001,,EIRE": "finer than a thousandth",
    b"1005,22423,,1,2011-01-02 10:00:00,1.0,me,EIRE": "CustomerID 'me' is no number",
    b"1005,22423,CAF\xc9,1,2011-01-02 10:00:00,1.0,,EIRE": "not UTF-8 at byte 14",
    b'1005,22423,"never closed,1,2011-01-02 10:00:00,1.0,,EIRE': "not CSV",
    b"X-1,22423,,1,2011-01-02 10:00:00,1.0,,EIRE": "InvoiceNo 'X-1' is no number",
    b"1005,,,1,2011-01-02 10:00:00,1.0,,EIRE": "StockCode or Country is empty",
    b"1005,22423,\0,1,2011-01-02 10:00:00,1.0,,EIRE": "a NUL character",
    b"": "1 columns, not 8",
    b"x" * 70_000: "longer than 65,536 bytes",
}


def run(
    *arguments: str, cwd: Path, check: bool = True, at_most: float = 100
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.order_book", *arguments],
        cwd=cwd,
        env=environment(),
        check=check,
        capture_output=True,
        text=True,
        timeout=at_most,
    )


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "EVENTBUS_EXAMPLE_DATA"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def shown(output: str, label: str) -> str:
    """The figure behind a label of the report."""
    line = next(line for line in output.splitlines() if line.strip().startswith(label))
    return line.split()[-1]


@pytest.mark.parametrize("broken", BROKEN, ids=BROKEN.values())
def test_a_line_that_cannot_be_read_says_why(broken: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parsed(broken)
    assert BROKEN[broken] in str(caught.value)


def test_parts_end_where_the_invoice_its_time_or_the_chunk_ends() -> None:
    lines = [line.encode() for line in MESSY]
    [chunk] = chunks(lines, after=0)
    assert [(one.order_id, type(one), len(one.sale.lines)) for one in chunk.invoices] == [
        ("1001.1", OrderPlaced, 2),
        ("1001.3", OrderPlaced, 1),
        ("C1002.4", CreditNoteIssued, 1),
        ("A1003.5", DebtAdjusted, 1),
        ("1004.6", StockCorrected, 1),
        ("1001.7", OrderPlaced, 1),
    ]
    for size in (1, 2, 3):
        parts = [one for chunk in chunks(lines, after=0, size=size) for one in chunk.invoices]
        assert parts == chunk.invoices


def test_reading_goes_on_behind_any_chunk_as_if_it_had_never_stopped() -> None:
    lines = list(synthetic.lines(7, 60))
    whole = list(chunks(lines, after=0, size=5))
    assert len(whole) > 8
    for place, chunk in enumerate(whole):
        assert list(chunks(lines[chunk.upto :], after=chunk.upto, size=5)) == whole[place + 1 :]


@pytest.mark.parametrize("packed", [False, True], ids=["csv", "csv.gz"])
def test_a_messy_file_is_read_to_its_end_and_every_line_falls_under_a_rule(
    tmp_path: Path, packed: bool
) -> None:
    content = "\n".join([HEADER, *MESSY]).encode() + b"\n" + b"\n".join(BROKEN) + b"\n"
    path = tmp_path / "messy.csv"
    path.write_bytes(gzip.compress(content) if packed else content)
    done = run(str(path), cwd=tmp_path)
    figures = {
        "lines read": "7",
        "invoices  ": "4",
        "quantity x price": "-11,038.464",
        "stock codes": "4",
        "countries": "2",
        "invoices that are cancellations": "1",
        "invoices that adjust": "1",
        "lines without a customer": "2",
        "lines with price 0": "1",
        "lines with a negative quantity": "1",
    }
    assert {label: shown(done.stdout, label) for label in figures} == figures
    # a line longer than the limit is read, and passed over, in pieces
    assert shown(done.stdout, "lines malformed") == str(len(BROKEN) + 1)
    assert "log, reader and four read models agree: yes" in done.stdout
    assert "each of 3 orders ended as the rules say: yes" in done.stdout
    assert "NO" not in done.stdout
    assert "warning: line 9 is passed over: 6 columns, not 8" in done.stderr


def test_the_synthetic_order_book_ends_with_the_totals_it_was_made_of(tmp_path: Path) -> None:
    done = run("--invoices", "100", cwd=tmp_path)
    assert "equals the totals added up while it was made up: yes" in done.stdout
    again = run("--invoices", "100", cwd=tmp_path)
    assert "an earlier run read" in again.stdout
    assert "this run: 0 lines read" in again.stdout
    assert shown(again.stdout, "quantity x price") == shown(done.stdout, "quantity x price")
    assert "equals the totals added up while it was made up: yes" in again.stdout


async def test_a_part_of_a_book_ends_with_the_orders_of_its_last_day_open(tmp_path: Path) -> None:
    """Refused ones among them have ended, the others wait; then the rest is read."""
    source = of_seed(1, 40)
    first = next(chunks(source.lines(), after=0, size=25))
    async with order_book(f"sqlite:///{tmp_path}/book.db") as bus:
        await prepare(bus, source)
        await read(bus, source, 0, limit=first.upto, warn=unheard, tell=unheard)
        found = await figures(bus)
        assert found.waiting
        assert {found.statuses[one] for one in found.waiting} == {"running", "compensated"}
        assert report(found, source, whole=False)[1]
        upto = (await progress(bus)).upto
        await read(bus, source, upto, limit=None, warn=unheard, tell=unheard)
        assert report(await figures(bus), source, whole=True)[1]


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        ("UPDATE revenue SET amount = amount + 1 WHERE country = 'Germany'", "read models agree"),
        ("DELETE FROM eventbus_events WHERE position = 7", "read models agree"),
        ("UPDATE ledger SET amount = amount + 1 WHERE account = 'cards'", "ledger balances"),
        ("DELETE FROM ledger WHERE posting LIKE 'sale %'", "each sale is a parcel"),
        ("DELETE FROM parcels", "what is reserved is what was shipped"),
        ("DELETE FROM reservations", "what is reserved is what was shipped"),
        (
            "UPDATE eventbus_saga SET status = 'compensated' WHERE status = 'completed'",
            "ended as the rules say",
        ),
        (
            "DELETE FROM ledger WHERE posting LIKE 'refund %'",
            "nothing is held that is not owed",
        ),
    ],
)
async def test_what_does_not_agree_is_said(tmp_path: Path, tampering: str, said: str) -> None:
    source, storage = of_seed(1, 40), f"sqlite:///{tmp_path}/book.db"
    async with order_book(storage) as bus:
        await prepare(bus, source)
        await read(bus, source, 0, limit=None, warn=unheard, tell=unheard)
        assert report(await figures(bus), source, whole=True)[1]
    with sqlite3.connect(tmp_path / "book.db") as connection:
        assert connection.execute(tampering).rowcount > 0
    connection.close()
    async with order_book(storage).client() as bus:
        text, holds = report(await figures(bus), source, whole=True)
    assert not holds
    assert [line for line in text.splitlines() if line.endswith("NO") and said in line]


def unheard(*_: object) -> None:
    """Nobody listens."""


def test_an_order_is_placed_once_and_cancelled_once() -> None:
    [chunk] = chunks([line.encode() for line in MESSY], after=0)
    part = chunk.invoices[0]
    cancelled = OrderCancelled(order_id=part.order_id)
    given(Order).when(lambda order: order.place(part)).then(part)
    given(Order, part).when(lambda order: order.place(part)).then_nothing()
    given(Order, part).when(lambda order: order.cancel()).then(cancelled)
    given(Order, part, cancelled).when(lambda order: order.cancel()).then_nothing()
    given(Order).when(lambda order: order.cancel()).then_nothing()


@pytest.mark.parametrize(
    "kills",
    [
        (("read", 1),),  # the first transaction is there, and nothing else
        (("under way", 20), ("shipped", 1), ("shipped", 180)),
    ],
    ids=["at the start", "three times"],
)
@pytest.mark.timeout(300)
def test_killed_at_any_moment_it_ends_with_the_exact_totals(
    tmp_path: Path, kills: tuple[tuple[str, int], ...]
) -> None:
    command = ["--invoices", "400", "--seed", "5", "--progress", "0"]  # it must not be over soon
    for what, amount in kills:
        assert killed_at(what, amount, command, tmp_path), f"{what} never came to {amount}"
    done = run(*command, cwd=tmp_path)
    assert "equals the totals added up while it was made up: yes" in done.stdout
    assert "NO" not in done.stdout


def killed_at(what: str, amount: int, command: list[str], cwd: Path) -> bool:
    """SIGKILL once a figure of the progress came to so much; whether that was in mid-run."""
    with subprocess.Popen(
        [sys.executable, "-m", "examples.order_book", *command],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("read ") and told(line)[what] >= amount:
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
    return child.returncode == -signal.SIGKILL


def told(line: str) -> dict[str, int]:
    """The figures of a line of progress."""
    found = re.fullmatch(
        r"read (\S+) lines, (\S+) orders placed, (\S+) under way, (\S+) shipped", line.strip()
    )
    assert found is not None, line
    names = ("read", "placed", "under way", "shipped")
    return {
        name: int(text.replace(",", "")) for name, text in zip(names, found.groups(), strict=True)
    }


def test_the_database_of_another_input_is_refused(tmp_path: Path) -> None:
    run("--invoices", "5", "--storage", "sqlite:///book.db", cwd=tmp_path)
    done = run("--invoices", "6", "--storage", "sqlite:///book.db", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "the database holds another input" in done.stderr


def test_input_that_cannot_be_used_is_one_line_of_error(tmp_path: Path) -> None:
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(HEADER.encode() * 999)[:-9])
    (tmp_path / "other.csv").write_text("a,b,c\n1,2,3\n")
    for name, why in {
        "torn.csv.gz": "end-of-stream marker",
        "other.csv": "line 1 must be the header",
        "none.csv": "No such file",
    }.items():
        with pytest.raises(UnreadableError, match=why):
            of_file(tmp_path / name)
    done = run("torn.csv.gz", cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_synthetic_totals_are_those_of_its_lines() -> None:
    source = of_seed(3, 200)
    rows, malformed = [], 0
    for line in source.lines():
        try:
            rows.append(parsed(line))
        except MalformedError:
            malformed += 1
    assert source.known is not None
    totals, _ = source.known
    assert totals.malformed == malformed > 0
    assert totals.lines == len(rows)
    assert totals.amount == sum(row.line.amount for row in rows)
    assert totals == replace(
        totals,
        invoices=len({row.invoice for row in rows}),
        stock_codes=len({row.line.stock_code for row in rows}),
        countries=len({row.country for row in rows}),
        without_customer=sum(row.customer is None for row in rows),
        price_zero=sum(row.line.price == 0 for row in rows),
    )


@pytest.mark.skipif(
    REAL is None or not FULL, reason="capability: the full tier, and EVENTBUS_EXAMPLE_DATA"
)
@pytest.mark.timeout(3600)
def test_the_real_file_ends_with_the_published_totals(tmp_path: Path) -> None:
    assert REAL is not None
    command = [str(Path(REAL).absolute()), "--progress", "0"]
    assert killed_at("read", 100_000, command, tmp_path)
    done = run(*command, cwd=tmp_path, at_most=3600)
    assert "NO" not in done.stdout
    assert "equals the published totals: yes" in done.stdout
    assert shown(done.stdout, "quantity x price") == "9,747,747.934"


def test_the_tutorial_quotes_the_code_and_what_a_run_prints(tmp_path: Path) -> None:
    page = (ROOT / "docs/tutorial/order-book.md").read_text()
    code = squeezed(*(path.read_text() for path in (ROOT / "examples/order_book").glob("*.py")))
    quoted = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(quoted) >= 4
    assert [block for block in quoted if squeezed(block) not in code] == []
    [printed] = re.findall(r"```text\n(.*?)```", page, re.S)
    done = run("--invoices", "100", cwd=tmp_path)
    for table in printed.strip().split("\n\n"):
        assert table in done.stdout, done.stdout


def squeezed(*texts: str) -> str:
    """Without white space: in a class, code is indented."""
    return "".join("".join(texts).split())


@pytest.mark.skipif(REAL is None, reason="capability: EVENTBUS_EXAMPLE_DATA names no file")
def test_by_the_rules_alone_the_real_file_ends_with_the_known_figures() -> None:
    """No bus: lines, parts, cancellations and rules, in the order of the file."""
    assert REAL is not None
    source = of_file(Path(REAL))
    assert source.known is not None
    _, known = source.known
    book, fates, worth = DayBook(), dict[str, Fate](), dict[str, int]()
    for chunk in chunks(source.lines(), after=0):
        for part in chunk.invoices:
            day = f"{part.sale.issued_at:%Y-%m-%d}"
            if day > book.day:
                book.close()
                book.day = day
            if isinstance(part, OrderPlaced):
                book.goods[part.order_id] = goods_of(part)
                fates[part.order_id] = fate_of(part.sale)
                worth[part.order_id] = part.sale.amount
            elif isinstance(part, CreditNoteIssued):
                cancelled = book.take_back(part)
                if cancelled is not None and fates[cancelled] in {"shipped", "undeliverable"}:
                    fates[cancelled] = "cancelled"
    counted = Counter(fates.values())
    assert counted == {
        "shipped": known.shipped,
        "out of stock": known.out_of_stock,
        "card declined": known.declined,
        "cancelled": known.cancelled,
        "undeliverable": known.undeliverable,
    }
    assert sum(worth[one] for one, fate in fates.items() if fate == "shipped") == known.sales
