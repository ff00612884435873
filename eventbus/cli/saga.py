"""`eventbus saga`: saga classes and sagas."""

import click

from eventbus.cli.main import Commands
from eventbus.cli.saga_class import diagram, explore, lint
from eventbus.cli.saga_looking import in_flight, list_, show, timers
from eventbus.cli.saga_verbs import cancel, compensate, pause, resolve, resume, retry, skip
from eventbus.cli.saga_worker import check, worker


@click.group(cls=Commands)
def saga() -> None:
    """Sagas: one business flow over several services, that ends done or undone."""


_COMMANDS: tuple[click.Command, ...] = (
    worker,
    list_,
    show,
    timers,
    retry,
    skip,
    resolve,
    cancel,
    compensate,
    pause,
    resume,
    in_flight,
    check,
    lint,
    explore,
    diagram,
)
for _command in _COMMANDS:
    saga.add_command(_command)
