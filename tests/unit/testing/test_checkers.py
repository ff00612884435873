"""The checkers of histories: what they accept, and what each of them is for."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.faults.checkers.atomicity import Tables, atomicity
from tests.faults.checkers.per_key_order import per_key_order
from tests.faults.checkers.total_queue import total_queue
from tests.faults.checkers.verdict import Effect, Verdict
from tests.faults.history import History, Operation, merged, read


def publishes(*types: str) -> list[Operation]:
    history = History("p", clock=iter(range(100)).__next__)
    for number, end in enumerate(types, 1):
        op = history.invoke("publish", key="k", seq=number, id=str(number))
        if end != "dies":
            history.note("publish", end, op, key="k", seq=number, id=str(number))  # type: ignore[arg-type]  # one of four
    return merged([history.operations])


def effects(ids: Iterable[int], group: str = "g") -> list[Effect]:
    return [Effect(group=group, id=str(number), key="k", seq=number) for number in ids]


def judged(types: Sequence[str], ids: Iterable[int], **more: object) -> Verdict:
    return total_queue(publishes(*types), effects(ids), group="g", **more)  # type: ignore[arg-type]  # passed on


def test_k1_accepts_each_acknowledged_message_once_and_an_unknown_one_or_not() -> None:
    assert judged(["ok", "ok"], [1, 2]).ok
    assert judged(["ok", "info"], [1]).ok
    assert judged(["ok", "info", "dies"], [1, 2, 3]).figures["recovered"] == 2
    assert judged(["ok", "ok"], [1], unhandled=["2"]).ok
    assert judged(["ok"], [1, 2], foreign=["2"]).ok


def test_k1_finds_losses_duplicates_and_what_nobody_published() -> None:
    assert judged(["ok", "ok"], [1]).figures["lost"] == 1
    assert judged(["ok"], [1, 1]).figures["duplicate"] == 1
    assert judged(["ok"], [1, 2]).figures["unexpected"] == 1
    assert judged(["ok", "fail"], [1, 2]).figures["unexpected"] == 1
    lost = judged(["ok", "ok"], [1])
    assert not lost.ok
    assert "lost: Operation(" in str(lost)


def test_k1_finds_one_content_under_two_ids() -> None:
    anew = [*effects([1]), Effect(group="g", id="9", key="k", seq=1)]
    verdict = total_queue(publishes("ok"), anew, group="g", foreign=["9"])
    assert verdict.figures["repeated"] == 1
    assert not verdict.ok


def test_k1_judges_one_group_alone() -> None:
    assert not total_queue(publishes("ok"), effects([1], group="other"), group="g").ok


def test_k2_wants_first_effects_in_order_and_lets_repeats_pass() -> None:
    assert per_key_order(effects([1, 2, 1, 3, 2]), group="g").ok
    assert per_key_order(effects([1, 2]), group="g", last={"k": 2}).ok
    overtaken = per_key_order(effects([1, 3, 2]), group="g")
    assert not overtaken.ok
    assert "expected 2 at 3" in str(overtaken)
    assert not per_key_order(effects([2, 3]), group="g").ok
    assert not per_key_order(effects([1]), group="g", last={"k": 2}).ok
    assert not per_key_order([], group="g", last={"k": 1}).ok


TABLES = Tables(
    effects=effects([1, 2]),
    inbox={"g": ["1", "2", "3"]},
    parked={"g": ["3"]},
    outbox=["4"],
    business=["1", "4"],
    relayed=["1", "2", "3"],
)


def test_k6_accepts_what_belongs_together() -> None:
    assert atomicity(TABLES, transactional=["g"]).ok


def test_k6_finds_each_torn_transaction() -> None:
    torn = {
        "effect without inbox row": replace(TABLES, inbox={"g": ["1", "3"]}),
        "inbox row without effect": replace(TABLES, effects=effects([1])),
        "effect of what is parked": replace(TABLES, effects=effects([1, 2, 3])),
        "business row without its message": replace(TABLES, business=["9"]),
    }
    for what, tables in torn.items():
        verdict = atomicity(tables, transactional=["g"])
        assert not verdict.ok
        assert what in str(verdict)


def test_a_history_survives_its_process_up_to_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History("p", path=path) as history:
        op = history.invoke("publish", key="k", seq=1, id="1")
        history.note("publish", "ok", op, id="1")
        history.invoke("publish", key="k", seq=2, id="2")
    with path.open("ab") as file:
        file.write(b'{"t": 1, "p"')
    lines = read(path)
    assert lines == history.operations
    assert [line.type for line in merged([lines])] == ["invoke", "ok", "invoke", "info"]
