"""The command line's entry: every command, imported only when it is named."""

import importlib
import sys
from typing import Any

import click

from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.cli.errors import Stop
from penstock.kit.engine import EngineFailed

COMMANDS = {
    "up": ("penstock.cli.up", "up", "Start the whole market on this machine."),
    "down": ("penstock.cli.down", "down", "Stop the market."),
    "restart": ("penstock.cli.restart", "restart", "Renew the gateway without a pause."),
    "status": ("penstock.cli.status", "status", "Is it up, and what is in it."),
    "logs": ("penstock.cli.logs", "logs", "What the stations wrote."),
    "chat": ("penstock.cli.chat", "chat", "Talk to a model; see cost and receipt."),
    "chutes": ("penstock.cli.listing", "chutes", "The catalogue."),
    "miner": ("penstock.cli.miner", "miner", "Serve with your hardware."),
    "miners": ("penstock.cli.listing", "miners", "Who serves what."),
    "scores": ("penstock.cli.listing", "scores", "Scores and payouts of a settled epoch."),
    "balance": ("penstock.cli.listing", "balance", "What your account has left."),
    "deploy": ("penstock.cli.deploy", "deploy", "Put a chute into the catalogue."),
    "verify": ("penstock.cli.verify", "verify", "Check a receipt or recompute an epoch."),
    "sim": ("penstock.cli.sim", "sim", "The whole market on virtual time, with adversaries."),
    "completion": ("penstock.cli.completion", "completion", "Print shell completion."),
}


class LazyGroup(click.Group):
    """Looks commands up in its table: `penstock --help` imports none of them."""

    table = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self.table:
            return None
        module, name, _ = self.table[cmd_name]
        found: Any = getattr(importlib.import_module(module), name)
        return found if isinstance(found, click.Command) else None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what is wrong with a file of the user's is told in words."""
        try:
            return super().invoke(ctx)
        except (FileExposed, KeyFileInvalid, EngineFailed) as error:
            raise Stop(str(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in self.table.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="penstock")
def main() -> None:
    """Penstock: an open market for AI inference.

    Start with: penstock up
    """


if __name__ == "__main__":
    sys.exit(main())
