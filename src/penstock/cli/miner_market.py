"""The market behind a gateway's URL, as a miner that is about to join sees it."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from penstock.cli.api import Refused, call
from penstock.cli.errors import Stop
from penstock.kit.clock import SystemClock
from penstock.kit.errors import WireError
from penstock.kit.keys import verify
from penstock.miner.charter import Trust
from penstock.miner.errors import PeerRefused
from penstock.miner.forecast import Picture, Serving, Wanted
from penstock.miner.payouts import settlement_in
from penstock.miner.view import MarketView, read_view
from penstock.spec.messages import Charter
from penstock.spec.params import NETWORKS, Params, params_digest

DEFAULT_GATEWAY = "http://127.0.0.1:8400"
LOOPBACK = frozenset({"localhost", "::1"})
SERVING_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Found:
    """A market whose charter holds. `skew_ms`: this machine's clock minus the gateway's."""

    gateway_url: str
    market_url: str
    operator: str
    params: Params
    skew_ms: int
    has_tunnels: bool
    ledger_url: str
    charter: Charter

    @property
    def is_local(self) -> bool:
        """Is the gateway on this machine?"""
        return is_loopback(self.gateway_url)


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in LOOPBACK or host.startswith("127.")


def check_gateway(url: str) -> str:
    """The URL without a final slash or the clients' `/v1`. Raises Stop."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise Stop(
            f"{url!r} is no gateway's URL",
            why="it starts with http:// or https://, and holds no password",
            then="penstock miner up --gateway https://gateway.example",
        )
    return url.rstrip("/").removesuffix("/v1")


async def find_market(gateway_url: str) -> Found:
    """Ask the gateway which market it serves, and that market for its charter. Raises Stop."""
    clock = SystemClock()
    started_us = clock.mono_us()
    said = await _ask(gateway_url, "/market", "the gateway")
    round_trip_ms = (clock.mono_us() - started_us) // 1_000
    market_url, network = check_market(gateway_url, said)
    operator = str(said.get("operator", ""))
    now_ms = said.get("now_ms")
    skew_ms = 0
    if type(now_ms) is int:
        skew_ms = clock.now_ms() - round_trip_ms // 2 - now_ms
    info = await _ask(market_url, "/v1/info", "the market")
    trust = Trust(verify=verify, operator=operator)
    try:
        trust.learn(info, now_ms=clock.now_ms())
    except PeerRefused as error:
        raise Stop("the market's charter does not hold", why=error.message) from error
    charter, params = trust.charter, NETWORKS[network]
    assert charter is not None, "it was just learned"
    if charter.params_digest != params_digest(params):
        raise Stop(
            "the market runs by other numbers than this release has",
            then="install the release that the operator runs",
        )
    return Found(
        gateway_url=gateway_url,
        market_url=market_url,
        operator=charter.operator,
        params=params,
        skew_ms=skew_ms,
        has_tunnels=await _has_tunnels(gateway_url),
        ledger_url=str(info.get("ledger_url", "")),
        charter=charter,
    )


def check_market(gateway_url: str, said: dict[str, Any]) -> tuple[str, str]:
    """(the market's URL, its network) as a gateway tells them, if they make sense. Raises Stop."""
    market_url, network = str(said.get("market_url", "")), str(said.get("network", ""))
    if network not in NETWORKS or not market_url.startswith(("http://", "https://")):
        raise Stop(
            f"{gateway_url} names no market that this release knows",
            why=f"it says {market_url!r} on network {network!r}",
            then="install the release that the operator runs",
        )
    if is_loopback(market_url) and not is_loopback(gateway_url):
        raise Stop(
            f"{gateway_url} has no market that can be reached from here",
            why=f"it names {market_url}, which is its own machine",
            then="ask the operator to set `market_public_url` of the gateway",
        )
    return market_url, network


async def look_at(found: Found) -> tuple[MarketView, Picture]:
    """What is wanted and who serves. Raises Stop."""
    targets = await _ask(found.market_url, "/v1/targets", "the market")
    miners = await _ask(found.market_url, "/v1/miners", "the market")
    view = read_view(targets, miners, known={}, verify=verify)
    wanted = tuple(
        Wanted(
            chute=one.chute,
            instances=one.wanted_instances,
            busy_us=view.demand[one.chute].busy_us,
            bounty_points=view.demand[one.chute].bounty_points,
        )
        for one in view.chutes
    )
    return view, Picture(_serving(miners), wanted, await last_pool_nano(found))


async def last_pool_nano(found: Found) -> int:
    """What the last settled epoch paid out by score; 0 when none is settled, or it cannot be read."""
    url = found.ledger_url.rstrip("/")
    try:
        settled = (await call("GET", f"{url}/v1/epochs"))["settled"]
        if type(settled) is not int or settled < 0:
            return 0
        outcome = await call("GET", f"{url}/files/epochs/{settled:08d}/outcome.json")
    except (Refused, WireError, KeyError, TypeError, ValueError):
        return 0
    settlement = settlement_in(outcome) if isinstance(outcome, dict) else None
    return 0 if settlement is None else settlement.pool_nano


def _serving(miners: dict[str, Any]) -> tuple[Serving, ...]:
    """Live instances; each miner counts as one device, since who serves from which is not told."""
    found: list[Serving] = []
    listed = miners.get("miners")
    for one in listed if isinstance(listed, list) else ():
        instances = one.get("instances") if isinstance(one, dict) else None
        for each in instances if isinstance(instances, list) else ():
            if len(found) < SERVING_MAX and isinstance(each, dict):
                found.append(
                    Serving(
                        miner=str(one.get("miner")),
                        instance=str(each.get("instance")),
                        chute=str(each.get("chute")),
                        hardware=str(each.get("hardware")),
                        device=str(one.get("miner")),
                    )
                )
    return tuple(found)


async def _has_tunnels(gateway_url: str) -> bool:
    try:
        said = await call("GET", f"{gateway_url}/tunnels")
    except (Refused, WireError):
        return False
    return isinstance(said, dict) and bool(said.get("addresses"))


async def _ask(url: str, path: str, who: str) -> dict[str, Any]:
    """Raises Stop."""
    try:
        said = await call("GET", url.rstrip("/") + path)
    except Refused as error:
        raise Stop(
            f"{who} at {url} does not say {path} ({error.status})",
            why=error.message,
            then="check --gateway URL; it must run this release or a later one",
        ) from error
    except (WireError, ValueError) as error:
        raise Stop(
            f"{who} at {url} cannot be reached",
            why=str(error),
            then="check --gateway URL, and that the operator's gateway is up",
        ) from error
    return said if isinstance(said, dict) else {}
