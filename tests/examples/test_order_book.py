"""The order book: every line counted once, whatever is in the file and whenever it is killed."""

import gzip
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eventbus.testing import given
from examples.order_book import synthetic
from examples.order_book.invoices import MalformedError, chunks, parsed
from examples.order_book.orders import Order
from examples.order_book.sources import UnreadableError, of_file, of_seed

ROOT = Path(__file__).parents[2]
REAL = os.environ.get("EVENTBUS_EXAMPLE_DATA")
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


def order_book(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.order_book", *arguments],
        cwd=cwd,
        env=environment(),
        check=check,
        capture_output=True,
        text=True,
        timeout=100,
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
    assert [(one.invoice, one.first_line, len(one.lines)) for one in chunk.invoices] == [
        ("1001", 1, 2),
        ("1001", 3, 1),
        ("C1002", 4, 1),
        ("A1003", 5, 1),
        ("1004", 6, 1),
        ("1001", 7, 1),
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
    done = order_book(str(path), cwd=tmp_path)
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
    assert "reader, billing and stock agree: yes" in done.stdout
    assert "the 6 events of 4 orders agree: yes" in done.stdout
    assert "warning: line 9 is passed over: 6 columns, not 8" in done.stderr


def test_the_synthetic_order_book_ends_with_the_totals_it_was_made_of(tmp_path: Path) -> None:
    done = order_book("--invoices", "300", cwd=tmp_path)
    assert "equals the totals added up while it was made up: yes" in done.stdout
    again = order_book("--invoices", "300", cwd=tmp_path)
    assert "an earlier run read" in again.stdout
    assert "this run: 0 lines read" in again.stdout
    assert shown(again.stdout, "quantity x price") == shown(done.stdout, "quantity x price")
    assert "equals the totals added up while it was made up: yes" in again.stdout


def test_wrong_sums_are_said_and_end_with_exit_code_1(tmp_path: Path) -> None:
    order_book("--invoices", "50", "--storage", "sqlite:///book.db", cwd=tmp_path)
    with sqlite3.connect(tmp_path / "book.db") as connection:
        connection.execute("UPDATE revenue SET amount = amount + 1 WHERE country = 'Germany'")
    connection.close()
    done = order_book(
        "--invoices", "50", "--storage", "sqlite:///book.db", cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "equals the totals added up while it was made up: NO" in done.stdout


def test_an_event_that_is_missing_in_the_log_is_said(tmp_path: Path) -> None:
    command = ["--invoices", "50", "--storage", "sqlite:///book.db"]
    order_book(*command, cwd=tmp_path)
    with sqlite3.connect(tmp_path / "book.db") as connection:
        connection.execute("DELETE FROM eventbus_events WHERE position = 7")
    connection.close()
    done = order_book(*command, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "orders agree: NO" in done.stdout
    assert "reader, billing and stock agree: yes" in done.stdout


def test_an_order_takes_each_part_once() -> None:
    [chunk] = chunks([line.encode() for line in MESSY], after=0)
    first, second = (one for one in chunk.invoices if one.invoice == "1001" and one.first_line < 7)
    given(Order).when(lambda order: order.take(first)).then(first)
    given(Order, first).when(lambda order: order.take(second)).then(second)
    given(Order, first, second).when(lambda order: order.take(first)).then_nothing()


@pytest.mark.parametrize("kill_at", [(1,), (600,), (2_000, 6_000, 9_000)], ids=str)
def test_killed_at_any_moment_it_ends_with_the_exact_totals(
    tmp_path: Path, kill_at: tuple[int, ...]
) -> None:
    command = ["--invoices", "600", "--seed", "5", "--progress", "0"]
    for lines in kill_at:
        assert killed_at(lines, command, tmp_path), f"nothing was in flight at line {lines}"
    done = order_book(*command, cwd=tmp_path)
    assert "equals the totals added up while it was made up: yes" in done.stdout
    assert "reader, billing and stock agree: yes" in done.stdout
    assert "orders agree: yes" in done.stdout


def killed_at(lines: int, command: list[str], cwd: Path) -> bool:
    """SIGKILL once so many lines were read; whether that was in mid-run."""
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
            if line.startswith("read ") and int(line.split()[1].replace(",", "")) >= lines:
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
    return child.returncode == -signal.SIGKILL


def test_the_database_of_another_input_is_refused(tmp_path: Path) -> None:
    order_book("--invoices", "5", "--storage", "sqlite:///book.db", cwd=tmp_path)
    done = order_book(
        "--invoices", "6", "--storage", "sqlite:///book.db", cwd=tmp_path, check=False
    )
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
        done = order_book(name, cwd=tmp_path, check=False)
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
    assert source.known.malformed == malformed > 0
    assert source.known.lines == len(rows)
    assert source.known.amount == sum(row.line.amount for row in rows)
    assert source.known == replace(
        source.known,
        invoices=len({row.invoice for row in rows}),
        stock_codes=len({row.line.stock_code for row in rows}),
        countries=len({row.country for row in rows}),
        without_customer=sum(row.customer is None for row in rows),
        price_zero=sum(row.line.price == 0 for row in rows),
    )


@pytest.mark.skipif(REAL is None, reason="EVENTBUS_EXAMPLE_DATA names no file")
@pytest.mark.timeout(300)
def test_the_real_file_ends_with_the_published_totals(tmp_path: Path) -> None:
    assert REAL is not None
    command = [str(Path(REAL).absolute()), "--progress", "0"]
    assert killed_at(100_000, command, tmp_path)
    done = order_book(*command, cwd=tmp_path)
    assert "equals the published totals: yes" in done.stdout
    assert shown(done.stdout, "quantity x price") == "9,747,747.934"
