"""An instrumentation that remembers what it is told."""

from collections import Counter

from eventbus.instrumentation import NoInstrumentation

Labels = tuple[tuple[str, str], ...]


class Figures(NoInstrumentation):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Labels]] = Counter()
        self.seconds: dict[tuple[str, Labels], list[float]] = {}
        self.gauges: dict[tuple[str, Labels], float] = {}

    def count(self, name: str, amount: int = 1, /, **labels: str) -> None:
        self.counts[name, tuple(labels.items())] += amount

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        self.seconds.setdefault((name, tuple(labels.items())), []).append(seconds)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        self.gauges[name, tuple(labels.items())] = value

    def of(self, name: str) -> dict[Labels, int]:
        return {labels: count for (each, labels), count in self.counts.items() if each == name}

    def times(self, name: str) -> dict[Labels, list[float]]:
        return {labels: taken for (each, labels), taken in self.seconds.items() if each == name}
