"""A whole gateway without sockets, for `bench.gateway_costs`: real keys, real wire, transports of memory.

What the gateway writes is kept, what it is to read is handed in by the bench, so nothing waits and
nothing but the gateway's own code is in what is measured. The miner and the ledger here are other
stations; the time they take is told in `stranger_ns`.
"""

import asyncio
import json
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from bench.gateway import cast as roles
from bench.gateway.sidecar import SEALS, SESSION, Sidecar

from penstock.gateway.config import AddressLimits, KeyLimits, PayerLimits
from penstock.gateway.orders import signed_json
from penstock.gateway.routes import build_site
from penstock.gateway.service import Gateway
from penstock.kit.clock import SystemClock
from penstock.kit.handshake import receipt_mac, vouch
from penstock.kit.keys import verify
from penstock.kit.ports import Listener
from penstock.kit.spell import read_order, spell
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.connection import ServerProtocol
from penstock.kit.wire.link import Link
from penstock.kit.wire.server import Server
from penstock.spec.canon import digest_spelled
from penstock.spec.keys import sign
from penstock.spec.messages import Order, chute_id
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome, Receipt, charge_for
from penstock.spec.units import Units

ENDPOINT = "http://127.0.0.1:9"
ACCOUNT = "bench"
LEASE_NANO = 10**15
WORK = {"work_per_s": 10**12, "work_max": 10**14}
OFFER_TTL_MS = 3_600_000
ORDER_LINE = b"x-penstock-order: "


class Wire:
    """A transport that keeps what is written."""

    def __init__(self, hear: Callable[[bytes], None] | None = None) -> None:
        self.written: list[bytes] = []
        self.write: Callable[[bytes], None] = self.written.append if hear is None else hear

    def writelines(self, parts: list[bytes]) -> None:
        self.written.extend(parts)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is ever buffered here."""

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("127.0.0.1", 1) if name == "peername" else None

    def abort(self) -> None:
        raise AssertionError("no connection of this bench breaks")

    def pause_reading(self) -> None:
        """The bench reads on all the same."""

    resume_reading = pause_reading
    close = abort


@dataclass(slots=True)
class Asked:
    """An order that reached the miner: where its answer goes, and what it said."""

    link: Link
    order: Order
    digest: str


@dataclass(eq=False)
class Miner:
    """The only miner; implements Network for the gateway's HTTP client."""

    sidecar: Sidecar = field(default_factory=Sidecar)
    key: bytes = b""
    came: list[tuple[Link, bytes]] = field(default_factory=list)
    """Orders as they came, not read yet."""
    covered: dict[str, str] = field(default_factory=dict)
    """Digests of receipts that were given, by order."""
    stranger_ns: int = 0

    async def connect(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        tls: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        del host, port, tls
        link = cast("Link", factory())
        wire = cast("asyncio.Transport", Wire(lambda data: self._hear(link, data)))
        link.connection_made(wire)
        return wire, link

    async def listen(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        del host, port, factory, reuse_port, tls
        raise AssertionError("connections are handed in")

    def asked(self) -> list[Asked]:
        """The orders that came since the last time."""
        found = []
        for link, request in self.came:
            start = request.index(ORDER_LINE) + len(ORDER_LINE)
            body = request[start : request.index(b"\r\n", start)]
            digest = digest_spelled("order", body).hex()
            found.append(Asked(link, read_order(body), digest))
        self.came.clear()
        return found

    def word(self, order: Order, digest: str, answer: bytes, *, events: int) -> bytes:
        """The vouched receipt of this answer to the order with this digest."""
        units = Units(prompt=100, cached=0, completion=max(1, events), images=0, audio_ms=0)
        now_ms = order.issued_ms
        receipt = Receipt(
            order_id=order.order_id,
            order_digest=digest,
            chute=order.chute,
            instance=order.instance,
            miner=order.miner,
            gateway=order.gateway,
            payer_tag=order.payer_tag,
            outcome=Outcome.COMPLETE,
            units=units,
            charge_nano=charge_for(order, units),
            response_digest=sha256(answer).hexdigest(),
            response_bytes=len(answer),
            events=events,
            accept_ms=now_ms,
            first_ms=now_ms,
            last_ms=now_ms,
            seed=order.seed,
            token_ids_digest="",
            logprobs_digest="",
        )
        body = spell(receipt)
        covered = digest_spelled("receipt", body)
        self.covered[order.order_id] = covered.hex()
        return vouch(body, receipt_mac(self.key, covered))

    def _hear(self, link: Link, data: bytes) -> None:
        path = data[5 : data.index(b" ", 5)]
        if path == b"/v1/chat/completions":
            self.came.append((link, data))
            return
        before_ns = time.process_time_ns()
        body = data[data.index(b"\r\n\r\n") + 4 :]
        if path == b"/v1/sessions":
            told, _, answer = self.sidecar.answer(SESSION, body).partition(b"\n")
            self.key = bytes.fromhex(told.split()[1].decode())
        else:
            order_ids = json.loads(body)["receipts"]
            digests = ",".join(self.covered.pop(one, "-") for one in order_ids).encode()
            answer = self.sidecar.answer(SEALS, digests + b"\n" + body)
        said = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer)
        asyncio.get_running_loop().call_soon(link.data_received, said)
        self.stranger_ns += time.process_time_ns() - before_ns


class Books:
    """The bus, as far as a gateway uses it here: the ledger behind it grants a lease once."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self.records = 0

    async def publish(self, subject: str, data: bytes, *, event_id: str) -> None:
        del data, event_id
        if subject.startswith("events.record"):
            self.records += 1

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        del subject, data, deadline_ms
        lease = {
            "account": ACCOUNT,
            "lease_id": f"l-{1:032x}",
            "granted_nano": LEASE_NANO,
            "expires_ms": self._clock.now_ms() + OFFER_TTL_MS,
        }
        return json.dumps(lease).encode()

    async def put(self, key: str, value: bytes) -> None:
        """Nobody reads the board here."""


class Stand:
    """The gateway, its miner, and connections of clients. Made within a running loop."""

    def __init__(self, connections: int) -> None:
        clock = SystemClock()
        self.miner = Miner()
        self.books = Books(clock)
        key_limits = {"parallel_max": 10**6, "requests_per_s": 10**9, "burst_max": 10**9, **WORK}
        self.gateway = Gateway(
            name="bench",
            clock=clock,
            bus=cast("Any", self.books),
            http=HttpClient(self.miner),
            sign=roles.GATEWAY,
            verify=verify,
            entropy=os.urandom,
            params=LOCAL,
            tag_secret=b"\7" * 32,
            key_limits=KeyLimits(**key_limits),
            payer_limits=PayerLimits(parallel_max=10**6, **WORK),
            address_limits=AddressLimits(work_per_s=10**12, work_max=10**14),
        )
        self._fill(clock.now_ms())
        self.server = Server(
            self.miner,
            build_site(self.gateway),
            entropy=os.urandom,
            metrics=self.gateway.metrics,
            hot=self.gateway.hot_paths(),
        )
        self.clients = [self._client() for _ in range(connections)]

    def _client(self) -> tuple[ServerProtocol, Wire]:
        protocol, wire = ServerProtocol(self.server), Wire()
        protocol.connection_made(cast("asyncio.Transport", wire))
        return protocol, wire

    def _fill(self, now_ms: int) -> None:
        """The directory, as the board would."""
        directory, chute = self.gateway.directory, chute_id(roles.MANIFEST)
        manifest = sign("manifest", roles.MANIFEST, roles.OWNER)
        directory.take("chutes", chute.removeprefix("sha256:"), signed_json(manifest))
        for number in range(1, roles.INSTANCES + 1):
            said = roles.offer(number, endpoint=ENDPOINT, now_ms=now_ms, ttl_ms=OFFER_TTL_MS, seq=1)
            directory.take("offers", said.instance, signed_json(sign("offer", said, roles.MINER)))

    async def settle(self) -> None:
        """Until all that has ended is on record."""
        gateway = self.gateway
        while gateway.sealer.waiting or gateway.recorder.waiting:  # noqa: ASYNC110 -- no event tells it
            await asyncio.sleep(0)
