"""`eventbus completion bash|zsh|fish`: the script that a shell sources."""

import click

from eventbus.cli.flags import Command


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   eval "$(eventbus completion bash)"
    zsh    eval "$(eventbus completion zsh)"
    fish   eventbus completion fish | source
    """  # noqa: D301 - \b is click's mark for lines that stay
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    script = found(ctx.find_root().command, {}, "eventbus", "_EVENTBUS_COMPLETE").source()
    click.echo(script)
