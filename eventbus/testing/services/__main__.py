"""`python -m eventbus.testing.services up|down|status`: real services for a person at a shell."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from eventbus.errors import EventBusError
from eventbus.testing.services.find import SERVICES, down, status, up
from eventbus.testing.services.service import ServiceMissingError, variable
from eventbus.testing.services.state import SCHEMA, Entry, state_of_this_checkout

_DONE, _FAILED, _MISSING = 0, 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Data on stdout, everything else on stderr; 1: it failed, 3: a service is missing."""
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = [name for name in options.services if name not in SERVICES]
    if unknown:
        parser.error(f"no service {', '.join(unknown)}: there is {', '.join(SERVICES)}")
    try:
        if options.command == "up":
            return _up(options.services or list(SERVICES))
        if options.command == "down":
            return _down(options.services)
        return _status(options.services, as_json=options.output == "json")
    except ServiceMissingError as error:
        _say(str(error))
        return _MISSING
    except EventBusError as error:
        _say(str(error))
        return _FAILED


def _up(names: Sequence[str]) -> int:
    """Print lines that a shell can evaluate."""
    for name in names:
        running = up(name, say=_say)
        _say(str(running))
        _print(f"export {variable(name)}='{running.url}'")
    return _DONE


def _down(names: Sequence[str]) -> int:
    def tell(entry: Entry) -> None:
        used = [str(user.pid) for user in entry.users if user.alive]
        _say(f"ended {entry.running}{', used by process ' if used else ''}{', '.join(used)}")

    down(names, ended=tell)
    return _DONE


def _status(names: Sequence[str], *, as_json: bool) -> int:
    """3 if one that was asked for does not run."""
    entries = {
        name: entry
        for name, entry in status().items()
        if not names or entry.running.service in names
    }
    if as_json:
        _print(json.dumps(_document(entries), indent=2))
    else:
        for name, entry in entries.items():
            _print(f"{name}  {_facts(entry)}")
        if not entries:
            _say("nothing runs")
    return _DONE if all(name in entries for name in names) else _MISSING


def _document(entries: dict[str, Entry]) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "directory": str(state_of_this_checkout().directory),
        "services": {name: asdict(entry) for name, entry in entries.items()},
    }


def _facts(entry: Entry) -> str:
    running = entry.running
    pids = " ".join(str(process.pid) for process in running.processes)
    where = f"pid {pids}" if pids else f"container {running.container}"
    until = "until down" if entry.kept else f"until {len(entry.users)} run(s) end"
    return f"{running.version}  {running.lane}  {running.url}  {where}  {until}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eventbus.testing.services",
        description="Real services for tests: EVENTBUS_TEST_<SERVICE>_URL, Docker, or native "
        "processes, in this order.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "find or start services, and print their URLs"),
        ("down", "end what was started"),
        ("status", "what runs"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("services", nargs="*", metavar="service", help=", ".join(SERVICES))
        if name == "status":
            command.add_argument("-o", "--output", choices=["table", "json"], default="table")
    return parser


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
