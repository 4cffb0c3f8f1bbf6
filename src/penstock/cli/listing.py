"""penstock chutes, miners, scores, balance: what the market says of itself."""

from typing import Any

import click

from penstock.cli.api import api_key, fetch, station_url
from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import console, json_option, print_json, print_table, short, usd
from penstock.spec.units import PPM


@click.command()
@home_option
@json_option
def chutes(home: Home, *, as_json: bool) -> None:
    """List the chutes of the catalogue: what serves, what is wanted, what it costs at most."""
    listed = fetch("GET", f"{station_url(home, 'market')}/v1/chutes")
    if as_json:
        print_json(listed)
        return
    rows = []
    for one in listed["chutes"]:
        manifest, target = one["manifest"]["body"], one["target"] or {}
        price = manifest["price_max"]
        rows.append(
            (
                one["name"],
                manifest["modality"],
                manifest["engine"],
                one["serving"],
                target.get("instances", manifest["instances_min"]),
                usd(price["prompt"]),
                usd(price["completion"]),
                one["chute"][:19],
            )
        )
    columns = ("chute", "modality", "engine", "serving", "wanted", "in $/M", "out $/M", "digest")
    print_table(columns, rows, empty="No chutes yet. Add one: penstock deploy chute.toml")


@click.command()
@home_option
@json_option
def miners(home: Home, *, as_json: bool) -> None:
    """List the miners and their instances."""
    listed = fetch("GET", f"{station_url(home, 'market')}/v1/miners")
    if as_json:
        print_json(listed)
        return
    rows = [
        (
            short(one["miner"]),
            each["instance"],
            each["name"],
            each["room"],
            each["tier"],
            each["hardware"],
        )
        for one in listed["miners"]
        for each in one["instances"]
    ]
    columns = ("miner", "instance", "chute", "room", "tier", "hardware")
    print_table(columns, rows, empty="No miner offers anything right now: penstock logs miner-1")


@click.command()
@click.option("--epoch", type=int, help="The epoch (default: the newest settled one).")
@home_option
@json_option
def scores(home: Home, *, epoch: int | None, as_json: bool) -> None:
    """Show the scores and payouts of a settled epoch, as published."""
    url = station_url(home, "ledger")
    if epoch is None:
        epoch = int(fetch("GET", f"{url}/v1/epochs")["settled"])
    if epoch < 0:
        raise Stop("no epoch is settled yet", why="the first settles about 90 s after the start")
    found = published_scores(home, epoch)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            short(one["miner"]),
            *(_percent(one[f"{part}_ppm"]) for part in ("total", *PARTS)),
            usd(found["payouts"].get(one["miner"], 0)),
        )
        for one in found["scores"]
    ]
    console().print(f"Epoch {epoch}, policy {found['policy']}, {found['reports']} report(s)")
    print_table(("miner", "score", *PARTS, "payout"), rows, empty="Nobody scored in this window.")
    console().print(f"pool {usd(found['pool_nano'])}, kept in reserve {usd(found['reserve_nano'])}")


PARTS = ("capacity", "speed", "availability", "bounties")


def published_scores(home: Home, epoch: int) -> dict[str, Any]:
    """Reports and settlement of an epoch from its published outcome. Raises Stop."""
    import base64

    from penstock.cli.home import read_json
    from penstock.spec.entries import EntryKind, parse_leaf
    from penstock.spec.errors import SpecError

    outcome = read_json(home.public / f"epochs/{epoch:08d}/outcome.json")
    if not outcome:
        raise Stop(f"epoch {epoch} is not settled", then="penstock scores (for the newest one)")
    try:
        entries = [parse_leaf(base64.b64decode(item["leaf"])) for item in outcome["entries"]]
        reports = [one.body["body"] for one in entries if one.kind is EntryKind.REPORT]
        settled = next(one.body["body"] for one in entries if one.kind is EntryKind.SETTLEMENT)
    except (SpecError, LookupError, TypeError, ValueError, StopIteration) as error:
        raise Stop(
            f"the outcome of epoch {epoch} cannot be read", then=f"penstock verify --epoch {epoch}"
        ) from error
    return {
        "epoch": epoch,
        "policy": reports[0]["policy"] if reports else "",
        "reports": len(reports),
        "scores": reports[0]["scores"] if reports else [],
        "weights": settled["weights"],
        "payouts": {one["identity"]: one["amount_nano"] for one in settled["payouts"]},
        "pool_nano": settled["pool_nano"],
        "reserve_nano": settled["reserve_nano"],
    }


@click.command()
@click.option("--key", "key_file", type=click.Path(), help="A file that holds another API key.")
@home_option
@json_option
def balance(home: Home, *, key_file: str | None, as_json: bool) -> None:
    """Show what your API key's account has left, and what gateways hold of it.

    A gateway holds an amount ahead (a lease) so that it need not ask for every request; what it
    does not spend comes back.
    """
    from pathlib import Path

    try:
        key = Path(key_file).read_text().strip() if key_file else api_key(home)
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"cannot read the API key in {key_file}", why=str(error)) from error
    found = fetch("GET", f"{station_url(home, 'ledger')}/v1/balance", bearer=key)
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(f"account    {found['account']}")
    out.print(f"available  {usd(found['available_nano'])}")
    out.print(f"held       {usd(found['held_nano'])}")


def _percent(ppm: int) -> str:
    return f"{ppm * 100 // PPM}.{ppm * 10_000 // PPM % 100:02d} %"
