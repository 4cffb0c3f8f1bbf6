"""penstock completion: the script that completes commands and options in your shell."""

import click
from click.shell_completion import get_completion_class

from penstock.cli.errors import Stop


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL. bash: eval "$(penstock completion bash)"."""
    kind = get_completion_class(shell)
    if kind is None:
        raise Stop(f"no completion for {shell}")
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "penstock", "_PENSTOCK_COMPLETE").source())
