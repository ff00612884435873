"""`eventbus saga`: saga classes and sagas."""

import click

from eventbus.cli.main import Commands
from eventbus.cli.saga_class import diagram, explore, lint


@click.group(cls=Commands)
def saga() -> None:
    """Sagas: one business flow over several services, that ends done or undone."""


for command in (lint, explore, diagram):
    saga.add_command(command)
