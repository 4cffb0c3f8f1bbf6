"""penstock miner up: from a bare machine to serving, one command and no question."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import msgspec

from penstock.adapters.errors import FileExposed
from penstock.adapters.placement_plugin import PlacementUnusable, load_placement
from penstock.cli.errors import Stop
from penstock.cli.home import write_json
from penstock.cli.miner_agent import CHECK_EVERY_S, IDLE_S, SERVE_DEADLINE_S, Agent
from penstock.cli.miner_checks import Examined, Ground, examine
from penstock.cli.miner_config import MinerWish, agent_config, share_ppm
from penstock.cli.miner_home import MinerHome, asked_agent, is_running, miner_home_option
from penstock.cli.miner_identity import open_identity
from penstock.cli.miner_market import DEFAULT_GATEWAY, Found, check_gateway
from penstock.cli.miner_progress import Told, progress
from penstock.cli.miner_summary import expected, print_summary
from penstock.cli.miner_test import UNFIT, chute_names, finding_plain, print_findings
from penstock.cli.output import console, json_option, print_json
from penstock.cli.world import pause, stopwatch
from penstock.kit.clock import SystemClock
from penstock.miner.config import RuntimeKind, parse_config
from penstock.miner.errors import ConfigInvalid
from penstock.miner.policy import PricePolicy
from penstock.miner.preflight import is_fit

UP_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--gateway", help=f"The gateway's URL.  [default: {DEFAULT_GATEWAY}]"),
    click.option(
        "--price", help="auto: the market's; N: that many percent of it.  [default: auto]"
    ),
    click.option("--chutes", help="auto: what the market lacks; or NAME,NAME.  [default: auto]"),
    click.option(
        "--identity", help="A key file, or bittensor:WALLET/HOTKEY.  [default: a key of its own]"
    ),
    click.option(
        "--runtime",
        type=click.Choice([kind.value for kind in RuntimeKind]),
        help="Where engines run.  [default: process]",
    ),
    click.option("--image", help="Of engines in containers: docker, podman, kubernetes."),
    click.option("--name", help="Its name within your identity.  [default: miner]"),
    click.option("--endpoint", help="Your public URL, if gateways can dial you (faster)."),
    click.option("--host", help="Where to listen.  [default: 127.0.0.1]"),
    click.option("--port", type=click.IntRange(0, 65_535), help="0: any.  [default: 0]"),
    click.option("--placement", help="Your own choice of chutes: FILE.py or an entry point."),
    click.option("--power-usd-per-kwh", type=click.FloatRange(0, 100), help="For net earnings."),
    click.option("--power-watts", type=click.IntRange(0, 1_000_000), help="Where no driver says."),
    click.option("--rent-usd-per-hour", type=click.FloatRange(0, 10_000), help="For net earnings."),
)


def wish_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What an `up` may be told; what is left out stays as the last `up` had it."""
    for option in reversed(UP_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Ready:
    """All is known that the agent needs."""

    wish: MinerWish
    found: Found
    examined: Examined


@click.command()
@wish_options
@click.option("--detach", is_flag=True, help="Return when it serves; stop it by: drain.")
@click.option("--no-test", is_flag=True, help="Start although a check of the self-test failed.")
@miner_home_option
@json_option
def up(home: MinerHome, *, detach: bool, no_test: bool, as_json: bool, **told: Any) -> None:
    """Serve with this machine: key, market, hardware, self-test, offers, first chutes.

    Asks nothing. Ctrl-C finishes running answers and stops. Options are remembered: the next `up` in
    this home needs none. Exit code 4 when the self-test failed.
    """
    home.make()
    if asyncio.run(is_running(home)):
        _say_running(home, as_json=as_json)
        return
    wish = make_wish(home, told)
    signal.signal(signal.SIGTERM, _as_interrupt)
    agents: list[Agent] = []
    try:
        with progress(quiet=as_json) as tell:
            ready = prepare(home, wish, tell, force=no_test, as_json=as_json)
            agents.append(start_agent(home, ready, tell, tethered=not detach))
            frame = wait_serving(agents[0], tell)
        say_serving(home, ready, frame, detached=detach, as_json=as_json)
        if detach:
            return
        agents[0].process.wait()
    except KeyboardInterrupt:
        if not agents:
            raise
        drain(agents[0], quiet=as_json)
    if agents[0].process.returncode not in {0, -signal.SIGTERM}:
        agents[0].check()
    if not as_json:
        console().print(f"Stopped. Serve again: penstock miner up{home.flag}", markup=False)


def say_serving(
    home: MinerHome, ready: Ready, frame: dict[str, Any], *, detached: bool, as_json: bool
) -> None:
    """What runs, and what it should bring."""
    policy = PricePolicy(*share_ppm(ready.wish.price))
    forecast = asyncio.run(expected(ready.found, ready.examined.hardware, frame, policy=policy))
    if as_json:
        print_json({"home": str(home.path), "frame": frame, "forecast": forecast})
    else:
        print_summary(home, frame, forecast, detached=detached)


def make_wish(home: MinerHome, told: dict[str, Any]) -> MinerWish:
    """What was said now over what was said before. Raises Stop."""
    chutes = told.pop("chutes", None)
    said = {name: value for name, value in told.items() if value is not None}
    if chutes is not None:
        said["chutes"] = chute_names(chutes)
    before = {"gateway": DEFAULT_GATEWAY} | home.wish()
    try:
        wish = msgspec.convert(before | said, MinerWish, strict=False)
    except msgspec.ValidationError as error:
        raise Stop(
            f"{home.wish_file} cannot be used", why=str(error), then=f"rm {home.wish_file}"
        ) from error
    share_ppm(wish.price)
    placement = wish.placement
    if placement.endswith(".py"):
        placement = str(Path(placement).expanduser().resolve())
    if placement:
        _check_placement(placement)
    return replace(wish, gateway=check_gateway(wish.gateway), placement=placement)


def prepare(home: MinerHome, wish: MinerWish, tell: Told, *, force: bool, as_json: bool) -> Ready:
    """Everything before the agent's process: key, self-test, configuration. Raises Stop."""
    tell(0, "making or loading the key")
    identity = open_identity(home, wish.identity, now_ms=SystemClock().now_ms())
    tell(1, "testing this machine")
    ground = Ground(home.path, wish.gateway, wish.host, wish.port, wish.endpoint)
    examined = asyncio.run(examine(ground, lambda step: tell(1, step)))
    if examined.found is None or not (force or is_fit(examined.findings)):
        refuse_unfit(examined, as_json=as_json)
        raise SystemExit(UNFIT)
    tell(2, "writing the configuration")
    config = agent_config(home, wish, examined.found, identity=identity, hardware=examined.hardware)
    try:
        parse_config(msgspec.json.encode(config), place=str(home.config_file))
    except ConfigInvalid as error:
        raise Stop("these options do not go together", why=error.reason) from error
    write_json(home.config_file, config, mode=0o600)
    write_json(home.wish_file, wish.plain(), mode=0o600)
    return Ready(wish, examined.found, examined)


def refuse_unfit(examined: Examined, *, as_json: bool) -> None:
    """Say what is wrong and what to do."""
    if as_json:
        findings = [finding_plain(one) for one in examined.findings]
        print_json({"fit": False, "findings": findings})
        return
    print_findings(examined.findings)
    console().print("\nThis machine is not fit to serve yet: mend what is marked ✗.")


def start_agent(home: MinerHome, ready: Ready, tell: Told, *, tethered: bool) -> Agent:
    """The agent's process, once it answers. Raises Stop."""
    tell(3, "starting the agent")
    agent = Agent.start(home, tethered=tethered)
    try:
        agent.wait_listening()
    except KeyboardInterrupt:
        drain(agent, quiet=True)
        raise
    tell(4, f"joining the market ({ready.found.params.network})")
    return agent


def wait_serving(agent: Agent, tell: Told) -> dict[str, Any]:
    """Until an instance is offered, or nothing is wanted of this machine; the last frame."""
    started = stopwatch()
    frame: dict[str, Any] = {}
    while stopwatch() - started < SERVE_DEADLINE_S:
        agent.check()
        frame = agent.frame() or frame
        instances = frame.get("instances", [])
        states = {one["state"] for one in instances}
        pending = [one for one in instances if one["state"] not in {"serving", "failed"}]
        if any(one["offered"] for one in instances) and not pending:
            break
        if instances and states == {"failed"} and stopwatch() - started > IDLE_S:
            break
        if not instances and stopwatch() - started > IDLE_S:
            break
        up_now = len(instances) - len(pending)
        words = f"{up_now} of {len(instances)} chutes up"
        if pending:
            words += f", {pending[0]['state']} {pending[0]['name']}"
        tell(5 if instances else 4, words if instances else "choosing chutes")
        pause(CHECK_EVERY_S)
    return frame


def drain(agent: Agent, *, quiet: bool) -> None:
    """Ask it to end and wait. From here on an impatient finger changes nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not quiet:
        console().print("Draining: running answers end first.")
    agent.end()


def _as_interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _say_running(home: MinerHome, *, as_json: bool) -> None:
    frame = asked_agent(home, "GET", "/v1/frame")
    if as_json:
        print_json({"home": str(home.path), "frame": frame, "forecast": None})
        return
    console().print(
        f"A miner already runs in {home.path} (process {frame['pid']}); nothing was changed.\n"
        f"  Next: penstock miner top{home.flag}, or penstock miner drain{home.flag}",
        markup=False,
    )


def _check_placement(name: str) -> None:
    try:
        load_placement(name)
    except (PlacementUnusable, FileExposed) as error:
        raise Stop(str(error), then="mend it, or --placement '' for the default") from error
