"""Reverse connections in a world: the production classes, where a channel is the address dialled."""

import asyncio
from hashlib import sha256

from penstock.gateway.config import TunnelConfig
from penstock.gateway.service import Gateway
from penstock.gateway.tunnels import Tunnels
from penstock.kit.wire.tunnel_pool import TunnelClient
from penstock.kit.wire.tunnel_road import Road
from penstock.sim.ground import Ground

TUNNEL_PORT = 81


def channel_at(host: str, port: int) -> str:
    """What stands for the certificate that is shown at an address: nobody else can show it."""
    return sha256(f"{host}:{port}".encode()).hexdigest()


def shown_channel(transport: asyncio.BaseTransport) -> str:
    """The `ChannelOf` of a memory network."""
    host, port = transport.get_extra_info("peername")
    return channel_at(host, port)


def road_of(ground: Ground, host: str) -> Road:
    """How a miner on this host dials."""
    return Road(ground.network.at(host), shown_channel)


def make_tunnels(ground: Ground, gateway: Gateway, http: TunnelClient) -> Tunnels:
    """The tunnels of a simulated gateway."""
    return Tunnels(
        http=http,
        reachable=gateway.directory.reachable,
        clock=ground.clock,
        sign=gateway.sign,
        verify=gateway.verify,
        entropy=gateway.entropy,
        metrics=gateway.metrics,
        channel=channel_at(gateway.name, TUNNEL_PORT),
        config=TunnelConfig(port=TUNNEL_PORT),
    )
