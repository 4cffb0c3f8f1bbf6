"""penstock miner maintenance: a planned absence, after which the miner returns by itself."""

import re
from datetime import datetime
from typing import Any

import click

from penstock.cli.errors import Stop
from penstock.cli.miner_home import MinerHome, asked_agent, miner_home_option
from penstock.cli.output import console, json_option, print_json

SPAN = re.compile(r"(\d{1,6})(s|m|h|d)")
SPAN_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@click.command()
@click.option("--at", "at", help="When: now, +30m, or 2026-05-01T04:00 (this machine's time).")
@click.option("--for", "length", help="How long: 90s, 30m, 2h, 1d.")
@click.option("--cancel", is_flag=True, help="Forget what was planned, or return at once.")
@miner_home_option
@json_option
def maintenance(
    home: MinerHome, *, at: str | None, length: str | None, cancel: bool, as_json: bool
) -> None:
    """Plan an absence: drain at T, return after D, both by itself; survives restarts.

    Offers made before end where it begins. Without options: show what is planned. Who is away so is not
    due meanwhile, so availability does not drop; standby pay of the epochs in which it is away at their
    end is lost.
    """
    if cancel:
        said = asked_agent(home, "DELETE", "/v1/maintenance")
    elif at or length:
        if not length:
            raise Stop("how long is missing", then="penstock miner maintenance --at +1h --for 2h")
        said = asked_agent(home, "POST", "/v1/maintenance", body=plan_body(at or "now", length))
    else:
        said = asked_agent(home, "GET", "/v1/maintenance")
    if as_json:
        print_json(said)
    else:
        console().print(window_words(said["maintenance"]), markup=False)


def plan_body(at: str, length: str) -> dict[str, int]:
    """What the agent is asked. Raises Stop."""
    body = {"length_ms": span_ms(length)}
    if at == "now":
        return body
    if at.startswith("+"):
        return body | {"after_ms": span_ms(at[1:])}
    try:
        return body | {"at_ms": int(datetime.fromisoformat(at).timestamp() * 1_000)}
    except ValueError as error:
        raise Stop(
            f"--at {at!r} is no time", then="--at now, --at +30m, or --at 2026-05-01T04:00"
        ) from error


def span_ms(text: str) -> int:
    """`90s`, `30m`, `2h`, `1d` in milliseconds. Raises Stop."""
    found = SPAN.fullmatch(text.strip())
    if found is None:
        raise Stop(f"{text!r} is no span of time", then="write 90s, 30m, 2h or 1d")
    return int(found[1]) * SPAN_MS[found[2]]


def window_words(window: dict[str, Any] | None) -> str:
    """What is planned, for a person."""
    if window is None:
        return "No maintenance is planned."
    begins, ends = moment(window["from_ms"]), moment(window["until_ms"])
    if window["is_on"]:
        return f"In maintenance since {begins}; serves again at {ends}."
    return f"Maintenance from {begins} until {ends}; it drains then, and returns by itself."


def moment(at_ms: int) -> str:
    """In this machine's time, with its zone."""
    return datetime.fromtimestamp(at_ms / 1_000).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
