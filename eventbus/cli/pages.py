"""`eventbus explain CODE`: the pages of `explain/`, which are those of the documentation."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files

import click

from eventbus.cli.flags import Command, Settings
from eventbus.cli.output import show_facts


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
