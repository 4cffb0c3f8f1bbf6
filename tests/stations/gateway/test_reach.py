"""Which instances can be asked at all, and what stands for a node in the gateway's client."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from penstock.gateway.config import GatewayConfig, TunnelConfig, read_config
from penstock.gateway.instances import Instance
from penstock.gateway.reach import Reachable
from penstock.gateway.sessions import Peer
from penstock.gateway.tunnels import client_of, open_port
from penstock.kit.wire.client import ClientLimits, HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tunnel_pool import TunnelClient, node_host
from penstock.spec.messages import Offer, Tier
from penstock.spec.tunnels import TunnelGreeting
from penstock.spec.units import FREE


class TestReachable:
    def offer(self, endpoint: str) -> Offer:
        return Offer(
            instance="a-1",
            miner="toy:ab",
            chute="sha256:x",
            endpoint=endpoint,
            price=FREE,
            room=3,
            hardware="cpu",
            device="d",
            tier=Tier.OPEN,
            issued_ms=0,
            valid_until_ms=1,
            seq=1,
        )

    def test_listed_unlisted_and_told(self) -> None:
        reachable, instance = Reachable(), Instance(self.offer("tunnel:n"))
        host = node_host("toy:ab", "n")
        reachable.listed(instance)
        assert instance.room == 0
        assert reachable.knows(host)
        reachable.changed(host, is_here=True)
        assert (instance.room, reachable.missing) == (3, 0)
        later = Instance(self.offer("tunnel:n"))
        reachable.listed(later)
        assert later.room == 3
        reachable.unlisted(instance, instance.offer)
        reachable.unlisted(later, later.offer)
        reachable.unlisted(later, later.offer)
        assert not reachable.knows(host)
        reachable.changed(host, is_here=False)
        assert instance.room == 3, "it is nobody's any more"

    def test_one_that_is_dialled_is_always_here(self) -> None:
        reachable, instance = Reachable(), Instance(self.offer("http://a:1"))
        reachable.listed(instance)
        assert (instance.room, reachable.missing) == (3, 0)

    def test_one_that_cannot_be_read_is_left_to_fail(self) -> None:
        reachable, instance = Reachable(), Instance(self.offer("tunnel:"))
        reachable.listed(instance)
        assert instance.room == 3
        with pytest.raises(ValueError, match="tunnel"):
            Peer("tunnel:", "toy:ab")


def test_a_greeting_turns_into_a_peer_of_that_node() -> None:
    greeting = TunnelGreeting("toy:ab", "n", "g", "c", "x")
    peer = Peer(f"tunnel:{greeting.node}", greeting.miner)
    assert peer.key == (node_host("toy:ab", "n"), 80, False)
    assert peer.head_of("/v1/x").startswith(b"POST /v1/x HTTP/1.1\r\nhost: n.toy-ab.tunnel\r\n")


def test_only_a_gateway_with_a_port_gets_the_client_for_it(tmp_path: Any) -> None:
    fields = {"name": "g", "market_url": "m", "nats_url": "n", "key_file": "k"}
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps({**fields, "tag_secret_file": "t", "tunnel": {"port": 5}}))
    config: GatewayConfig = read_config(path)

    async def main() -> None:
        made = client_of(config, Sockets(), ClientLimits())
        assert isinstance(made, TunnelClient)
        plain = msgspec.structs.replace(config, tunnel=TunnelConfig())
        assert type(client_of(plain, Sockets(), ClientLimits())) is HttpClient
        await open_port(None, plain, number=0, tls=None)

    asyncio.run(main())
