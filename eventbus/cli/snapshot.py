"""The committed snapshot of what travels, and what the code breaks of it (E3)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eventbus.cli.compatibility import Break, breaks
from eventbus.errors import ConfigurationError, Finding

if TYPE_CHECKING:
    from eventbus.event import TypedMessage

FORMAT = "eventbus.schemas/1"
Mode = Literal["backward", "forward", "full"]
Recorded = Mapping[str, Mapping[int, Mapping[str, Any]]]  # type -> version -> its schemas


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A type as this code has it."""

    type: str
    version: int
    upcasters: Mapping[int, str]  # the version it starts from -> the name of the function
    schemas: Mapping[str, Any]  # "reads" and "writes": JSON schemas


def shape_of(cls: "type[TypedMessage]") -> Shape:
    """Of a class with a wire type, names of fields as the codec reads and writes them.

    Raises:
        WiringError: EB1222, a field has no JSON schema.
    """
    from eventbus.codec import plan_of, schemas_of

    plan = plan_of(cls)
    return Shape(
        type=plan.wire.type,
        version=plan.wire.version,
        upcasters={start: one.__name__ for start, one in sorted(plan.upcasters.items())},
        schemas=schemas_of(cls),
    )


def read(path: Path) -> Recorded:
    """The snapshot in a file.

    Raises:
        ConfigurationError: EB1220, there is none, or it is no snapshot.
    """
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise _unreadable(path, f"its format is not {FORMAT}")
        return {
            name: {
                int(version): {"reads": dict(one["reads"]), "writes": dict(one["writes"])}
                for version, one in versions.items()
            }
            for name, versions in found["types"].items()
        }
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be read") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__} while it was read") from error


def merged(recorded: Recorded, shapes: Iterable[Shape]) -> Recorded:
    """With the versions of this code; what is recorded of others stays, gone types too."""
    result = {name: dict(versions) for name, versions in recorded.items()}
    for shape in shapes:
        result.setdefault(shape.type, {})[shape.version] = shape.schemas
    return result


def to_text(recorded: Recorded) -> str:
    """The file: sorted and indented, so that a difference can be reviewed."""
    import json

    types = {
        name: {str(version): versions[version] for version in sorted(versions)}
        for name, versions in sorted(recorded.items())
    }
    document = {"format": FORMAT, "types": types}
    return json.dumps(document, indent=2, sort_keys=False, ensure_ascii=False) + "\n"


def findings(recorded: Recorded, shapes: Iterable[Shape], mode: Mode) -> list[Finding]:
    """What of the snapshot the code breaks ("refuse"), and where the snapshot is behind ("warn").

    Args:
        recorded: the committed snapshot.
        shapes: all types of the code.
        mode: backward, this code reads what recorded versions wrote; forward, code of the newest
            recorded version reads what this code writes; full, both.
    """
    known = {shape.type: shape for shape in shapes}
    gone = [_gone(name) for name in recorded if name not in known]
    return gone + [
        finding
        for shape in known.values()
        for finding in _of(shape, recorded.get(shape.type, {}), mode)
    ]


def _of(shape: Shape, versions: Mapping[int, Mapping[str, Any]], mode: Mode) -> Iterator[Finding]:
    if mode in ("backward", "full"):
        for version, schemas in sorted(versions.items()):
            yield from _backward(shape, version, schemas)
    if mode in ("forward", "full") and versions:
        newest = max(versions)
        yield from _forward(shape, newest, versions[newest])
    if versions.get(shape.version) != shape.schemas and max(versions, default=0) <= shape.version:
        yield _behind(shape)


def _backward(shape: Shape, version: int, schemas: Mapping[str, Any]) -> Iterator[Finding]:
    if version > shape.version:
        yield _went_down(shape, version)
    elif version < shape.version:
        for start in range(version, shape.version):
            if start not in shape.upcasters:
                yield _no_upcaster(shape, version, start)
    else:
        broken = breaks(shape.schemas["reads"], schemas["writes"])
        yield from (_old_unread(shape, one) for one in broken)
        if broken:
            yield _not_raised(shape)


def _forward(shape: Shape, version: int, schemas: Mapping[str, Any]) -> Iterator[Finding]:
    if version < shape.version:
        yield _refuse(
            "EB3111",
            f"{shape.type} v{shape.version} is not read by code that has v{version}",
            "a reader has no way down from a newer version: it quarantines the message",
            "deploy readers before writers, or change it without a new version",
        )
    elif version == shape.version:
        broken = breaks(schemas["reads"], shape.schemas["writes"])
        yield from (_new_unread(shape, one) for one in broken)


_UNREAD = {
    "absent": ("EB3107", "is required and has no default", "give it a default"),
    "unknown": ("EB3112", "is unknown to a strict class", 'leave out extra="forbid"'),
    "narrowed": ("EB3106", "reads less than before", "let it read what was written"),
}
_UNREADABLE = {
    "absent": ("EB3105", "was removed, and older code needs it", "keep writing it"),
    "unknown": ("EB3112", "is unknown to strict older code", "relax the readers first"),
    "narrowed": ("EB3106", "is written in a way older code does not read", "write as before"),
}


def _old_unread(shape: Shape, one: Break) -> Finding:
    code, what, way = _UNREAD[one.kind]
    raised = f"{way}, or raise version= to {shape.version + 1} and write an upcaster"
    return _refuse(code, f"{_field(shape, one)} {what}", one.why, raised)


def _new_unread(shape: Shape, one: Break) -> Finding:
    code, what, way = _UNREADABLE[one.kind]
    return _refuse(code, f"{_field(shape, one)} {what}", one.why, way)


def _field(shape: Shape, one: Break) -> str:
    return f"{shape.type} v{shape.version}: {one.path or 'the body'}"


def _gone(name: str) -> Finding:
    return _refuse(
        "EB3110",
        f"{name} is in the snapshot, and no class has it",
        "stored and parked messages of it would be quarantined",
        "hand the class to the bus, or delete the type from the snapshot once none is left",
    )


def _went_down(shape: Shape, version: int) -> Finding:
    return _refuse(
        "EB3108",
        f"{shape.type} went down from v{version} to v{shape.version}",
        f"messages of v{version} exist, and nothing leads from it to v{shape.version}",
        f"raise version= to at least {version}; a version number is never used again",
    )


def _not_raised(shape: Shape) -> Finding:
    return _refuse(
        "EB3108",
        f"{shape.type} changed in a breaking way and is still v{shape.version}",
        "two shapes under one number: no upcaster can tell them apart",
        f"version={shape.version + 1} and @upcast({shape.version}), or undo the change",
    )


def _no_upcaster(shape: Shape, version: int, start: int) -> Finding:
    return _refuse(
        "EB3109",
        f"no upcaster leads {shape.type} from v{start} to v{start + 1}",
        f"messages of v{version} exist, and the class is v{shape.version}",
        f"a static method with @upcast({start})",
    )


def _behind(shape: Shape) -> Finding:
    return Finding(
        level="warn",
        code="EB3113",
        what=f"the snapshot is behind {shape.type} v{shape.version}",
        why="what is not recorded cannot be compared with the next change",
        next="eventbus schema snapshot, and commit the file",
    )


def _refuse(code: str, what: str, why: str, next: str) -> Finding:
    return Finding(level="refuse", code=code, what=what, why=why, next=next)


def _unreadable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        "EB1220",
        f"there is no schema snapshot in {path.name}",
        where=f"--snapshot {path}",
        why=why,
        next="eventbus schema snapshot writes it; commit it with the code",
    )
