"""`eventbus asyncapi`: what the app is to others, as a document; connects to nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Settings, app_argument
from eventbus.cli.main import Commands
from eventbus.cli.output import note, show_facts

if TYPE_CHECKING:
    from eventbus.errors import ConfigurationError

UNCHECKED = (
    "the form of objects and bindings: `@asyncapi/parser` (npm) has AsyncAPI's own schemas",
    "references to other files and addresses",
)

_file: Any = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=Commands)
def asyncapi() -> None:
    """Channels, operations and messages of the app, as AsyncAPI 3.1.0."""


@asyncapi.command(cls=Command)
@app_argument
@click.option("--file", type=_file, metavar="FILE", help="Write it there; else to stdout.")
@click.pass_obj
def generate(settings: Settings, app: str | None, file: Path | None) -> int:
    """Write the document; --transport says whose addresses it has."""
    from eventbus.asyncapi import document_of
    from eventbus.cli.locate import app_of, target_of

    description = asyncio.run(app_of(settings, app).describe())
    title = description.service or str(target_of(settings, app))
    document = document_of(description, title=title, version=_project_version())
    changed = file is not None and _text(file) != (text := _written(document))
    if file is not None and changed and not settings.dry_run:
        file.write_text(text, encoding="utf-8")
    counts = {
        "channels": len(document["channels"]),
        "operations": len(document["operations"]),
        "messages": len(document["components"]["messages"]),
    }
    facts = {"file": None if file is None else str(file), "changed": changed, **counts}
    if file is None:
        show_facts(
            settings,
            "asyncapi generate",
            {**facts, "document": document},
            [_written(document)[:-1]],
        )
        return DONE
    word = "unchanged" if not changed else "would be written" if settings.dry_run else "written"
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    show_facts(settings, "asyncapi generate", facts, [f"{file}: {word}; {said}"])
    return DONE


@asyncapi.command(cls=Command)
@click.argument("file", type=_file)
@click.pass_obj
def validate(settings: Settings, file: Path) -> int:
    """Whether a document holds together; exit 1 if not. It says what it cannot check."""
    from eventbus.asyncapi import problems_of

    problems = problems_of(_read(file))
    facts = {
        "valid": not problems,
        "problems": [asdict(one) for one in problems],
        "unchecked": list(UNCHECKED),
    }
    lines = [f"{one.where}  {one.what}" for one in problems]
    show_facts(settings, "asyncapi validate", facts, lines or [f"{file}: nothing is wrong"])
    if settings.output == "table":
        for one in UNCHECKED:
            note(settings, f"not checked: {one}")
    return FOUND if problems else DONE


@asyncapi.command(cls=Command)
@click.argument("old", type=_file)
@click.argument("new", type=_file)
@click.pass_obj
def diff(settings: Settings, old: Path, new: Path) -> int:
    """What the new document adds, removes and breaks; exit 1 if it breaks something."""
    from eventbus.cli.asyncapi_changes import changes_between

    try:
        found = changes_between(_whole(old), _whole(new))
    except (KeyError, TypeError, AttributeError) as error:  # of others: a form that we do not know
        raise _unclear(f"{old.name} and {new.name}", f"{old} {new}", str(error)) from error
    breaking = any(one.kind == "breaking" for one in found)
    facts = {"breaking": breaking, "changes": [asdict(one) for one in found]}
    lines = [f"{one.kind:<8}  {one.part:<9}  {one.name}  {one.why}".rstrip() for one in found]
    show_facts(settings, "asyncapi diff", facts, lines or ["nothing changed"])
    return FOUND if breaking else DONE


def _written(document: Mapping[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else None


def _project_version() -> str:
    """Of ./pyproject.toml; AsyncAPI demands one."""
    project = Path("pyproject.toml")
    if not project.is_file():
        return "0.0.0"
    import tomllib

    found = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
    return str(found.get("version", "0.0.0"))


def _whole(file: Path) -> Mapping[str, Any]:
    """A document whose references lead somewhere.

    Raises:
        ConfigurationError: EB8011, it is none; EB8012, it does not hold together.
    """
    from eventbus.asyncapi import problems_of

    document = _read(file)
    problems = problems_of(document)
    if problems:
        raise _unclear(file.name, str(file), f"{problems[0].where} {problems[0].what}")
    return document


def _unclear(name: str, file: str, why: str) -> "ConfigurationError":
    from eventbus.cli.locate import called
    from eventbus.errors import ConfigurationError

    return ConfigurationError(
        "EB8012",
        f"{name} cannot be compared",
        where=f"{called()} {file}",
        why=f"a reference or a part of it is not what it must be: {why}",
        next="eventbus asyncapi validate FILE | generate it again",
    )


def _read(file: Path) -> Mapping[str, Any]:
    """A document.

    Raises:
        ConfigurationError: EB8011, it cannot be read, or is no JSON object.
    """
    import json

    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(file, error.strerror or "the file system refused") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _unreadable(file, "it is no JSON object")
    return found


def _unreadable(file: Path, why: str) -> "ConfigurationError":
    from eventbus.cli.locate import called
    from eventbus.errors import ConfigurationError

    return ConfigurationError(
        "EB8011",
        f"there is no AsyncAPI document in {file.name}",
        where=f"{called()} {file}",
        why=why,
        next="eventbus asyncapi generate --file FILE writes one; YAML is to be converted to JSON",
    )
