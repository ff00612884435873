"""`eventbus schema`: what travels, and whether the code still reads it; connects to nothing."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.changing import confirm
from eventbus.cli.failures import DONE, FOUND
from eventbus.cli.flags import Command, Decorator, Settings, option
from eventbus.cli.main import Commands
from eventbus.cli.output import show_facts, show_rows, to_json

if TYPE_CHECKING:
    from eventbus.cli.snapshot import Mode, Recorded, Shape
    from eventbus.codec import Registry
    from eventbus.errors import ConfigurationError, Finding

snapshot_option: Decorator = option(
    "--snapshot",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default="eventbus-schemas.json",
    show_default=True,
    metavar="FILE",
    help="The snapshot in your repository.",
)


@click.group(cls=Commands)
def schema() -> None:
    """The types that travel, and whether this code reads what older code wrote."""


@schema.command(name="list", cls=Command)
@click.pass_obj
def list_(settings: Settings) -> None:
    """Every type with its version, its fields and the versions that upcasters start from."""
    rows = [
        {
            "type": shape.type,
            "version": shape.version,
            "fields": list(shape.schemas["reads"].get("properties", {})),
            "upcasters": list(shape.upcasters),
        }
        for shape in _shapes(_types(settings))
    ]
    show_rows(settings, "schema list", rows, ("type", "version", "fields", "upcasters"))


@schema.command(cls=Command)
@click.argument("name", metavar="TYPE[@V]")
@snapshot_option
@click.pass_obj
def show(settings: Settings, name: str, file: Path) -> None:
    """The JSON schema of a type; of another version as the snapshot has it."""
    shape, version = _wanted(_types(settings), name)
    schemas = shape.schemas
    if version is not None and version != shape.version:
        schemas = _recorded_version(shape.type, version, file)
    facts = {"type": shape.type, "version": version or shape.version, "schema": schemas["reads"]}
    show_facts(settings, "schema show", facts, _indented(schemas["reads"]))


@schema.command(cls=Command)
@snapshot_option
@click.pass_obj
def snapshot(settings: Settings, file: Path) -> int:
    """Record this code's schemas; asks where that would accept a breaking change."""
    from eventbus.cli.snapshot import findings, merged, read, to_text

    shapes = _shapes(_types(settings))
    recorded: Recorded = read(file) if file.exists() else {}
    changed = [one for one in shapes if recorded.get(one.type, {}).get(one.version) != one.schemas]
    broken = [one for one in findings(recorded, shapes, "backward") if one.level == "refuse"]
    if changed and not settings.dry_run:
        if broken:
            for line in _lines(broken):
                click.echo(line, err=True)
            confirm(settings, f"{file.name}: {len(broken)} breaking changes accepted")
        file.write_text(to_text(merged(recorded, shapes)), encoding="utf-8")
    names = [f"{one.type}@{one.version}" for one in changed]
    facts = {"file": str(file), "recorded": names, "dry_run": settings.dry_run}
    word = "would be recorded" if settings.dry_run else "recorded"
    lines = [f"{name}: {word}" for name in names]
    show_facts(settings, "schema snapshot", facts, lines or ["the snapshot is up to date"])
    return DONE


@schema.command(cls=Command)
@option(
    "--mode",
    type=click.Choice(["backward", "forward", "full"]),
    default="backward",
    show_default=True,
    help="This code reads older messages, older code reads this one's, or both.",
)
@snapshot_option
@click.pass_obj
def check(settings: Settings, mode: "Mode", file: Path) -> int:
    """Compare the code with the snapshot; exit 1 on a breaking change."""
    from eventbus.cli.snapshot import findings, read

    found = findings(read(file), _shapes(_types(settings)), mode)
    compatible = not any(one.level == "refuse" for one in found)
    facts = {"compatible": compatible, "mode": mode, "findings": [asdict(one) for one in found]}
    said = list(_lines(found)) or [f"compatible ({mode})"]
    show_facts(settings, "schema check", facts, said)
    return DONE if compatible else FOUND


@schema.command(cls=Command)
@click.argument("name", metavar="TYPE[@V]")
@click.option(
    "--sample",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The body of a stored message, a JSON object.",
)
@click.pass_obj
def upcast(settings: Settings, name: str, sample: Path) -> None:
    """A stored body as this code reads it; version 1 unless V is given."""
    from eventbus.codec import plan_of
    from eventbus.errors import CodecError
    from eventbus.message import Message, new_id

    types = _types(settings)
    shape, version = _wanted(types, name)
    start = version or 1
    stored = Message(
        id=new_id(),
        type=shape.type,
        source="/sample",
        topic="sample",
        payload=_bytes(sample),
        key=None,
        headers={"dataschema": f"urn:eventbus:schema:{shape.type}:{start}"},
    )
    try:
        event = types.decode(stored)
    except CodecError as error:  # nothing is quarantined here
        error.where = f"--sample {sample}, as v{start}"
        error.next = "mend the class, its upcaster or the sample | another version: TYPE@V"
        raise
    steps = [{"version": at, "upcaster": shape.upcasters[at]} for at in range(start, shape.version)]
    import json

    data = json.loads(plan_of(type(event)).write(event))
    facts = {"type": shape.type, "version": shape.version, "upcasters": steps, "data": data}
    lines = [f"v{step['version']} -> {step['upcaster']}" for step in steps]
    show_facts(settings, "schema upcast", facts, [*lines, to_json(data)])


def _types(settings: Settings) -> "Registry":
    from eventbus.cli.locate import app_of

    return asyncio.run(app_of(settings).describe()).types


def _shapes(types: "Registry") -> "list[Shape]":
    from eventbus.cli.snapshot import shape_of

    shapes = [shape_of(cls) for cls in types.classes]
    return [shape for shape in shapes if not shape.type.startswith("eventbus.")]  # ours


def _wanted(types: "Registry", name: str) -> "tuple[Shape, int | None]":
    """A type of the app, and the version that stands behind the @.

    Raises:
        UsageError: the version is no number.
        ConfigurationError: EB1006, the app has no such type.
    """
    from eventbus.cli.snapshot import shape_of

    wanted, at, digits = name.partition("@")
    if at and not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 10**9):
        raise click.UsageError(f"{name!r}: what follows the @ is a version, from 1")
    cls = types.get(wanted)
    if cls is None:
        raise _unknown(name, wanted, [one.type for one in _shapes(types)])
    return shape_of(cls), int(digits) if at else None


def _recorded_version(type: str, version: int, file: Path) -> Any:
    from eventbus.cli.snapshot import read

    versions = read(file).get(type, {})
    if version in versions:
        return versions[version]
    known = [f"{type}@{one}" for one in versions]
    raise _unknown(f"{type}@{version}", f"{type}@{version}", known)


def _unknown(given: str, name: str, known: Sequence[str]) -> "ConfigurationError":
    from eventbus.cli.locate import called
    from eventbus.errors import ConfigurationError

    close = get_close_matches(name, known, n=3, cutoff=0.6)
    return ConfigurationError(
        "EB1006",
        f"there is no type {given!r}",
        where=f"{called()} {given}",
        why=f"there are: {', '.join(known) or 'none'}",
        next=" | ".join(f"{called()} {one}" for one in close) or "eventbus schema list",
    )


def _bytes(sample: Path) -> bytes:
    from eventbus.errors import ConfigurationError

    try:
        return sample.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            "EB1221",
            f"the sample {sample.name} cannot be read",
            where=f"--sample {sample}",
            why=error.strerror or "the file system refused",
            next="name a file with the body of a stored message, a JSON object",
        ) from error


def _indented(schema: Any) -> Iterator[str]:
    import json

    yield from json.dumps(schema, indent=2, ensure_ascii=False).splitlines()


def _lines(findings: "Sequence[Finding]") -> Iterator[str]:
    for finding in findings:
        yield f"{finding.level:<6}  {finding.code}  {finding.what}"
        yield f"        why   {finding.why}"
        yield f"        next  {finding.next}"
