"""What the database counts becomes gauges."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from eventbus.errors import Finding, StorageError
from eventbus.inspection import Selection, Verb
from eventbus.observability import DatabaseFigures, PrometheusInstrumentation
from eventbus.observability.figures import parsed


class Figures:
    """An inspection that has nothing but figures; each answer once, then `stopping` is set."""

    def __init__(self, *answers: Mapping[str, float] | Exception) -> None:
        self._answers = list(answers)
        self.stopping = asyncio.Event()

    async def figures(self) -> Mapping[str, float]:
        answer = self._answers.pop(0)
        if not self._answers:
            self.stopping.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def find(self, what: Selection, *, limit: int) -> Sequence[Mapping[str, Any]]:
        return []

    async def verify(self, *, sample: int = 0) -> Sequence[Finding]:
        return []

    async def change(
        self,
        verb: Verb,
        what: Selection,
        *,
        actor: str,
        reason: str = "",
        rate: float | None = None,
        limit: int | None = None,
        payload: bytes | None = None,
        dry_run: bool = False,
    ) -> int:
        return 0

    async def note(
        self, verb: str, what: Mapping[str, Any], *, changed: int, actor: str, reason: str = ""
    ) -> None:
        """Nobody does anything here."""


async def text_after(*answers: Mapping[str, float] | Exception) -> str:
    inspection, metrics = Figures(*answers), PrometheusInstrumentation(strict=True)
    async with asyncio.timeout(30):
        await DatabaseFigures(inspection, metrics, every_seconds=0.001).run(inspection.stopping)
    return metrics.text().decode()


async def test_figures_become_gauges() -> None:
    text = await text_after({"outbox_pending_messages": 3, "parked_keys{billing}": 2})
    assert "eventbus_outbox_pending_messages 3.0\n" in text
    assert 'eventbus_parked_keys{group="billing"} 2.0\n' in text


async def test_what_is_not_counted_any_more_is_zero() -> None:
    text = await text_after({"dead_letters{billing}": 2}, {})
    assert 'eventbus_dead_letters{group="billing"} 0.0\n' in text


async def test_a_database_that_is_away_keeps_the_last_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = StorageError("EB5001", "away", where="x", why="y", next="z")
    text = await text_after({"dead_letters{billing}": 2}, away)
    assert 'eventbus_dead_letters{group="billing"} 2.0\n' in text
    assert "EB5001" in caplog.text


@pytest.mark.parametrize(
    ("figure", "labels"),
    [
        ("dead_letters{bill,ing}", {"group": "bill,ing"}),
        ("saga_instances{transfer,running}", {"saga": "transfer", "status": "running"}),
        ("outbox_pending_messages", {}),
        ("unheard_of{x}", {}),
    ],
)
def test_labels_stand_in_the_order_of_the_table(figure: str, labels: dict[str, str]) -> None:
    assert parsed(figure)[1] == labels
