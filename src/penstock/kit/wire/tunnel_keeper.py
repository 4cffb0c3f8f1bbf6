"""The miner's end of reverse connections: dialled, greeted, then served like any that came in.

A keeper keeps enough of them open to one address: a few that rest, and as many more as are busy, so
that a burst finds twice as many with every round trip. What rests too long is closed again.
"""

import asyncio
from dataclasses import dataclass

from penstock.kit.log import events
from penstock.kit.ports import Entropy
from penstock.kit.tasks import Backoff
from penstock.kit.wire.connection import ServerProtocol
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import Response
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_greeting import Caller, Party, TunnelRefused
from penstock.kit.wire.tunnel_road import Road
from penstock.spec.tunnels import PING_PATH, SILENCE_MS

HALF = 128
STEADY_S = 1

_log = events("tunnel")


@dataclass(frozen=True, slots=True)
class KeeperLimits:
    """How many connections to one address there are, and how it is dialled."""

    spare_min: int = 4
    links_max: int = 256
    dials_max: int = 8
    """At once."""
    dial_deadline_ms: int = 5_000
    retry_ms_min: int = 250
    retry_ms_max: int = 3_000
    trim_ms: int = 60_000
    """How often it is seen whether fewer would do."""


def answer_ping(exchange: Exchange) -> None:
    """The hot handler of PING_PATH."""
    exchange.respond(Response(204))


def turned_limits(intake: IntakeLimits, links_max: int) -> ServerLimits:
    """For a server of reverse connections: who is not pinged in time was forgotten."""
    return ServerLimits(intake=intake, connections_max=links_max, idle_deadline_ms=SILENCE_MS)


HOT = {PING_PATH: answer_ping}


class Turned(ServerProtocol):
    """A connection of ours that the other end asks over. A ping keeps it at rest."""

    __slots__ = ("_keeper", "is_busy", "rested_at")

    def __init__(self, server: Server, keeper: "Keeper") -> None:
        super().__init__(server)
        self._keeper = keeper
        self.is_busy = False
        self.rested_at = 0.0

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        super().data_received(data)
        self._look()

    def over(self, *, keep: bool) -> None:
        """An answer is out."""
        super().over(keep=keep)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody has gone, or something between us."""
        super().connection_lost(exc)
        self._keeper.lost(self)

    def _look(self) -> None:
        is_busy = self._exchange is not None
        if is_busy is not self.is_busy:
            self.is_busy = is_busy
            self._keeper.changed(self)


class Keeper:
    """Reverse connections to one address (host, port). `why` is what keeps it from having them."""

    def __init__(
        self,
        road: Road,
        address: tuple[str, int],
        *,
        party: Party,
        server: Server,
        limits: KeeperLimits,
        entropy: Entropy,
    ) -> None:
        self.address = address
        self.gateway = ""
        self.why = "not dialled yet"
        self._road = road
        self._party = party
        self._server = server
        self._limits = limits
        self._entropy = entropy
        self._resting: dict[Turned, None] = {}
        self._busy: dict[Turned, None] = {}
        self._failures = 0
        self._drops = 0
        """Connections in a row that were dropped when they had hardly come."""
        self._news = asyncio.Event()
        self._backoff = Backoff(delay_ms_min=limits.retry_ms_min, delay_ms_max=limits.retry_ms_max)

    @property
    def links(self) -> int:
        """How many are open."""
        return len(self._resting) + len(self._busy)

    @property
    def busy(self) -> int:
        """How many are being asked over."""
        return len(self._busy)

    async def run(self) -> None:
        """For ever: dial what is missing, let go what is too much."""
        while True:
            self._news.clear()
            if self._missing():
                await self._dial_missing()
                continue
            try:
                async with asyncio.timeout(self._limits.trim_ms / 1000):
                    await self._news.wait()
            except TimeoutError:
                self._trim()

    def close(self) -> None:
        """Nobody asks us from there any more: end what rests now, the rest when it is answered."""
        for one in list(self._resting):
            one.finish()

    # Called by the connections.

    def changed(self, one: Turned) -> None:
        """It has become busy, or rests again."""
        if one.is_busy:
            self._resting.pop(one, None)
            self._busy[one] = None
            self._drops = 0
            self._news.set()
        else:
            self._busy.pop(one, None)
            one.rested_at = self._server.deadlines.now()
            self._resting[one] = None

    def lost(self, one: Turned) -> None:
        """It is gone. One that was dropped when it had hardly come counts as a failed dial."""
        is_short = self._server.deadlines.now() - one.rested_at < STEADY_S
        self._drops = self._drops + 1 if is_short and one in self._resting else 0
        self._failures = max(self._failures, self._drops)
        self._resting.pop(one, None)
        self._busy.pop(one, None)
        self._news.set()

    # Inside.

    def _missing(self) -> int:
        limits = self._limits
        wanted = max(limits.spare_min, len(self._busy)) - len(self._resting)
        return max(0, min(wanted, limits.links_max - self.links))

    async def _dial_missing(self) -> None:
        """A round of dials; after a failure only one, and not at once. Nobody knows how many dial an
        address that has just come back, so they must not do it in step.
        """
        if self._failures:
            delay_ms = self._backoff.delay_ms(self._failures)
            await asyncio.sleep(delay_ms * (HALF + self._entropy(1)[0] / 2) / (2 * HALF) / 1000)
        is_known = self.links > 0 and not self._failures
        count = min(self._missing(), self._limits.dials_max if is_known else 1)
        async with asyncio.TaskGroup() as group:
            dials = [group.create_task(self._dial()) for _ in range(count)]
        whys = [dial.result() for dial in dials]
        if not whys:
            self._failures = self._drops  # others came meanwhile
        elif "" in whys:
            self._failures = self._drops
            self.why = ""
        else:
            self._failures += 1
            if self.why != whys[0]:
                host, port = self.address
                _log.info("tunnel.not_open", host=host, port=port, why=whys[0])
            self.why = whys[0]

    async def _dial(self) -> str:
        """Dial and greet; "", or why not."""
        host, port = self.address
        limits = self._limits
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(limits.dial_deadline_ms / 1000):
                transport, _ = await self._road.network.connect(
                    host, port, lambda: Caller(self._party, self._turn, done), tls=True
                )
                await done
        except TunnelRefused as refused:
            return f"{refused.code}: {refused.message}"
        except TimeoutError:
            return f"{host}:{port} does not answer within {limits.dial_deadline_ms} ms"
        except OSError as error:
            return f"{host}:{port} cannot be dialled: {error.strerror or error}"
        finally:
            if transport is not None and (not done.done() or done.cancelled()):
                transport.abort()
        return ""

    def _turn(self, gateway: str, transport: asyncio.Transport, rest: bytes) -> None:
        self.gateway = gateway
        one = Turned(self._server, self)
        one.rested_at = self._server.deadlines.now()
        self._resting[one] = None
        transport.set_protocol(one)
        one.connection_made(transport)
        if rest:
            one.data_received(rest)

    def _trim(self) -> None:
        """Close those that rested the longest of twice as many as are wanted."""
        wanted = max(self._limits.spare_min, len(self._busy))
        surplus = len(self._resting) - 2 * wanted
        for one in sorted(self._resting, key=lambda one: one.rested_at)[: max(0, surplus)]:
            one.finish()
