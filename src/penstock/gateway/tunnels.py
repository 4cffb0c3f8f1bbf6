"""The gateway's tunnel port: who may open reverse connections here, and what becomes of them.

Only nodes with an offer on the board are let in: whoever it is has been checked by the market, and
the directory is bounded. Everything dearer than a look-up comes after that look-up.
"""

import ssl
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.gateway.config import GatewayConfig, TunnelConfig
from penstock.gateway.reach import Reachable
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Entropy, Listener, Network, Sign, Verify
from penstock.kit.tasks import Scope, crash_recorder
from penstock.kit.wire.client import ClientLimits, HttpClient
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tunnel_greeting import Doorman, Opening, TunnelRefused, write_ok
from penstock.kit.wire.tunnel_pool import TunnelClient, TunnelLimits, node_host
from penstock.spec.keys import Signed, sign
from penstock.spec.tunnels import HELLO_KIND, HELLO_MS_MAX, TunnelGreeting, TunnelHello

CHALLENGE_BYTES = 32
TUNNELS_PATH = "/tunnels"

_log = events("gateway")


@dataclass(slots=True, eq=False)
class Tunnels:
    """The `Door` of a gateway. `channel` is the SHA-256 of the certificate that its port shows;
    `count` processes of this gateway, one of them in reserve, listen at ports that follow each other.
    """

    http: TunnelClient
    reachable: Reachable
    clock: Clock
    sign: Sign
    verify: Verify
    entropy: Entropy
    metrics: Metrics
    channel: str
    config: TunnelConfig
    count: int = 1
    _greeting: int = 0
    _hello: tuple[TunnelHello, Signed] | None = None
    _listener: Listener | None = field(default=None)

    async def start(
        self, network: Network, address: tuple[str, int], tls: ssl.SSLContext | None
    ) -> int:
        """Listen; returns the port. Raises PortTaken and other OSErrors."""
        self.http.on_change = self._changed
        host, port = address
        self._listener = await network.listen(host, port, lambda: Doorman(self), tls=tls)
        return self._listener.port

    def watch(self, scope: Scope) -> None:
        """Look after what is open."""
        crash = crash_recorder(self.metrics)
        scope.supervise("tunnels", self.http.watch, on_event=crash)

    async def stop(self) -> None:
        """Let nobody in any more. What is open serves on until the client is closed."""
        if self._listener is not None:
            await self._listener.close()

    async def page(self, _: Request) -> Response:
        """`GET /tunnels`: where miners may dial, all processes of this gateway. An empty host is the one
        that was asked.
        """
        host, first = self.config.public_host, self.config.port
        listed = [{"host": host, "port": first + index} for index in range(self.count)]
        return json_response(200, {"gateway": self.sign.identity, "addresses": listed})

    # The Door of a Doorman.

    def open(self) -> Opening:
        """Raises TunnelRefused when too many are greeting at once."""
        if self._greeting >= self.config.greeting_max:
            raise self._refused("busy", "Too many are greeting at once. Try again soon.")
        self._greeting += 1
        hello, signed = self._own_word()
        return Opening(hello, signed, self.entropy(CHALLENGE_BYTES).hex())

    def left(self) -> None:
        """One greeting less."""
        self._greeting -= 1

    def check(self, plain: dict[str, Any]) -> None:
        """Raises TunnelRefused for a node that has no offer, before its signature costs anything."""
        host = node_host(str(plain.get("miner"))[:128], str(plain.get("node"))[:64])
        if not self.reachable.knows(host):
            raise self._refused(
                "miner_unknown", "No offer of this miner and node is on the board (yet)."
            )
        if not self.http.has_room(host):
            raise self._refused("too_many", "Enough reverse connections are open.")

    def turn(self, greeting: TunnelGreeting, transport: Any) -> None:
        """From here on it is a link like any other."""
        write_ok(transport)
        self.http.adopt(node_host(greeting.miner, greeting.node), transport)
        self.metrics.count("gateway_tunnels_opened_total")
        self._show()

    def _own_word(self) -> tuple[TunnelHello, Signed]:
        """Our hello, signed once for many connections; fresh long before it is over."""
        now_ms = self.clock.now_ms()
        if self._hello is None or now_ms > self._hello[0].issued_ms + HELLO_MS_MAX // 2:
            hello = TunnelHello(
                gateway=self.sign.identity,
                channel=self.channel,
                issued_ms=now_ms,
                expires_ms=now_ms + HELLO_MS_MAX,
            )
            self._hello = hello, sign(HELLO_KIND, hello, self.sign)
        return self._hello

    def _refused(self, code: str, message: str) -> TunnelRefused:
        self.metrics.count("gateway_tunnels_refused_total", code=code)
        return TunnelRefused(code, message)

    def _changed(self, host: str, is_here: bool) -> None:  # noqa: FBT001 -- told by the client
        self.reachable.changed(host, is_here=is_here)
        _log.info("tunnel.changed", node=host[:80], is_here=is_here)
        self._show()

    def _show(self) -> None:
        self.metrics.gauge("gateway_tunnels", self.http.links)
        self.metrics.gauge("gateway_tunnel_nodes", len(self.http.nodes))


def client_of(config: GatewayConfig, network: Network, limits: ClientLimits) -> HttpClient:
    """The client of a gateway with this configuration: with a tunnel port it also reaches miners that
    nobody can dial.
    """
    tunnel = config.tunnel
    if not tunnel.port:
        return HttpClient(network, limits)
    tunnels = TunnelLimits(
        node_links_max=tunnel.node_links_max, links_max=tunnel.links_max, wait_ms=tunnel.wait_ms
    )
    whole = replace(limits, idle_total_max=limits.idle_total_max + tunnel.links_max)
    return TunnelClient(network, whole, tunnels=tunnels)


async def open_port(
    tunnels: Tunnels | None,
    config: GatewayConfig,
    *,
    number: int,
    tls: ssl.SSLContext | None,
) -> None:
    """Listen at the port of this worker (0: of the gateway that has none). Raises PortTaken, OSError."""
    if tunnels is None:
        return
    port = config.tunnel.port + max(number - 1, 0)
    await tunnels.start(Sockets(), (config.tunnel.host or config.host, port), tls)
    _log.info("tunnel.ready", port=port, channel=tunnels.channel)
