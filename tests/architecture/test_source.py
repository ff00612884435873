"""Habits that a reader would have to look for: names, tasks, sleeps, skips, swallowed errors."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.architecture.source import calls, files, imported, name, tree

PACKAGE = [*files("eventbus"), *files("eventbus_kafka"), *files("eventbus_rabbit")]
TESTS = files("tests")
EXAMPLES = files("examples")
EVERYTHING = [*PACKAGE, *TESTS, *EXAMPLES, *files("benchmarks")]
WITHOUT_A_NOUN = {"utils", "common", "base", "types", "manager", "core", "misc"}

SLEEPS = {
    # file: why it may sleep
    "tests/conformance/postgres.py": "the clock of a real database cannot be moved",
    "tests/faults/bank/worker.py": "waits for a file that another process writes",
    "tests/faults/crash.py": "polls the file past the bus: asking it would count as a call",
    "tests/faults/killed/scenario.py": "polls the database past the bus: asking would count",
    "tests/faults/proxy.py": "a delay on the wire is the fault",
    "tests/faults/saga_bank/worker.py": "waits for a file that another process writes",
    "tests/faults/saga_dying.py": "leases of a killed process run out: nothing tells",
    "tests/faults/saga_programs.py": "virtual time: nobody waits",
    "tests/faults/simulated/life.py": "virtual time: nobody waits",
    "tests/faults/simulated/world.py": "virtual time: nobody waits",
    "tests/faults/simulation_bare.py": "virtual time: nobody waits",
    "tests/integration/postgres/book.py": "a client that was refused tries again a little later",
    "tests/integration/postgres/test_pgbouncer.py": "polls a server that sends no signal",
    "tests/integration/postgres/test_wakeups.py": "that nothing more is told takes a while",
    "tests/integration/sourcing/read_models.py": "polls a table past the bus: it sends no signal",
    "tests/integration/test_drain.py": "a handler of the child under test that must be busy",
}
SKIPS = {
    # file: what this machine may lack, where it is no capability of an adapter
    "eventbus/testing/services/fixtures.py": "a service; with CI=true it fails instead",
    "tests/conformance/postgres.py": "a service; with CI=true it fails instead",
    "tests/docs/test_readme.py": "fastapi, no dependency of ours",
    "tests/examples/test_order_book.py": "a large file of real data",
    "tests/faults/test_crash_sweep.py": "forked processes",
    "tests/faults/test_mutants_pipeline.py": "forked processes",
    "tests/integration/postgres/test_pgbouncer.py": "a pooler; CI installs it",
    "tests/integration/postgres/test_server.py": "a service; with CI=true it fails instead",
    "tests/integration/rabbit/conftest.py": "a service; with CI=true it fails instead",
    "tests/faults/test_simulation.py": "the long tier, whose coverage it judges",
    "tests/unit/cli/test_operators.py": "a pseudo terminal, on Windows",
    "tests/unit/cli/test_run.py": "POSIX signals, on Windows",
}
DEEP = {
    # public rooms of depth three, and why
    "eventbus.testing.conformance": "suites for adapters are a room of their own",
    "eventbus.testing.faults": "the kinds of faults are a room of their own",
    "eventbus.testing.services": "started from a shell: python -m eventbus.testing.services",
}


def place(path: Path, node: ast.expr | ast.stmt | ast.ExceptHandler) -> str:
    return f"{name(path)}:{node.lineno}"


def test_a_file_has_a_noun_for_a_name() -> None:
    assert [
        name(path)
        for path in EVERYTHING
        if WITHOUT_A_NOUN.intersection([path.stem, path.parent.name])
    ] == []


def test_every_task_has_a_name() -> None:
    assert list(nameless_tasks(PACKAGE)) == []


def nameless_tasks(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        found = list(calls(path))
        for called, call in found:
            named = any(word.arg == "name" for word in call.keywords)
            if called == "create_task" and not named:
                yield place(path, call)
            if called == "ensure_future" and "set_name" not in dict(found):
                yield place(path, call)


def test_deadlines_are_timeouts_and_not_wait_for() -> None:
    assert [
        place(path, call)
        for path in EVERYTHING
        for called, call in calls(path)
        if called == "wait_for" and ast.unparse(call.func) in {"wait_for", "asyncio.wait_for"}
    ] == []


def test_no_error_is_swallowed() -> None:
    assert list(swallowed(PACKAGE)) == []


def swallowed(paths: Iterable[Path]) -> Iterator[str]:
    broad = {"Exception", "BaseException", "None"}
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                kind = "None" if node.type is None else ast.unparse(node.type)
                silent = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
                if kind in broad and silent:
                    yield place(path, node)
        for called, call in calls(path):
            if called == "suppress" and broad.intersection(map(ast.unparse, call.args)):
                yield place(path, call)


def test_a_test_waits_for_facts_and_does_not_sleep() -> None:
    assert [
        place(path, call)
        for path in TESTS
        if name(path) not in SLEEPS
        for called, call in calls(path)
        # sleep(0) hands over the loop, and waits for nothing
        if called == "sleep" and [ast.unparse(each) for each in call.args] != ["0"]
    ] == []


def test_a_skip_names_a_capability() -> None:
    assert [
        place(path, call)
        for path in [*TESTS, *files("eventbus/testing")]
        if name(path) not in SKIPS
        for called, call in calls(path)
        if called in {"skip", "importorskip", "skipif"}
        and "pytest" in ast.unparse(call.func)
        and "capability" not in ast.unparse(call)
    ] == []


def test_the_lists_of_what_may_be_name_only_files_that_do_it() -> None:
    text = {name(path): path.read_text(encoding="utf-8") for path in EVERYTHING}
    assert [each for each in SLEEPS if "sleep(" not in text.get(each, "")] == []
    assert [each for each in SKIPS if "skip" not in text.get(each, "")] == []


def test_examples_import_only_what_is_public() -> None:
    assert [
        f"{name(path)}: {module}"
        for path in EXAMPLES
        for module in imported(path)
        if module.partition(".")[0] == "eventbus" and module.count(".") > 1 and module not in DEEP
    ] == []


def test_the_name_of_a_test_is_a_sentence() -> None:
    assert [
        place(path, node)
        for path in TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and node.name.count("_") < 2
    ] == []


def test_an_ignore_of_types_names_what_it_ignores() -> None:
    blanket = re.compile(r"#\s*type:\s*ignore(?!\[)")
    assert [
        f"{name(path)}:{number}"
        for path in EVERYTHING
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if blanket.search(line) and path != Path(__file__)
    ] == []
