"""A pytest item for each saga of the app: it fails with what the linter finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.errors import Finding
    from eventbus.saga.definition import Definition


class SagaLint(pytest.Item):
    """One version of one saga; what another service may do (SAGA020) is no failure."""

    def __init__(self, *, definition: Definition, handled: frozenset[str], **more: Any) -> None:
        super().__init__(**more)
        self._definition = definition
        self._handled = handled

    def runtest(self) -> None:
        """Lint it.

        Raises:
            LintError: there are findings.
        """
        from eventbus.saga.lint import ELSEWHERE, lint

        found = lint(self._definition, handled=self._handled)
        wrong = [each for each in found if each.code != ELSEWHERE]
        if wrong:
            raise LintError(wrong)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The findings, without a traceback."""
        if isinstance(excinfo.value, LintError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands in reports."""
        source = self._definition.source
        return self.path, None, f"saga lint: {source.__module__}.{source.__qualname__}"


class LintError(Exception):
    """What the linter finds."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = findings
        super().__init__(
            "\n".join(f"{f.code} {f.what}\n  why   {f.why}\n  next  {f.next}" for f in findings)
        )


def lint_items(session: pytest.Session, bus: EventBus) -> list[pytest.Item]:
    """One for each version of each saga that the bus has."""
    import asyncio

    from eventbus.bus.sagas import handled_by

    told = asyncio.run(bus.describe())
    handled = handled_by(told.groups)
    return [
        SagaLint.from_parent(
            session,
            name=f"saga-lint[{each.saga}-v{each.version}]",
            definition=each,
            handled=handled,
        )
        for each in told.sagas
    ]
