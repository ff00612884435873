"""The fault matrix names tests that are there; its report says what became of each row."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.matrix import ROWS, SUITES, rows_of
from tests.faults.matrix_report import result_of

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]


def functions(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def test_each_fault_has_tests_and_each_of_them_is_there() -> None:
    assert [row.number for row in ROWS] == list(range(1, 64))
    suites = (ROOT / "eventbus" / "testing" / "conformance").rglob("*.py")
    known = {SUITES: {name for file in suites for name in functions(file)}}
    for row in ROWS:
        assert row.tests, row
        for test in row.tests:
            file, _, name = test.partition("::")
            if file not in known:
                known[file] = set(functions(ROOT / file))
            assert name in known[file], f"row {row.number}: {test}"


@pytest.mark.parametrize(
    ("node", "rows"),
    [
        ("tests/faults/test_forgetting.py::test_killed_at_any_call_it_is_all_or_nothing[x]", [59]),
        ("tests/faults/test_forgetting.py::test_another", []),
        (
            "tests/conformance/test_kafka.py::TestVerdicts"
            "::test_nothing_of_a_key_overtakes_what_was_given_back[1]",
            [29],
        ),
    ],
)
def test_a_test_is_found_in_its_rows(node: str, rows: list[int]) -> None:
    assert [row.number for row in rows_of(node)] == rows


def test_a_row_that_nothing_ran_for_is_vacuous() -> None:
    passed, failed, skipped = ({"outcome": each} for each in ("passed", "failed", "skipped"))
    assert result_of([]) == result_of([skipped]) == "vacuous"
    assert result_of([passed, skipped]) == "passed"
    assert result_of([passed, failed]) == "failed"


def test_a_run_writes_the_matrix_and_a_row_that_did_not_pass_fails_it(
    pytester: pytest.Pytester,
) -> None:
    folder = pytester.mkpydir("tests") / "faults"
    folder.mkdir()
    (folder / "test_forgetting.py").write_text(
        "def test_killed_at_any_call_it_is_all_or_nothing(): pass", encoding="utf-8"
    )
    pytester.makeconftest(
        "from tests_of_the_project import MatrixReport\n"
        "from pathlib import Path\n"
        "def pytest_configure(config):\n"
        "    config.pluginmanager.register(MatrixReport(Path('matrix.json')))\n"
    )
    pytester.makepyfile(
        tests_of_the_project="from tests.faults.matrix_report import MatrixReport as MatrixReport"
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.syspathinsert(ROOT)
    ran = pytester.runpytest_inprocess("tests/faults", "-p", "no:cacheprovider")
    assert ran.ret == pytest.ExitCode.TESTS_FAILED  # 62 rows had no test
    told = json.loads((pytester.path / "matrix.json").read_text(encoding="utf-8"))
    results = {row["row"]: row["result"] for row in told["rows"]}
    assert results.pop(59) == "passed"
    assert set(results.values()) == {"vacuous"}
