"""penstock miner drain: withdraw the offers, finish what runs, stop the agent."""

import asyncio

import click

from penstock.cli.errors import Stop
from penstock.cli.miner_home import MinerHome, asked_agent, is_running, miner_home_option
from penstock.cli.output import console, error_console, json_option, print_json
from penstock.cli.world import pause

DRAIN_DEADLINE_S = 120
CHECK_EVERY_S = 0.2


@click.command()
@click.option("--no-wait", is_flag=True, help="Return at once; the miner finishes by itself.")
@miner_home_option
@json_option
def drain(home: MinerHome, *, no_wait: bool, as_json: bool) -> None:
    """Take no new requests, finish those that run, then stop the miner.

    Who leaves so loses no availability; receipts that the ledger does not know yet are sent first, or
    claimed by the next `up`. Exit code 3 when no miner runs.
    """
    said = asked_agent(home, "POST", "/v1/drain")
    if not no_wait:
        with error_console().status(f"finishing {said['running']} requests") as status:
            if as_json:
                status.stop()
            wait_gone(home)
    if as_json:
        print_json({"draining": True, "stopped": not no_wait, "running": said["running"]})
    elif no_wait:
        console().print(f"Draining: {said['running']} requests run out, then it stops.")
    else:
        console().print(f"Stopped. Serve again: penstock miner up{home.flag}", markup=False)


def wait_gone(home: MinerHome) -> None:
    """Until the agent has ended. Raises Stop."""
    for _ in range(int(DRAIN_DEADLINE_S / CHECK_EVERY_S)):
        if not asyncio.run(is_running(home)):
            return
        pause(CHECK_EVERY_S)
    raise Stop(
        f"the miner did not stop within {DRAIN_DEADLINE_S} s",
        then=f"penstock miner top --once{home.flag}",
    )
