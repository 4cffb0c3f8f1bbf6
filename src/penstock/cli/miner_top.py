"""penstock miner top: a live view of a miner, over its agent's socket."""

import click
from rich.live import Live

from penstock.cli.errors import Stop
from penstock.cli.miner_home import MinerHome, asked_agent, miner_home_option
from penstock.cli.miner_view import frame_view
from penstock.cli.output import console, json_option, print_json
from penstock.cli.world import pause


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option(
    "--every",
    "every_s",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.5, 60),
    help="Seconds between frames.",
)
@miner_home_option
@json_option
def top(home: MinerHome, *, once: bool, every_s: float, as_json: bool) -> None:
    """Watch this miner: cards, instances with state and reason, tokens/s, queue, cache, earnings.

    Ctrl-C ends the view, not the miner. Exit code 3 when no miner runs. What is earned is by the
    miner's own receipts and the published payouts; `earnings` shows the ledger's books.
    """
    frame = asked_agent(home, "GET", "/v1/frame")
    if as_json:
        print_json(frame)
        return
    out = console()
    if once or not out.is_terminal:
        out.soft_wrap = False
        out.print(frame_view(frame, columns=out.width))
        return
    try:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(frame_view(frame, columns=out.width), refresh=True)
                pause(every_s)
                frame = asked_agent(home, "GET", "/v1/frame")
    except KeyboardInterrupt:
        return
    except Stop as error:
        raise Stop("the miner has stopped", then=error.then, exit_code=error.exit_code) from error
