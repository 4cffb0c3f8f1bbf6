"""penstock miner test: is this machine fit to serve, and what would it earn."""

import asyncio
from pathlib import Path
from typing import Any

import click

from penstock.adapters.keyfile import load_or_create_key
from penstock.cli.errors import Stop
from penstock.cli.miner_bundle import write_bundle
from penstock.cli.miner_checks import Examined, Ground, examine
from penstock.cli.miner_forecast import Outlook, outlook, outlook_lines, outlook_plain
from penstock.cli.miner_home import MinerHome, miner_home_option
from penstock.cli.miner_market import DEFAULT_GATEWAY, check_gateway, look_at
from penstock.cli.output import console, error_console, json_option, plain, print_json
from penstock.cli.world import ENTROPY
from penstock.miner.preflight import Finding, Mark, is_fit

UNFIT = 4
"""The exit code when a check failed."""
SIGNS = {Mark.OK: "✓", Mark.WARN: "!", Mark.FAIL: "✗", Mark.SKIPPED: "-"}
STYLES = {Mark.OK: "green", Mark.WARN: "yellow", Mark.FAIL: "red", Mark.SKIPPED: "dim"}
CHECK_COLUMNS = 10
NOBODY = "you"


@click.command()
@click.option("--gateway", help="The gateway's URL (default: what `up` was told).")
@click.option("--chutes", default="auto", show_default=True, help="auto, or NAME,NAME: what for.")
@click.option("--endpoint", default="", help="The public URL of this miner, if it has one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it would listen.")
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="0: any.")
@click.option(
    "--bundle", type=click.Path(dir_okay=False), help="Write a support bundle (tar.gz), redacted."
)
@miner_home_option
@json_option
def test(home: MinerHome, *, as_json: bool, bundle: str | None, **wished: Any) -> None:
    """Test this machine: drivers, disk, memory, clock, line, ports, engine, sandbox, earnings.

    Exit code 0 when it is fit to serve (warnings are fine), 4 when a check failed. Nothing is sent but
    questions to the gateway; --bundle writes a file that holds no keys, for you to pass on.
    """
    home.make()
    gateway = check_gateway(wished["gateway"] or home.wish().get("gateway") or DEFAULT_GATEWAY)
    ground = Ground(home.path, gateway, wished["host"], wished["port"], wished["endpoint"])
    names = chute_names(wished["chutes"])
    examined, seen = asyncio.run(_examine(ground, names, miner=who(home), quiet=as_json))
    if bundle is not None:
        write_bundle(Path(bundle), home, examined)
    is_good = is_fit(examined.findings)
    if as_json:
        print_json(
            {
                "fit": is_good,
                "findings": [finding_plain(one) for one in examined.findings],
                "hardware": {"class": examined.hardware.kind, "model": examined.hardware.model},
                "forecast": None if seen is None else outlook_plain(seen),
                "bundle": bundle,
            }
        )
    else:
        print_findings(examined.findings)
        _print_outlook(seen)
        if bundle is not None:
            console().print(f"\nThe support bundle is in {bundle}; it holds no keys.", markup=False)
        told = f"penstock miner up{home.flag}" if is_good else "mend what is marked ✗, test again"
        console().print(f"\nNext: {told}", markup=False)
    raise SystemExit(0 if is_good else UNFIT)


def who(home: MinerHome) -> str:
    """The identity of this home's miner; a stand-in where there is none yet: no key is made for a test."""
    path = Path(home.config().get("key_file", home.key_file))
    return load_or_create_key(path, ENTROPY).identity if path.exists() else NOBODY


def chute_names(text: str) -> tuple[str, ...]:
    """`auto` is (); otherwise the names. Raises Stop."""
    if text == "auto":
        return ()
    names = tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
    if not names:
        raise Stop(f"--chutes {text!r} names nothing", then="--chutes auto, or --chutes NAME,NAME")
    return names


def finding_plain(one: Finding) -> dict[str, str]:
    """The same for --json and the bundle."""
    return {
        "check": one.check,
        "mark": one.mark.value,
        "what": one.what,
        "code": one.code,
        "remedy": one.remedy,
    }


def print_findings(findings: tuple[Finding, ...]) -> None:
    """A line for each check with its mark; below it what to do, where there is something."""
    out = console()
    for one in findings:
        sign = f"[{STYLES[one.mark]}]{SIGNS[one.mark]}[/]"
        out.print(f"{sign} {one.check:<{CHECK_COLUMNS}} ", end="")
        out.print(plain(one.what), markup=False)
        if one.remedy:
            out.print(f"  {'':<{CHECK_COLUMNS}} → {plain(one.remedy)}", markup=False)


async def _examine(
    ground: Ground, names: tuple[str, ...], *, miner: str, quiet: bool
) -> tuple[Examined, Outlook | None]:
    with error_console().status("testing") as status:
        if quiet:
            status.stop()
        examined = await examine(ground, status.update)
        if examined.found is None:
            return examined, None
        try:
            seen = await look_at(examined.found)
        except Stop:
            return examined, None
    params = examined.found.params
    return examined, outlook(seen, examined.hardware, params, names=names, miner=miner)


def _print_outlook(seen: Outlook | None) -> None:
    out = console()
    out.print("")
    if seen is None:
        out.print("No forecast: the market could not be read.")
        return
    for line in outlook_lines(seen):
        out.print(plain(line), markup=False)
