"""`describe`, `guarantees`, `explain`: what the app is, what it is promised, what a code means."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.flags import Command, Settings, app_argument, option
from eventbus.cli.output import DONE, FOUND, show_facts

if TYPE_CHECKING:
    from eventbus.bus import Description
    from eventbus.errors import Finding


@click.command(cls=Command)
@app_argument
@click.option("--route", metavar="TYPE", help="Only who handles this type.")
@click.pass_obj
def describe(settings: Settings, app: str | None, route: str | None) -> None:
    """Groups, handlers and types; connects to nothing."""
    from eventbus.cli.locate import app_of

    description = asyncio.run(app_of(settings, app).describe())
    facts = facts_of(description)
    if route is not None:
        facts = _only(facts, route, description)
    show_facts(settings, "describe", facts, _lines(facts))


def facts_of(description: "Description") -> dict[str, Any]:
    """What the bus is made of, as plain data; URLs are left out, they may hold passwords."""
    groups = [
        {
            "name": name,
            "order": routes.group.order,
            "transactional": routes.group.transactional,
            "timeout_seconds": routes.group.timeout.total_seconds(),
            "lanes": routes.group.lanes,
            "handlers": [
                {
                    "name": handler.name,
                    "where": handler.where,
                    "kind": handler.kind,
                    "types": [_type_of(what) for what in handler.what],
                }
                for handler in routes.handlers
            ],
            "types": list(routes.interest().types),
            "topics": list(routes.interest().topics),
        }
        for name, routes in description.groups.items()
    ]
    types = [
        {
            "type": cls.__wire__.type,
            "version": cls.__wire__.version,
            "topic": cls.__wire__.topic,
            "key": cls.__wire__.key,
            "class": f"{cls.__module__}.{cls.__qualname__}",
        }
        for cls in description.types.classes
        if cls.__wire__ is not None
    ]
    return {
        "service": description.service,
        "transport": description.transport,
        "storage": description.storage,
        "groups": groups,
        "types": types,
        "findings": [asdict(finding) for finding in description.findings],
    }


def _type_of(what: Any) -> str:
    if isinstance(what, str):
        return what
    wire = getattr(what, "__wire__", None)
    return wire.type if wire is not None else f"{what.__name__} and its subclasses"


def _only(facts: dict[str, Any], route: str, description: "Description") -> dict[str, Any]:
    """The part of it that a type meets.

    Raises:
        ConfigurationError: EB1006, no group handles it.
    """
    types = [one for one in facts["types"] if one["type"] == route]
    groups = []
    for group in facts["groups"]:
        names = {handler.name for handler in description.groups[group["name"]].of(route).handlers}
        handlers = [handler for handler in group["handlers"] if handler["name"] in names]
        if handlers:
            groups.append(group | {"handlers": handlers})
    if types or groups:
        return facts | {"groups": groups, "types": types, "findings": []}
    from eventbus.errors import ConfigurationError

    known = [one["type"] for one in facts["types"]]
    close = get_close_matches(route, known, n=3, cutoff=0.6)
    raise ConfigurationError(
        "EB1006",
        f"no group handles the type {route!r}",
        where=f"--route {route}",
        why=f"the types are: {', '.join(known) or 'none'}",
        next=" | ".join(f"--route {one}" for one in close) or "eventbus describe",
    )


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"service    {facts['service'] or '-'}"
    yield f"transport  {facts['transport']}://"
    yield f"storage    {facts['storage'] + '://' if facts['storage'] else '-'}"
    for group in facts["groups"]:
        yield f"group {group['name']}   order {group['order']}   {group['lanes']} lanes"
        for handler in group["handlers"]:
            yield f"  {', '.join(handler['types'])} -> {handler['name']}   {handler['where']}"
    for one in facts["types"]:
        key = f"   key {one['key']}" if one["key"] else ""
        yield f"type {one['type']} v{one['version']}{key}   {one['class']}"
    for finding in facts["findings"]:
        if finding["level"] != "say":
            yield f"{finding['level']} {finding['code']} {finding['what']}"


@click.command(cls=Command)
@app_argument
@option("--strict", is_flag=True, help="A warning fails too, as with EventBus(strict=True).")
@click.pass_obj
def guarantees(settings: Settings, app: str | None, strict: bool) -> int:
    """What each group is promised under this configuration; exit 1 if something is unsafe."""
    from eventbus.cli.locate import app_of

    findings = asyncio.run(app_of(settings, app).describe()).findings
    failing = {"refuse", "warn"} if strict else {"refuse"}
    safe = not any(finding.level in failing for finding in findings)
    facts = {"safe": safe, "strict": strict, "findings": [asdict(finding) for finding in findings]}
    show_facts(settings, "guarantees", facts, _findings(findings))
    return DONE if safe else FOUND


def _findings(findings: "Sequence[Finding]") -> Iterator[str]:
    for finding in findings:
        yield f"{finding.level:<6}  {finding.code}  {finding.what}"
        yield f"        why   {finding.why}"
        if finding.level != "say":
            yield f"        next  {finding.next}"


@click.command(cls=Command)
@click.argument("code")
@click.pass_obj
def explain(settings: Settings, code: str) -> None:
    """What an error code means, and what to do about it."""
    pages = {
        page.name.removesuffix(".md"): page
        for page in files("eventbus.cli").joinpath("explain").iterdir()
        if page.name.endswith(".md")
    }
    page = pages.get(code.upper())
    if page is None:
        raise _no_page(code, sorted(pages))
    text = page.read_text(encoding="utf-8")
    show_facts(settings, "explain", {"code": code.upper(), "text": text}, [text.rstrip()])


def _no_page(code: str, known: Sequence[str]) -> Exception:
    from eventbus.errors import ConfigurationError

    close = get_close_matches(code.upper(), known, n=3, cutoff=0.6)
    return ConfigurationError(
        "EB8001",
        f"there is no error code {code!r}",
        where=f"eventbus explain {code}",
        why=f"codes are EB and four digits; this version has {len(known)}",
        next=" | ".join(f"eventbus explain {one}" for one in close) or "eventbus explain EB1001",
    )
