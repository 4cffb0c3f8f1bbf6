"""penstock miner: the commands of one miner, imported only when they are named."""

import click

from penstock.cli.main import LazyGroup

MINER_COMMANDS = {
    "up": ("penstock.cli.miner_up", "up", "Serve with this machine: one command, no question."),
    "test": ("penstock.cli.miner_test", "test", "Is this machine fit, and what would it earn."),
    "top": ("penstock.cli.miner_top", "top", "Live view of cards, instances and earnings."),
    "earnings": ("penstock.cli.miner_earnings", "earnings", "What it earned, by the public log."),
    "drain": ("penstock.cli.miner_drain", "drain", "Finish what runs, then stop."),
    "maintenance": ("penstock.cli.miner_maintenance", "maintenance", "Plan an absence."),
}


class MinerGroup(LazyGroup):
    """The commands below `penstock miner`."""

    table = MINER_COMMANDS


@click.group(cls=MinerGroup)
def miner() -> None:
    """Serve with your hardware: any GPU or CPU.

    Start with: penstock miner up --gateway URL
    """
