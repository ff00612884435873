"""Tools for tests of applications: fixtures, a movable clock, faults, suites for adapters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.testing.explorer import World, explore, invariant, replay
    from eventbus.testing.faults import FaultPlan, FaultyStorage, FaultyTransport
    from eventbus.testing.harness import Clock, Harness, Published, context_for
    from eventbus.testing.projections import Projected, assert_rebuild_equals_live, projected
    from eventbus.testing.scenario import scenario
    from eventbus.testing.specification import given

__all__ = [
    "Clock",
    "FaultPlan",
    "FaultyStorage",
    "FaultyTransport",
    "Harness",
    "Projected",
    "Published",
    "World",
    "assert_rebuild_equals_live",
    "context_for",
    "explore",
    "given",
    "invariant",
    "projected",
    "replay",
    "scenario",
]

_HOMES = {
    "World": "explorer",
    "explore": "explorer",
    "invariant": "explorer",
    "replay": "explorer",
    "scenario": "scenario",
    "FaultPlan": "faults",
    "FaultyStorage": "faults",
    "FaultyTransport": "faults",
    "Projected": "projections",
    "assert_rebuild_equals_live": "projections",
    "given": "specification",
    "projected": "projections",
}

if not TYPE_CHECKING:  # the plugin below this package is imported in every pytest run: lazily

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = _HOMES.get(name, "harness")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
