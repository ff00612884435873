"""`eventbus describe`: what the app is made of."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.flags import Command, Settings, app_argument
from eventbus.cli.output import show_facts

if TYPE_CHECKING:
    from eventbus.bus import Description


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
