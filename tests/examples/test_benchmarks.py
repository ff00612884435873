"""How benchmarks count: ratios within rounds, noisy runs left out; and what the command answers."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.message import BYTES, orders, raw_orders
from benchmarks.rounds import Bar, Case, Figures, Goal, quiet, ratio, run_bar, summaries

ROOT = Path(__file__).parents[2]


def figures(rate: float, noise: float = 0.0) -> Figures:
    return {"rate": rate, "noise": noise}


def case(name: str, rates: list[float], goal: Goal | None = None) -> Case:
    left = iter(rates)
    return Case(
        bar="B", name=name, n=1, run=lambda n: figures(next(left)), goal=goal, patience_seconds=0
    )


def test_a_ratio_is_the_median_of_the_ratios_within_a_round() -> None:
    base = [figures(100), figures(10), figures(1)]
    ours = [figures(50), figures(40), figures(1)]
    assert ratio("rate", base, ours) == 1.0  # the quotient of the medians would be 4
    assert ratio("rate", base, ours[:2]) == 2.25
    assert ratio("cpu_us", base, ours) is None


def test_noisy_runs_are_left_out_once_five_quieter_ones_exist() -> None:
    loud, calm = figures(1, noise=0.9), figures(9, noise=0.1)
    assert quiet([loud, *[calm] * 5]) == [calm] * 5
    assert quiet([loud, *[calm] * 4]) == [loud, *[calm] * 4]


def test_cases_take_turns_and_a_goal_says_whether_it_is_held() -> None:
    told: list[tuple[str, int]] = []
    goal = Goal(figure="rate", at_least=5)
    bar = Bar(
        name="B",
        what="",
        ratio_of="rate",
        cases=[case("base", [10, 20, 30]), case("ours", [5, 4, 6], goal)],
    )
    found = run_bar(bar, 3, lambda case, number, _: told.append((case.name, number)))
    assert told == [(name, number) for number in range(3) for name in ("base", "ours")]
    base, ours = summaries(bar, found)
    assert (base["rate"], base["rate_range"], base["ratio"]) == (20, [10, 30], 1.0)
    assert (ours["rate"], ours["ratio"], ours["runs"]) == (5, 0.2, 3)
    assert (ours["goal"], ours["held"]) == ("rate >= 5", True)
    assert not Goal(figure="rate", at_most=4).held(figures(5))


def test_a_slower_machine_is_asked_for_the_same_share_of_the_base_case() -> None:
    goal = Goal(figure="rate", at_least=80, where_base=100)
    assert str(goal) == "rate >= 80, or 0.80 of the base"
    assert goal.held({"rate": 40, "ratio": 0.8})
    assert not goal.held({"rate": 79, "ratio": 0.79})
    assert goal.held({"rate": 80, "ratio": 0.1})
    assert not Goal(figure="rate", at_least=80).held({"rate": 79, "ratio": 9})


def test_the_message_has_285_bytes_whoever_encodes_it() -> None:
    assert len(orders(1)[0].model_dump_json()) == BYTES
    assert raw_orders(2)[1].model_dump_json() == orders(2)[1].model_dump_json()


def test_the_command_lists_its_cases_and_knows_its_bars() -> None:
    command = [sys.executable, "-m", "benchmarks"]
    listed = subprocess.run(
        [*command, "--list"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=110
    )
    assert "eventbus, 100 in flight" in listed.stdout
    wrong = subprocess.run(
        [*command, "--only", "N99"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert wrong.returncode == 2
    assert "there are N1, SQLITE, FLAT, START" in wrong.stderr


def test_a_run_answers_json_lines_and_keeps_its_raw_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "START", "--runs", "1", "-o", "jsonl"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,  # 1 on a machine too slow for a goal: timings never fail a test
        timeout=100,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["case"] == "python -c pass"
    assert {"bar", "case", "n", "ratio", "runs", "noise"} <= set(lines[0])
    [raw] = (tmp_path / "build" / "benchmarks").glob("*.jsonl")
    rounds = [json.loads(line) for line in raw.read_text().splitlines()[1:]]
    assert len(rounds) == len(lines) * 12  # the noisy ones too, which `runs` may leave out
    assert all("noise" in line for line in rounds)
