"""What `penstock miner up` says at its end: what runs, at what price, what it brings, what to do next."""

from typing import Any

from penstock.cli.errors import Stop
from penstock.cli.miner_forecast import outlook, outlook_plain
from penstock.cli.miner_home import MinerHome
from penstock.cli.miner_market import Found, look_at
from penstock.cli.output import console, plain, print_table, short, usd
from penstock.miner.hardware import Hardware
from penstock.miner.policy import PricePolicy, asked_price
from penstock.spec.canon import to_plain
from penstock.spec.units import MILLION

GIB = 1 << 30
MINUTE_MS = 60_000
WHY_CHARS_MAX = 60


async def expected(
    found: Found, hardware: Hardware, frame: dict[str, Any], *, policy: PricePolicy
) -> dict[str, Any] | None:
    """The forecast for what really runs; None when the market cannot be read just now."""
    names = tuple(dict.fromkeys(one["name"] for one in frame.get("instances", [])))
    try:
        market = await look_at(found)
    except Stop:
        return None
    seen = outlook(market, hardware, found.params, names=names, miner=str(frame.get("miner")))
    view = market[0]
    prices = {
        one.manifest.name: asked_price(
            policy, one.manifest.price_max, target_ppm=view.multiplier(one.chute)
        )
        for one in view.chutes
        if one.manifest.name in names
    }
    return outlook_plain(seen) | {"asks": {name: to_plain(one) for name, one in prices.items()}}


def print_summary(
    home: MinerHome, frame: dict[str, Any], forecast: dict[str, Any] | None, *, detached: bool
) -> None:
    """For a person."""
    out = console()
    instances = frame.get("instances", [])
    serves = any(one["offered"] for one in instances)
    word = "Your miner serves." if serves else "Your miner is up and waits for work."
    out.print(f"\n[bold]{word}[/bold]\n")
    host = frame["host"]
    cards = ", ".join(one["model"] for one in frame["gpus"])
    memory = f"{host['memory_bytes'] / GIB:.1f} GiB"
    lines = {
        "miner": short(frame["miner"]),
        "owner": short(frame["owner"]) if frame["owner"] != frame["miner"] else "",
        "market": frame["market_url"],
        "hardware": f"{cards or host['model'] or 'processor'}, {host['cores']} cores, {memory}",
        "reached": reached(frame["endpoint"]),
        "home": str(home.path),
    }
    for name, value in lines.items():
        if value:
            out.print(f"  {name:<9} {plain(value)}", markup=False)
    out.print("")
    prices = {} if forecast is None else forecast["asks"]
    rows = [
        (
            one["name"],
            one["state"],
            price_words(prices.get(one["name"], {})),
            plain(one["why"]).replace("\n", " ")[:WHY_CHARS_MAX],
        )
        for one in instances
    ]
    print_table(
        ("chute", "state", "asks", "why"),
        rows,
        empty="No chute yet: it starts one as soon as the market lacks what this machine can run.",
    )
    if forecast is not None and instances:
        out.print(
            f"\nExpected: {usd(forecast['nano_per_day'])} a day if the market stays as it is "
            f"(how: penstock miner test{home.flag})",
            markup=False,
        )
    for problem in frame["problems"]:
        out.print(f"! {plain(problem)}", style="yellow", markup=False)
    ending = f"penstock miner drain{home.flag}" if detached else "Ctrl-C (finishes what runs)"
    out.print(
        f"\nNext:\n\n  penstock miner top{home.flag}\n  penstock miner earnings{home.flag}\n"
        f"  {ending}\n",
        markup=False,
    )


def price_words(price: dict[str, int]) -> str:
    """What is asked, in the units that people count in; "-" where it is not known, or nothing."""
    words = []
    if price.get("request"):
        words.append(f"{usd(price['request'])} a request")
    for part, word in (("prompt", "in"), ("completion", "out")):
        if price.get(part):
            words.append(f"{usd(price[part])}/M {word}")
    if price.get("images"):
        words.append(f"{usd(price['images'] // MILLION)} a step of an image")
    if price.get("audio_ms"):
        words.append(f"{usd(price['audio_ms'] * MINUTE_MS // MILLION)} a minute")
    return ", ".join(words) or "-"


def reached(endpoint: str) -> str:
    """How gateways come here, in words."""
    if endpoint.startswith("tunnel:"):
        return "by reverse connections (no open port)"
    return f"at {endpoint}"
