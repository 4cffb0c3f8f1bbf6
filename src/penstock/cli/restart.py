"""penstock restart gateway: new processes with the release and settings of now, and nobody turned away."""

import asyncio
import os
import re
import signal

import click

from penstock.cli.api import DEADLINE_MS, station_url
from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import console, json_option, print_json
from penstock.cli.world import pause
from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets

RENEW_DEADLINE_S = 600
CHECK_EVERY_S = 0.2
RENEWALS = re.compile(rb'^gateway_renewals_total\{result="(\w+)"\} (\d+)$', re.MULTILINE)


@click.command()
@click.argument("station", type=click.Choice(["gateway"]))
@home_option
@json_option
def restart(home: Home, *, station: str, as_json: bool) -> None:
    """Renew the processes of a STATION in --home, one after the other.

    Each new one takes requests before the old one stops taking them, and the old one finishes what it
    has begun. Settings are read anew, save port and number of workers.
    """
    url = station_url(home, station)
    pid = next(
        (one["pid"] for one in home.read_state()["stations"] if one["name"] == station), None
    )
    if pid is None:
        raise Stop(f"{station} does not run just now", then=f"penstock status{home.flag}")
    before = renewals(url)
    os.kill(pid, signal.SIGHUP)
    with console().status(f"renewing {station}" if not as_json else ""):
        result = _wait(url, before)
    if result != "complete":
        raise Stop(
            f"{station} was not renewed: the old processes go on",
            why=result,
            then=f"penstock logs {station}{home.flag}",
        )
    if as_json:
        print_json({"renewed": True, "station": station})
    else:
        console().print(f"Renewed: {station} runs in new processes.")


def _wait(url: str, before: dict[str, int]) -> str:
    """How the renewal ended: `complete`, or what is known of its failure."""
    for _ in range(int(RENEW_DEADLINE_S / CHECK_EVERY_S)):
        now = renewals(url)
        for result in ("complete", "failed"):
            if now.get(result, 0) > before.get(result, 0):
                return "complete" if result == "complete" else "a new process did not come up"
        pause(CHECK_EVERY_S)
    return f"no end within {RENEW_DEADLINE_S} s"


def renewals(url: str) -> dict[str, int]:
    """How many renewals have ended so far, by their result; empty while nobody answers."""
    return {
        name.decode(): int(count) for name, count in RENEWALS.findall(asyncio.run(_export(url)))
    }


async def _export(url: str) -> bytes:
    client = HttpClient(Sockets())
    try:
        return (await client.call("GET", f"{url}/metrics", deadline_ms=DEADLINE_MS)).body
    except WireError:
        return b""
    finally:
        await client.close()
