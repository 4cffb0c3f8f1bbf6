"""The gateway's end of reverse connections: links like any other, that came instead of being dialled.

A node of a miner is a host of its own, `NODE.MINER.tunnel`, so whoever calls it needs to know nothing:
`HttpClient.call`, `idle_link` and `dial` work as for a URL. To dial a node is to wait for one of its
links to be free. Links that rest are pinged, so that what is dead is known before it is needed.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from penstock.kit.errors import ConnectFailed, DeadlinePassed, WireError
from penstock.kit.ports import Network
from penstock.kit.wire.client import ClientLimits, HttpClient, link_key
from penstock.kit.wire.link import Link, LinkKey
from penstock.kit.wire.pool import Pool
from penstock.spec.errors import SpecError
from penstock.spec.tunnels import PING_MS, PING_PATH, reach_of

SUFFIX = ".tunnel"
_PORT = 80
_PING = f"POST {PING_PATH} HTTP/1.1\r\nhost: tunnel\r\ncontent-length: 0\r\n\r\n".encode()
_HOSTS_MAX = 16_384
_LOOK_MS = 500


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """Bounds of the gateway's end."""

    node_links_max: int = 512
    links_max: int = 8_192
    waiting_max: int = 1_024
    """Requests that wait for a link of one node; more go to another miner at once."""
    wait_ms: int = 5_000
    ping_deadline_ms: int = 3_000
    hung_ms: int = 15_000
    """A node that was not heard for so long, though it was asked, is cut off: whoever waits for an answer
    of it learns so, and can ask another one.
    """
    direct_ms: int = 1_500
    """How long a node's own address is dialled before its reverse connections are taken."""
    direct_rest_ms: int = 30_000
    """An address that did not answer is left alone for so long."""
    resting_max: int = 1_024
    """Such addresses that are remembered."""


@dataclass(slots=True, eq=False)
class Node:
    """One node of a miner with open links. `is_silent`: a ping was not answered, nor anything since."""

    host: str
    links: "dict[TunnelLink, None]" = field(default_factory=dict)
    heard_at: float = 0.0
    is_silent: bool = False
    waiting: "deque[asyncio.Future[Link]]" = field(default_factory=deque)


def node_host(miner: str, node: str) -> str:
    """The host that stands for a node."""
    return f"{node}.{miner.replace(':', '-')}{SUFFIX}"


def endpoint_url(endpoint: str, miner: str) -> str:
    """The URL by which this miner's endpoint is called. Raises ValueError for a malformed one."""
    try:
        reach = reach_of(endpoint)
    except SpecError as error:
        raise ValueError(str(error)) from error
    dialled = endpoint if reach is None else reach.direct
    if dialled and link_key(dialled)[0].endswith(SUFFIX):
        raise ValueError(f"{SUFFIX} is no host that can be dialled: {endpoint!r}")
    if reach is None:
        return endpoint.rstrip("/")
    if reach.direct:
        return f"http://{reach.direct.encode().hex()}.{node_host(miner, reach.node)}"
    return f"http://{node_host(miner, reach.node)}"


@lru_cache(maxsize=_HOSTS_MAX)
def _ways(host: str) -> tuple[LinkKey, LinkKey | None]:
    """(a node's links, where it may be dialled) of a host that `endpoint_url` made."""
    first, _, rest = host.partition(".")
    if rest.count(".") < 2:
        return (host, _PORT, False), None
    return (rest, _PORT, False), link_key(bytes.fromhex(first).decode())


class TunnelLink(Link):
    """A link that a miner dialled. `node` is whose it is."""

    __slots__ = ("_client", "node")

    def __init__(self, client: "TunnelClient", node: Node) -> None:
        super().__init__((node.host, _PORT, False), client.home)
        self._client = client
        self.node = node

    def cut(self) -> None:
        """End it from our side; unlike with `abort`, whoever waits for an answer is told."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the client as well."""
        super().connection_lost(exc)
        self._client.lost(self)


class TunnelPool(Pool):
    """Knows that a node may be reached in two ways, and who waits for one of its links."""

    def __init__(self, limits: ClientLimits, turned: Callable[[LinkKey], LinkKey]) -> None:
        super().__init__(
            idle_max=limits.idle_max, idle_total_max=limits.idle_total_max, idle_ms=limits.idle_ms
        )
        self._turned = turned

    def take(self, key: LinkKey) -> Link | None:
        """The link that rested the shortest, if one is fit to use."""
        return super().take(self._turned(key) if key[0].endswith(SUFFIX) else key)

    def put(self, link: Link) -> None:
        """Keep a link, unless somebody waits for it."""
        if isinstance(link, TunnelLink):
            waiting = link.node.waiting
            while waiting:
                first = waiting.popleft()
                if not first.done():
                    first.set_result(link)
                    return
        super().put(link)

    def take_stale(self, key: LinkKey, rested_ms: int, *, spare: bool) -> list[Link]:
        """Links that rested for so long, the oldest first; `spare`: one in two stays for who comes now."""
        links = self._links.get(key, [])
        oldest_at = self._now() - rested_ms / 1000
        count = sum(link.idle_since <= oldest_at for link in links)
        taken = links[: min(count, (len(links) + 1) // 2 if spare else count)]
        del links[: len(taken)]
        self._total -= len(taken)
        for link in taken:
            link.resting = False
        return taken


class _Ping:
    """One ping on one link: its `Receiver`."""

    __slots__ = ("_began_at", "_client", "_link", "_status", "_timer")

    def __init__(self, client: "TunnelClient", link: TunnelLink, deadline_ms: int) -> None:
        self._client = client
        self._link = link
        self._status = 0
        loop = asyncio.get_running_loop()
        self._began_at = loop.time()
        self._timer = loop.call_later(deadline_ms / 1000, self._late)
        link.begin("POST", _PING, self)

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The answer has no body."""
        del headers
        self._status = status

    def on_body(self, data: bytes) -> None:
        """A miner that talks here is none."""
        del data
        self._timer.cancel()
        self._link.abort()

    def on_end(self) -> None:
        """Alive: the link rests again."""
        self._timer.cancel()
        if self._status != 204:
            self._link.abort()
            return
        self._client.heard(self._link.node)
        self._link.release()

    def on_lost(self, error: WireError) -> None:
        """The link counts itself out."""
        del error
        self._timer.cancel()

    def _late(self) -> None:
        self._link.abort()
        if self._link.node.heard_at < self._began_at:
            self._client.missed(self._link.node)


class TunnelClient(HttpClient):
    """An HttpClient that also reaches those who dialled us. `on_change` is told (host, whether it can
    be reached) whenever that changes.
    """

    def __init__(
        self,
        network: Network,
        limits: ClientLimits | None = None,
        *,
        tunnels: TunnelLimits | None = None,
    ) -> None:
        super().__init__(network, limits)
        self.tunnels = tunnels if tunnels is not None else TunnelLimits()
        self.nodes: dict[str, Node] = {}
        self.links = 0
        self.on_change: Callable[[str, bool], None] = _nobody
        self.home = self._pool = TunnelPool(self._limits, self._turned)
        self._resting: OrderedDict[LinkKey, float] = OrderedDict()

    def is_here(self, host: str) -> bool:
        """Can this node be asked now?"""
        node = self.nodes.get(host)
        return node is not None and not node.is_silent

    def has_room(self, host: str) -> bool:
        """May this node open one more?"""
        node = self.nodes.get(host)
        own = 0 if node is None else len(node.links)
        return own < self.tunnels.node_links_max and self.links < self.tunnels.links_max

    def adopt(self, host: str, transport: asyncio.Transport) -> None:
        """Take over a connection that leads to this node and on which nobody is asked yet."""
        node = self.nodes.setdefault(host, Node(host))
        link = TunnelLink(self, node)
        node.links[link] = None
        self.links += 1
        transport.set_protocol(link)
        link.connection_made(transport)
        if len(node.links) == 1:
            self.on_change(host, True)
        self.heard(node)
        self.home.put(link)

    def lost(self, link: TunnelLink) -> None:
        """A link is gone."""
        node = link.node
        del node.links[link]
        self.links -= 1
        if not node.links:
            del self.nodes[node.host]
            self._fail_waiting(node)
            if not node.is_silent:
                self.on_change(node.host, False)

    def heard(self, node: Node) -> None:
        """A sign of life."""
        node.heard_at = asyncio.get_running_loop().time()
        if node.is_silent:
            node.is_silent = False
            self.on_change(node.host, True)

    def missed(self, node: Node) -> None:
        """No answer to a ping: nobody is sent there until there is one."""
        if not node.is_silent and node.host in self.nodes:
            node.is_silent = True
            self._fail_waiting(node)
            self.on_change(node.host, False)

    async def watch(self) -> None:
        """For ever: ping links that rest."""
        while True:
            await asyncio.sleep(_LOOK_MS / 1000)
            now = asyncio.get_running_loop().time()
            for node in list(self.nodes.values()):
                key = (node.host, _PORT, False)
                # One that was silent once is asked on all it has, so as to know soon.
                rested_ms = 0 if node.is_silent else PING_MS
                if node.is_silent and node.heard_at < now - self.tunnels.hung_ms / 1000:
                    for one in list(node.links):
                        one.cut()
                    continue
                for link in self.home.take_stale(key, rested_ms, spare=not node.is_silent):
                    assert isinstance(link, TunnelLink), "only such links are kept under a node"
                    if link.alive:
                        _Ping(self, link, self.tunnels.ping_deadline_ms)

    async def _connect(self, key: LinkKey) -> Link:
        """Dial, or wait for a link of the node. Raises ConnectFailed, DeadlinePassed."""
        if not key[0].endswith(SUFFIX):
            return await super()._connect(key)
        own, direct = _ways(key[0])
        if direct is not None and self._turned(key) is direct:
            try:
                async with asyncio.timeout(self.tunnels.direct_ms / 1000):
                    return await super()._connect(direct)
            except (ConnectFailed, TimeoutError):
                self._rest(direct)
        return await self._wait_for(own)

    async def _wait_for(self, own: LinkKey) -> Link:
        link = self.home.take(own)
        if link is not None:
            return link
        node = self.nodes.get(own[0])
        if node is None or node.is_silent or len(node.waiting) >= self.tunnels.waiting_max:
            raise ConnectFailed(own[0], own[1])
        first: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        node.waiting.append(first)
        given: Link | None = None
        try:
            async with asyncio.timeout(self.tunnels.wait_ms / 1000):
                given = await first
        except TimeoutError as error:
            raise DeadlinePassed("dial", self.tunnels.wait_ms) from error
        finally:
            if given is None:
                self._take_back(node, first)
        return given

    def _take_back(self, node: Node, first: "asyncio.Future[Link]") -> None:
        """Whoever waited has gone, perhaps in the moment in which it was given a link."""
        if first in node.waiting:
            node.waiting.remove(first)
        elif not first.cancelled() and first.exception() is None:
            self.home.put(first.result())

    def _fail_waiting(self, node: Node) -> None:
        while node.waiting:
            first = node.waiting.popleft()
            if not first.done():
                first.set_exception(ConnectFailed(node.host, _PORT))

    def _turned(self, key: LinkKey) -> LinkKey:
        """By which way a node is asked now."""
        own, direct = _ways(key[0])
        if direct is None:
            return own
        until = self._resting.get(direct)
        if until is None or asyncio.get_running_loop().time() >= until:
            return direct
        return own

    def _rest(self, direct: LinkKey) -> None:
        until = asyncio.get_running_loop().time() + self.tunnels.direct_rest_ms / 1000
        self._resting[direct] = until
        self._resting.move_to_end(direct)
        while len(self._resting) > self.tunnels.resting_max:
            self._resting.popitem(last=False)


def _nobody(host: str, is_here: bool) -> None:  # noqa: FBT001 -- the signature of `on_change`
    del host, is_here
