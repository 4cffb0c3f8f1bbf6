"""penstock down: end the market of a home, whole."""

import os
import signal

import click

from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import console, json_option, print_json
from penstock.cli.world import pause

STOP_DEADLINE_S = 90
CHECK_EVERY_S = 0.1


@click.command()
@home_option
@json_option
def down(home: Home, *, as_json: bool) -> None:
    """Stop the market in --home: running answers are finished, then every process ends."""
    pid = home.supervisor_pid()
    if pid is None:
        if as_json:
            print_json({"stopped": False, "home": str(home.path)})
        else:
            console().print(f"No market runs in {home.path}.")
        return
    os.kill(pid, signal.SIGTERM)
    with console().status("stopping the stations" if not as_json else ""):
        for _ in range(int(STOP_DEADLINE_S / CHECK_EVERY_S)):
            if home.supervisor_pid() is None:
                break
            pause(CHECK_EVERY_S)
        else:
            raise Stop(
                f"process {pid} did not stop within {STOP_DEADLINE_S} s",
                then=f"kill -9 {pid} (every station dies with it; nothing acknowledged is lost)",
            )
    if as_json:
        print_json({"stopped": True, "home": str(home.path)})
    else:
        console().print(
            f"Stopped. The books and the log stay; penstock up{home.flag} goes on where it was.",
            markup=False,
        )
