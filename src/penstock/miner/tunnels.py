"""Reverse connections of a miner: which gateways there are, where their tunnel ports are, and a keeper
for each of them.

A gateway tells its tunnel ports at `GET /tunnels`; one that does not answer, or has none, is asked
again. What it says is only where to dial: who answers there proves that it is of the charter.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from penstock.kit.errors import WireError
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Entropy
from penstock.kit.tasks import Scope, crash_recorder
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_greeting import Party
from penstock.kit.wire.tunnel_keeper import Keeper, KeeperLimits
from penstock.kit.wire.tunnel_road import Road
from penstock.miner.config import MinerConfig, TunnelMode
from penstock.miner.market import Call
from penstock.spec.tunnels import Reach, endpoint_of

TUNNELS_PATH = "/tunnels"
ADDRESSES_MAX = 256
"""Of one gateway: its processes."""
KEEPERS_MAX = 1_024
FIRST_LOOK_MS = 500
PORT_MAX = 65_535

_decode = msgspec.json.Decoder(dict[str, Any]).decode

Address = tuple[str, int]


@dataclass(slots=True, eq=False)
class Tunnels:
    """Keepers by address. `urls` are the gateways that are to have connections."""

    road: Road
    server: Server
    client: Call
    party: Party
    urls: Callable[[], tuple[str, ...]]
    limits: KeeperLimits
    entropy: Entropy
    metrics: Metrics
    look_ms: int
    deadline_ms: int
    why: str = ""
    """What keeps a gateway from being asked, "" when all were."""
    keepers: dict[Address, Keeper] = field(default_factory=dict)
    _found: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    _tasks: dict[Address, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self, scope: Scope) -> None:
        """Look for gateways for ever."""
        while True:
            await self.look(scope)
            is_first = not any(self._found.values())
            await asyncio.sleep((FIRST_LOOK_MS if is_first else self.look_ms) / 1000)

    async def look(self, scope: Scope) -> None:
        """Ask every gateway where its tunnel ports are, and keep connections to those."""
        urls, whys = self.urls(), []
        for url in urls:
            try:
                self._found[url] = await self._ask(url)
            except (WireError, ValueError) as error:
                whys.append(f"{url} does not tell where its tunnel port is: {error}")
        self.why = whys[0] if whys else "" if urls else "no gateway is known yet"
        for url in self._found.keys() - set(urls):
            del self._found[url]
        wanted = [address for found in self._found.values() for address in found][:KEEPERS_MAX]
        for address in self.keepers.keys() - set(wanted):
            self._tasks.pop(address).cancel()
            self.keepers.pop(address).close()
        for address in wanted:
            if address not in self.keepers:
                self._keep(scope, address)
        self.metrics.gauge("miner_tunnels", self.server.connections)

    def health(self) -> list[dict[str, Any]]:
        """What `/health` says of them."""
        return [
            {
                "address": f"{host}:{port}",
                "gateway": one.gateway,
                "links": one.links,
                "busy": one.busy,
                "why": one.why,
            }
            for (host, port), one in self.keepers.items()
        ]

    async def _ask(self, url: str) -> tuple[Address, ...]:
        """Raises WireError, and ValueError for an answer that is none."""
        host = urlsplit(url).hostname or ""
        reply = await self.client.call(
            "GET", url.rstrip("/") + TUNNELS_PATH, deadline_ms=self.deadline_ms
        )
        if reply.status != 200:
            raise ValueError(f"it answers {reply.status}: has it a `tunnel` port?")
        try:
            listed = _decode(reply.body).get("addresses")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"it answers no JSON: {error}") from error
        listed = listed if isinstance(listed, list) else []
        return tuple(
            (one.get("host") or host, one["port"])
            for one in listed[:ADDRESSES_MAX]
            if isinstance(one, dict)
            and isinstance(one.get("host", ""), str)
            and type(one.get("port")) is int
            and 0 < one["port"] <= PORT_MAX
        )

    def _keep(self, scope: Scope, address: Address) -> None:
        keeper = self.keepers[address] = Keeper(
            self.road,
            address,
            party=self.party,
            server=self.server,
            limits=self.limits,
            entropy=self.entropy,
        )
        self._tasks[address] = scope.supervise(
            "tunnel", keeper.run, on_event=crash_recorder(self.metrics)
        )


def offered_endpoint(config: MinerConfig, dialled: str) -> str:
    """What offers say, where `dialled` is the URL of our own port."""
    match config.tunnel.mode:
        case TunnelMode.OFF:
            return dialled
        case TunnelMode.ONLY:
            return endpoint_of(Reach(config.name, ""))
        case TunnelMode.BOTH:
            return endpoint_of(Reach(config.name, dialled))
