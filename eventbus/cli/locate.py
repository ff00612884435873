"""`shop.app:bus` to an EventBus."""

import os
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

from eventbus.cli.flags import Settings
from eventbus.errors import ConfigurationError

if TYPE_CHECKING:
    from eventbus.bus import EventBus


def target_of(settings: Settings, given: str | None = None) -> str | None:
    """The argument, else --app or EVENTBUS_APP, else `[tool.eventbus] app` of ./pyproject.toml."""
    return given or settings.app or _project_app()


def app_of(settings: Settings, given: str | None = None) -> "EventBus":
    """The bus of the app, with the transport and the storage that the flags say; not entered.

    Raises:
        ConfigurationError: EB1001, EB1002, EB8001; or what building the bus says.
    """
    target = target_of(settings, given)
    if target is None:
        raise ConfigurationError(
            "EB8001",
            "no app was named",
            where=called(),
            why="neither an argument, nor --app, EVENTBUS_APP, nor [tool.eventbus] app",
            next="name the bus as module:attribute, with any command: -A app:bus",
        )
    bus = locate(target)
    if settings.transport is None and settings.storage is None:
        return bus
    return bus.replace(transport=settings.transport, storage=settings.storage)


def locate(target: str) -> "EventBus":
    """Import `module:attribute`, with the current directory first on the path.

    Raises:
        ConfigurationError: EB1001, EB1002, with what was probably meant.
    """
    from eventbus.bus import EventBus

    if (here := str(Path.cwd())) not in sys.path[:1]:
        sys.path.insert(0, here)
    name, _, attribute = target.partition(":")
    module = _module(name, target)
    found = getattr(module, attribute, None) if attribute else None
    if isinstance(found, EventBus):
        return found
    raise _no_bus(module, name, attribute, EventBus)


def _project_app() -> str | None:
    project = Path("pyproject.toml")
    if not project.is_file():
        return None
    import tomllib

    tool = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {})
    app = tool.get("eventbus", {}).get("app")
    return app if isinstance(app, str) else None


def _module(name: str, target: str) -> ModuleType:
    from eventbus.errors import EventBusError

    try:
        return import_module(name)
    except EventBusError:
        raise  # the app says itself what is wrong with it
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise import_failed(name, error) from error
        close = get_close_matches(name, _modules(name), n=3, cutoff=0.6)
        raise ConfigurationError(
            "EB1001",
            f"there is no module {error.name!r}",
            where=f"{called()} {target}",
            why=f"it was looked for in {Path.cwd().name}/ and among what is installed",
            next=_instead(target, name, close) or "mend the name, or change the directory",
        ) from error
    except Exception as error:  # whatever the user's module does on import
        raise import_failed(name, error) from error


def import_failed(name: str, error: Exception) -> ConfigurationError:
    """EB1001: what the module of the user raised, and on which of its lines."""
    return ConfigurationError(
        "EB1001",
        f"importing {name!r} failed: {type(error).__name__}: {error}",
        where=place_of(error),
        why="the module raised it while it was imported",
        next="mend it; -v shows the traceback",
    )


def place_of(error: Exception) -> str:
    """The line that raised it, from here."""
    from traceback import extract_tb

    frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    last = frames[-1]
    path = os.path.relpath(last.filename)
    return f"{last.filename if path.startswith('..') else path}:{last.lineno} in {last.name}"


def _modules(name: str) -> list[str]:
    """What could have been meant: modules beside it, two levels deep."""
    parent, dot, _ = name.rpartition(".")
    folder = Path(*parent.split(".")) if parent else Path()
    found = [f"{parent}{dot}{module.name}" for module in iter_modules([str(folder)])]
    packages = [module.name for module in iter_modules([""]) if module.ispkg]
    return found + [
        f"{package}.{module.name}" for package in packages for module in iter_modules([package])
    ]


def _no_bus(
    module: ModuleType, name: str, attribute: str, kind: type["EventBus"]
) -> ConfigurationError:
    path = os.path.relpath(module.__file__ or name)
    buses = [key for key, value in vars(module).items() if isinstance(value, kind)]
    if not attribute:
        what = f"{name!r} names a module, not a bus in it"
    elif hasattr(module, attribute):
        found = type(getattr(module, attribute)).__name__
        what = f"{attribute!r} of {path} is no EventBus but {found}"
    else:
        what = f"{path} has no attribute {attribute!r}"
    close = get_close_matches(attribute, buses, n=3, cutoff=0.6) or buses[:3]
    return ConfigurationError(
        "EB1002",
        what,
        where=f"{called()} {name}{':' if attribute else ''}{attribute}",
        why=f"the module defines {_counted(buses)}",
        next=" | ".join(f"{name}:{bus}" for bus in close)
        or "bus = EventBus(…) at the top level of the module",
    )


def _counted(buses: list[str]) -> str:
    if len(buses) == 1:
        return f"one EventBus: {buses[0]}"
    return f"{len(buses)} of EventBus: {', '.join(buses)}" if buses else "no EventBus"


def _instead(target: str, name: str, close: list[str]) -> str:
    return " | ".join(target.replace(name, one, 1) for one in close)


def called() -> str:
    """The command as it was typed, for `where`; options may hold secrets and are left out."""
    import click

    ctx = click.get_current_context(silent=True)
    return "eventbus" if ctx is None else ctx.command_path
