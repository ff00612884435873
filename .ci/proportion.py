"""Proportion of the house: the longest files and functions beside the figures of its models.

Nothing fails: it shows where to look. Lines are counted without blank ones, comments and docstrings.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 12
FUNCTION_MEDIAN, FUNCTION_P90, FILE_MEDIAN = (5, 9), 30, (40, 140)  # house models
LAYOUT = {
    tokenize.NL,
    tokenize.COMMENT,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def lines_of_code(text, tree):
    """Numbers of the lines that hold code."""
    numbers = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            numbers.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and is_text(body[0]):
            numbers.difference_update(range(body[0].lineno, body[0].end_lineno + 1))
    return numbers


def is_text(node):
    """A docstring, or a text that stands alone under what it explains."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def functions_of(tree, numbers, path):
    """(lines, parameters, place) of every function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = len(numbers.intersection(range(node.lineno, node.end_lineno + 1)))
            given = node.args
            width = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
            yield size, width, f"{path}:{node.lineno} {node.name}"


def p90(values):
    """The ninth decile."""
    return quantiles(values, n=10)[-1] if len(values) > 1 else values[0]


def judged(value, low, high):
    """Where a figure lies."""
    return "within" if low <= value <= high else "above" if value > high else "below"


def show(title, rows):
    """The largest ones."""
    print(f"\n{title}")
    for size, place in sorted(rows, reverse=True)[:SHOWN]:
        print(f"  {size:5}  {place}")


def report(folder):
    """The figures of one folder."""
    sizes, functions = [], []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        numbers = lines_of_code(text, tree)
        name = path.relative_to(ROOT).as_posix()
        sizes.append((len(numbers), name))
        functions += functions_of(tree, numbers, name)
    if not functions:
        return
    files = [size for size, _ in sizes if size]
    lengths = [size for size, _, _ in functions]
    low, high = FILE_MEDIAN
    least, most = FUNCTION_MEDIAN
    print(f"== {folder}: {len(files)} files, {len(functions)} functions, {sum(files)} lines")
    print(
        f"  file      median {median(files):5.0f}   {judged(median(files), low, high)} {low}-{high}"
        f"   p90 {p90(files):.0f}"
    )
    print(
        f"  function  median {median(lengths):5.0f}   {judged(median(lengths), least, most)} "
        f"{least}-{most}   p90 {p90(lengths):.0f}   {judged(p90(lengths), 0, FUNCTION_P90)} "
        f"{FUNCTION_P90}"
    )
    show("longest files", sizes)
    show("longest functions", [(size, place) for size, _, place in functions])
    show("widest signatures", [(width, place) for _, width, place in functions])
    print()


for each in sys.argv[1:] or ["eventbus", "tests"]:
    report(each)
