"""`tests/scenarios.py:place_order` to a scenario, with what its file says around it."""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from inspect import iscoroutinefunction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from eventbus.cli.locate import called, import_failed
from eventbus.errors import ConfigurationError, EventBusError

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.testing.saga_invariants import TableInvariant

    Drive = Callable[[EventBus], Awaitable[None]]

PREPARE = "prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioFile:
    """A scenario, what is done before each run of it, and what must hold after each."""

    name: str
    scenario: "Drive"
    prepare: "Drive | None"
    invariants: "list[TableInvariant]"


def scenario_in(what: str) -> ScenarioFile:
    """Import FILE, and find the scenario in it.

    Raises:
        ConfigurationError: EB8001, there is no such file or function; EB1001, importing it failed.
    """
    from eventbus.testing.saga_invariants import TableInvariant

    file, _, name = what.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        why = f"{file or what!r} is no file; it is written FILE:SCENARIO"
        raise _unclear(
            what, f"there is no scenario {what!r}", why, "tests/scenarios.py:place_order"
        )
    module = _imported(path)
    functions = {key: each for key, each in vars(module).items() if iscoroutinefunction(each)}
    scenario = functions.get(name)
    if scenario is None:
        known = sorted(functions.keys() - {PREPARE})
        close = get_close_matches(name, known, n=3) or known[:3]
        raise _unclear(
            what,
            f"{file} has no scenario {name!r}",
            f"its coroutine functions are: {', '.join(known) or 'none'}",
            " | ".join(f"{file}:{one}" for one in close) or "async def scenario(bus: EventBus): …",
        )
    return ScenarioFile(
        name=what,
        scenario=scenario,
        prepare=functions.get(PREPARE),
        invariants=[each for each in vars(module).values() if isinstance(each, TableInvariant)],
    )


def _imported(path: Path) -> ModuleType:
    """A file that the app imported already is that module: its classes must be the same ones."""
    whole = path.resolve()
    for module in list(sys.modules.values()):
        known = getattr(module, "__file__", None)
        if known and Path(known).resolve() == whole:
            return module
    spec = spec_from_file_location(path.stem, whole)
    if spec is None or spec.loader is None:
        why = "Python cannot import it"
        raise _unclear(str(path), f"{path} is no module", why, "tests/scenarios.py:place_order")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(whole.parent))
    try:
        spec.loader.exec_module(module)
    except EventBusError:
        raise
    except Exception as error:  # whatever the user's module does on import
        raise import_failed(path.stem, error) from error
    return module


def _unclear(what: str, said: str, why: str, next: str) -> ConfigurationError:
    where = f"{called()} {what}"
    return ConfigurationError("EB8001", said, where=where, why=why, next=next)
