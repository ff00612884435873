"""What a checker answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether it holds, figures, and the shortest piece of the history that shows it does not."""

    checker: str
    ok: bool
    figures: Mapping[str, int] = field(default_factory=dict[str, int])
    counterexample: Sequence[object] = ()

    def __str__(self) -> str:
        head = f"{self.checker} {'ok' if self.ok else 'VIOLATED'} {dict(self.figures)}"
        return "\n".join([head, *(f"  {each}" for each in self.counterexample)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A row that a handler wrote: the truth about what it did, in the order of commits."""

    group: str
    id: str
    key: str
    seq: int
