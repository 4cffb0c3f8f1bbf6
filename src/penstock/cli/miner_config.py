"""What the user asked `penstock miner up` for, and the agent's configuration that follows from it."""

from dataclasses import asdict, dataclass
from typing import Any

from penstock.cli.errors import Stop
from penstock.cli.miner_home import MinerHome
from penstock.cli.miner_identity import Identity
from penstock.cli.miner_market import Found
from penstock.cli.plan import ENGINES_GET
from penstock.kit.environment import inherited
from penstock.miner.config import DEFAULT_IMAGE, RuntimeKind
from penstock.miner.hardware import Hardware
from penstock.spec.units import NANO_PER_USD, PPM

PERCENT_PPM = 10_000
INSTANCES_MAX = 8
THREADS_MAX = 16
CARDS_SEEN = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True)
class MinerWish:
    """As on the command line; kept in the home, so that the next `up` needs no options."""

    gateway: str
    price: str = "auto"
    chutes: tuple[str, ...] = ()
    """() is auto."""
    identity: str = ""
    runtime: str = RuntimeKind.PROCESS.value
    image: str = ""
    """Of engines in containers."""
    name: str = "miner"
    endpoint: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    placement: str = ""
    power_usd_per_kwh: float = 0.0
    power_watts: int = 0
    rent_usd_per_hour: float = 0.0

    def plain(self) -> dict[str, Any]:
        """For the home's file."""
        return asdict(self) | {"chutes": list(self.chutes)}


def share_ppm(price: str) -> tuple[int, bool]:
    """(part of each chute's price, does the market's multiplier lower it). Raises Stop.

    `auto` is all of it, and follows the market down; N is so many percent, whatever the market says.
    """
    if price == "auto":
        return PPM, True
    percent = int(price) if price.isascii() and price.isdigit() and len(price) <= 3 else -1
    if not 0 <= percent <= 100:
        raise Stop(
            f"--price {price!r} is no price", then="--price auto, or --price N: 0 to 100 percent"
        )
    return percent * PERCENT_PPM, False


def agent_config(
    home: MinerHome, wish: MinerWish, found: Found, *, identity: Identity, hardware: Hardware
) -> dict[str, Any]:
    """The agent's whole configuration, as `miner/config.py` reads it. Raises Stop."""
    part, follows = share_ppm(wish.price)
    return {
        "name": wish.name,
        "network": found.params.network,
        "market_url": found.market_url,
        "operator": found.operator,
        "home": str(home.path),
        "key_file": str(identity.key_file),
        "delegation": identity.delegation,
        "endpoint": wish.endpoint,
        "host": wish.host,
        "port": wish.port,
        "chutes": list(wish.chutes),
        "auto": not wish.chutes,
        "instances_max": max(INSTANCES_MAX, len(wish.chutes)),
        "price_share_ppm": part,
        "follow_target": follows,
        "engine_env": inherited((*ENGINES_GET, *CARDS_SEEN)),
        "engine_threads": min(max(hardware.cores // 2, 1), THREADS_MAX),
        "runtime": wish.runtime,
        "images": {DEFAULT_IMAGE: wish.image} if wish.image else {},
        "placement": wish.placement,
        "log_json": False,
        "tunnel": {
            "mode": tunnel_mode(wish, found),
            "gateways": [] if found.is_local else [found.gateway_url],
        },
        "costs": {
            "power_nano_per_kwh": int(wish.power_usd_per_kwh * NANO_PER_USD),
            "rent_nano_per_hour": int(wish.rent_usd_per_hour * NANO_PER_USD),
            "power_declared_mw": wish.power_watts * 1_000,
        },
    }


def tunnel_mode(wish: MinerWish, found: Found) -> str:
    """Whoever names a public address is dialled there first; who is on the gateway's machine, too."""
    if wish.endpoint:
        return "both" if found.has_tunnels else "off"
    return "off" if found.is_local or not found.has_tunnels else "only"
