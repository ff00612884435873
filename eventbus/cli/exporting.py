"""`eventbus export alerts|grafana`: what a monitoring system reads, for the metrics of workers."""

import json
from importlib.resources import files

import click

from eventbus.cli.board import board
from eventbus.cli.flags import Command, Settings
from eventbus.cli.output import show_facts


@click.command(cls=Command)
@click.argument("what", type=click.Choice(["alerts", "grafana"]))
@click.pass_obj
def export(settings: Settings, what: str) -> None:
    """Rules for Prometheus, or a dashboard for Grafana.

    \b
    alerts    eventbus export alerts > rules/eventbus.yml
    grafana   eventbus export grafana > eventbus.json, then Dashboards > Import
    """  # noqa: D301 - \b is click's mark for lines that stay
    if what == "alerts":
        rules = files("eventbus.cli").joinpath("shipped", "alerts.yml")
        text = rules.read_text(encoding="utf-8").rstrip()
    else:
        text = json.dumps(board(), indent=2)
    show_facts(settings, "export", {"what": what, "text": text}, [text])
