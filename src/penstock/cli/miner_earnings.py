"""penstock miner earnings: what the books say, epoch by epoch, and what is left after costs."""

import asyncio
import csv
import sys
from pathlib import Path
from typing import Any

import click

from penstock.adapters.keyfile import load_or_create_key
from penstock.cli.api import Refused, call, fetch
from penstock.cli.errors import Stop
from penstock.cli.miner_books import Books, EpochBooks, totals
from penstock.cli.miner_home import MinerHome, ask_agent, miner_home_option
from penstock.cli.output import (
    console,
    error_console,
    json_option,
    plain,
    print_json,
    print_table,
    usd,
)
from penstock.cli.world import ENTROPY
from penstock.client.errors import Difference, NotPublished, Unreachable
from penstock.client.sources import HttpSource
from penstock.kit.clock import SystemClock
from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.spec.params import NETWORKS

DAY_MS = 86_400_000
DAYS_MAX = 366
KEPT = "earnings"


@click.command()
@click.option(
    "--days", default=7, show_default=True, type=click.IntRange(1, DAYS_MAX), help="How far back."
)
@click.option(
    "--csv", "as_csv", is_flag=True, help="A line per epoch and chute, for a spreadsheet."
)
@miner_home_option
@json_option
def earnings(home: MinerHome, *, days: int, as_csv: bool, as_json: bool) -> None:
    """Show what this miner earned: charges, fees, payouts by score, costs, net; each chute.

    By the ledger's public log, every epoch proven against its signed checkpoint. Costs are what the
    running miner measured, with what `up` was told of power and rent.
    """
    config = home.config()
    if not config:
        raise Stop(f"no miner was set up in {home.path}", then=f"penstock miner up{home.flag}")
    identity = load_or_create_key(Path(config["key_file"]), ENTROPY).identity
    market_url = str(config["market_url"]).rstrip("/")
    books = asyncio.run(_books(home, market_url, identity, days=days, quiet=as_json or as_csv))
    names = _names(market_url)
    if as_csv:
        write_csv(books, names)
        return
    found = totals(books) | {"miner": identity, "days": days}
    for one in found["chutes"]:
        one["name"] = names.get(one["chute"], one["chute"][:19])
    found |= asyncio.run(_costs(home, hours=days * 24))
    costs = [found[name] for name in ("power_nano", "rent_nano")]
    found["net_nano"] = found["own_nano"] + found["payout_nano"] - sum(one or 0 for one in costs)
    if as_json:
        print_json(found)
    else:
        print_books(found)


def write_csv(books: list[EpochBooks], names: dict[str, str]) -> None:
    """Oldest first; the payout of an epoch stands in a line of its own, without a chute."""
    out = csv.writer(sys.stdout)
    out.writerow(
        ("epoch", "closed_ms", "chute", "name", "orders", "gross_nano", "own_nano", "payout_nano")
    )
    for epoch in reversed(books):
        for one in epoch.chutes:
            name = names.get(one.chute, "")
            row = (one.chute, name, one.orders, one.gross_nano, one.own_nano, 0)
            out.writerow((epoch.epoch, epoch.closed_ms, *row))
        if epoch.payout_nano:
            out.writerow((epoch.epoch, epoch.closed_ms, "", "", 0, 0, 0, epoch.payout_nano))


def print_books(found: dict[str, Any]) -> None:
    """For a person."""
    out = console()
    out.print(f"{found['miner']}, {found['days']} days, {found['epochs']} epochs\n", markup=False)
    print_table(
        ("chute", "orders", "charged", "yours"),
        [
            (plain(one["name"]), one["orders"], usd(one["gross_nano"]), usd(one["own_nano"]))
            for one in found["chutes"]
        ],
        empty="No paid order is in the log yet: it takes until the end of an epoch.",
    )
    out.print("")
    lines = [
        ("charged", usd(found["gross_nano"]), "what your answers cost their payers"),
        ("fees", f"-{usd(found['fees_nano'])}", "the operator's part, and the pool's"),
        ("payouts", f"+{usd(found['payout_nano'])}", "your score's part of the pools"),
    ]
    for name in ("power", "rent"):
        nano = found[f"{name}_nano"]
        about = "by the running miner" if nano is not None else "not known: the miner does not run"
        lines.append((name, "-" if nano is None else f"-{usd(nano)}", about))
    net = found["net_nano"]
    lines.append(("net", usd(net) if net >= 0 else f"-{usd(-net)}", ""))
    for name, amount, about in lines:
        out.print(f"{name:<9}{amount:>16}  {about}".rstrip(), markup=False)
    if found["unsettled_epochs"]:
        out.print(f"\n{found['unsettled_epochs']} closed epoch(s) are not settled yet.")
    if found["waiting_claims"]:
        out.print(f"{found['waiting_claims']} receipt(s) wait for the ledger's word.")


async def _books(
    home: MinerHome, market_url: str, identity: str, *, days: int, quiet: bool
) -> list[EpochBooks]:
    """Raises Stop."""
    client = HttpClient(Sockets())
    try:
        fees = NETWORKS[str(home.config()["network"])].fees
        url = str((await call("GET", f"{market_url}/v1/info"))["ledger_url"])
        newest = int((await call("GET", f"{url.rstrip('/')}/v1/epochs"))["epoch"]) - 1
        books = Books(HttpSource(client, url), identity, fees, home.path / KEPT)
        since_ms = SystemClock().now_ms() - days * DAY_MS
        with error_console().status("reading the public log") as status:
            if quiet:
                status.stop()
            return await books.read(
                newest,
                since_ms=since_ms,
                told=lambda _, epoch: status.update(f"reading epoch {epoch}"),
            )
    except NotPublished:
        return []
    except Difference as error:
        raise Stop(
            "the ledger's log does not hold", why=str(error), then="penstock verify --help"
        ) from error
    except (Refused, WireError, Unreachable, KeyError, TypeError, ValueError) as error:
        raise Stop(
            "the books cannot be read", why=str(error), then="try again; is the market up?"
        ) from error
    finally:
        await client.close()


async def _costs(home: MinerHome, *, hours: int) -> dict[str, Any]:
    """What only the running miner knows; nulls where it does not run."""
    hours = min(hours, 31 * 24)
    try:
        said = await ask_agent(home, "GET", f"/v1/earnings?hours={hours}")
    except (Refused, WireError):
        return {"power_nano": None, "rent_nano": None, "waiting_claims": None}
    found = said["sum"]
    return {
        "power_nano": found["power_nano"],
        "rent_nano": found["rent_nano"],
        "waiting_claims": said["waiting_claims"],
    }


def _names(market_url: str) -> dict[str, str]:
    """Chute -> its name in the catalogue; {} when the market is away."""
    try:
        listed = fetch("GET", f"{market_url}/v1/chutes")["chutes"]
        return {str(one["chute"]): str(one["name"]) for one in listed}
    except (Stop, KeyError, TypeError):
        return {}
