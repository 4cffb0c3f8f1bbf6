"""penstock status: is the market up, and what is in it. `--json` is stable for scripts."""

import asyncio
from typing import Any

import click

from penstock.cli.api import Refused, call
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import console, json_option, plain, print_json, print_table
from penstock.kit.errors import WireError


@click.command()
@home_option
@json_option
def status(home: Home, *, as_json: bool) -> None:
    """Show whether the market in --home runs, its stations, epoch and log.

    Exit code 0 when everything is ready, 3 when it is not.
    """
    found = asyncio.run(market_status(home))
    if as_json:
        print_json(found)
    else:
        _print(home, found)
    raise SystemExit(0 if found["ready"] else 3)


async def market_status(home: Home) -> dict[str, Any]:
    """The stable object of `status --json`; the keys are always there."""
    state = home.read_state()
    running = home.supervisor_pid() is not None
    stations = state.get("stations", []) if running else []
    found: dict[str, Any] = {
        "ready": bool(running and state.get("ready")),
        "gateway_url": state.get("gateway_url", "") if running else "",
        "api_key": _api_key(home) if running else "",
        "chutes": [],
        "stations": stations,
        "epoch": -1,
        "log_size": 0,
        "home": str(home.path),
        "urls": state.get("urls", {}) if running else {},
        "problem": state.get("problem", "") if running else "",
    }
    if not running:
        return found
    urls = found["urls"]
    try:
        listed = await call("GET", f"{urls['market']}/v1/chutes")
        found["chutes"] = [
            {"name": one["name"], "chute": one["chute"], "serving": one["serving"]}
            for one in listed["chutes"]
        ]
        epochs = await call("GET", f"{urls['ledger']}/v1/epochs")
        found["epoch"], found["log_size"] = epochs["epoch"], epochs["log_size"]
        found["settled"] = epochs["settled"]
        health = await call("GET", f"{urls['ledger']}/health")
        found["problem"] = " ".join([found["problem"], *health["problems"]]).strip()
    except (Refused, WireError, KeyError):
        found["ready"] = False
    return found


def _api_key(home: Home) -> str:
    try:
        return home.api_key_file.read_text().strip()
    except OSError:
        return ""


def _print(home: Home, found: dict[str, Any]) -> None:
    out = console()
    if not found["stations"]:
        out.print(f"No market runs in {home.path}. Start it: penstock up{home.flag}", markup=False)
        return
    word = "[green]ready[/green]" if found["ready"] else "[yellow]not ready[/yellow]"
    out.print(f"Market {word} at {found['gateway_url']}  (home {home.path})")
    if found["problem"]:
        out.print(plain(found["problem"]), style="red", markup=False)
    print_table(
        ("station", "state", "pid", "restarts"),
        [
            (one["name"], one["state"], one["pid"] or "", one["restarts"])
            for one in found["stations"]
        ],
        empty="no stations",
    )
    print_table(
        ("chute", "serving", "digest"),
        [(one["name"], one["serving"], one["chute"][:19]) for one in found["chutes"]],
        empty="no chutes yet",
    )
    out.print(f"epoch {found['epoch']}, log of {found['log_size']} entries")
