"""What AsyncAPI's own parser says of the document of every example, for every transport."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from eventbus.asyncapi import document_of
from tests.outside.programs import run, tool
from tests.unit.asyncapi.apps import APPS, TRANSPORTS

HERE = Path(__file__).parent
MODULES = "EVENTBUS_OUTSIDE_NODE"


def modules() -> str:
    """Where npm put the parser; a missing one fails the test."""
    path = Path(os.environ.get(MODULES, HERE.parents[1] / ".outside-node"))
    if not (path / "node_modules" / "@asyncapi" / "parser").exists():
        pytest.fail(f"no parser in {path}: make outside puts it there | {MODULES}=", pytrace=False)
    return str(path)


def parser() -> tuple[str, ...]:
    return tool("node", "nodejs"), str(HERE / "foreign" / "asyncapi.mjs"), modules()


def write(folder: Path, app: str, transport: str) -> Path:
    description = asyncio.run(APPS[app]().replace(transport=TRANSPORTS[transport]).describe())
    file = folder / f"{app}-{transport}.json"
    document = document_of(description, title=app, version="1.0.0")
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_document_has_a_diagnostic(transport: str, tmp_path: Path) -> None:
    files = [str(write(tmp_path, app, transport)) for app in APPS]
    asyncio.run(run(*parser(), *files, seconds=110.0))


@pytest.mark.parametrize(
    ("part", "wrong", "said"),
    [
        (("asyncapi",), "3.0.0", "latest"),
        (
            ("operations", "depot.pack", "messages"),
            [{"$ref": "#/components/messages/shop.ordered.v3"}],
            "does not belong to the specified channel",
        ),
        (
            ("components", "schemas", "shop.ordered.v3", "discriminator"),
            {"propertyName": "kind"},
            "must be string",
        ),
    ],
)
def test_the_parser_sees_what_is_wrong(
    tmp_path: Path, part: tuple[str, ...], wrong: object, said: str
) -> None:
    file = write(tmp_path, "hard", "kafka")
    document = json.loads(file.read_text(encoding="utf-8"))
    place = document
    for name in part[:-1]:
        place = place[name]
    place[part[-1]] = wrong
    file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(AssertionError, match=said):
        asyncio.run(run(*parser(), str(file)))


def test_a_missing_parser_fails_and_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODULES, "/nowhere")
    with pytest.raises(pytest.fail.Exception, match="make outside"):
        modules()
