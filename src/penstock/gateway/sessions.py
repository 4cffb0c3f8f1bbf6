"""Peers and sessions: every miner that orders go to, and the key that is shared with it.

A session is agreed on in the background, once, when a miner is first used, and anew before it ends
or after the miner has forgotten it (a restart). Until there is one orders are signed one by one, so
nothing ever waits for a session. A miner that knows none (404) is asked again only after a rest.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from penstock.gateway.config import Bounds, Deadlines
from penstock.kit.errors import WireError
from penstock.kit.handshake import (
    Exchange,
    Macs,
    new_exchange,
    new_session_id,
    session_header,
    session_key,
)
from penstock.kit.log import events
from penstock.kit.ports import Clock, Entropy, Sign, Verify
from penstock.kit.tasks import Backoff, Errands
from penstock.kit.wire.client import HttpClient, link_key
from penstock.kit.wire.link import LinkKey
from penstock.kit.wire.tunnel_pool import endpoint_url
from penstock.spec.canon import to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import parse_signed, sign, signed_digest
from penstock.spec.sessions import (
    OFFER_KIND,
    SessionAnswer,
    SessionOffer,
    check_session_answer,
)

SESSIONS_PATH = "/v1/sessions"
NO_SESSIONS_REST_MS = 60_000
RETRY = Backoff(delay_ms_min=500, delay_ms_max=30_000)
ANSWER_BYTES_MAX = 16_384
RENEW_BEFORE_PPM = 200_000
"""In the last fifth of its life a session is replaced."""
PPM = 1_000_000
JSON = (("content-type", "application/json"),)

_log = events("gateway")


@dataclass(slots=True, eq=False)
class Session:
    """One agreed key. `header` is what stands before the MAC in `x-penstock-session`."""

    session_id: str
    key: bytes
    expires_ms: int
    renew_ms: int
    macs: Macs = field(init=False)
    header: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.macs = Macs(self.key)
        self.header = session_header(self.session_id, "").encode()


class Peer:
    """One miner at one endpoint, however many instances it runs there. Raises ValueError when the
    endpoint is no URL that can be dialled.
    """

    __slots__ = (
        "authority",
        "base",
        "endpoint",
        "failures",
        "heads",
        "is_opening",
        "key",
        "miner",
        "rest_until_ms",
        "session",
        "waiting",
    )

    def __init__(self, endpoint: str, miner: str) -> None:
        self.endpoint = endpoint_url(endpoint, miner)
        self.miner = miner
        self.key: LinkKey = link_key(self.endpoint)
        parts = urlsplit(self.endpoint)
        self.authority = parts.netloc.rpartition("@")[2].encode("ascii")
        self.base = parts.path.encode("ascii")
        if b" " in self.base or parts.query or not parts.path.isprintable():
            raise ValueError(f"not an endpoint: {endpoint!r}")
        self.heads: dict[str, bytes] = {}
        """The first lines of a request by its path; there are as many as the gateway has paths."""
        self.session: Session | None = None
        self.is_opening = False
        self.failures = 0
        self.rest_until_ms = 0
        self.waiting = 0
        """Ended orders that wait for this miner's seals."""

    def head_of(self, path: str) -> bytes:
        """A request's head up to the value of its content-type."""
        head = self.heads.get(path)
        if head is None:
            head = self.heads[path] = b"POST %b%b HTTP/1.1\r\nhost: %b\r\ncontent-type: " % (
                self.base,
                path.encode(),
                self.authority,
            )
        return head


@dataclass(slots=True, eq=False)
class Sessions:
    """All peers, bounded; sessions are opened as errands."""

    http: HttpClient
    clock: Clock
    sign: Sign
    verify: Verify
    entropy: Entropy
    errands: Errands
    deadlines: Deadlines
    bounds: Bounds
    _peers: OrderedDict[tuple[str, str], Peer] = field(default_factory=OrderedDict)

    @property
    def open_count(self) -> int:
        """Peers with a session."""
        return sum(peer.session is not None for peer in self._peers.values())

    def peer_of(self, endpoint: str, miner: str) -> Peer:
        """The peer at this endpoint. Raises ValueError for one that cannot be dialled."""
        peer = self._peers.get((endpoint, miner))
        if peer is None:
            peer = Peer(endpoint, miner)
            self._peers[endpoint, miner] = peer
            self._forget_old()
        return peer

    def session_of(self, peer: Peer) -> Session | None:
        """The present session, or None; a missing or ageing one is seen to in the background."""
        session, now_ms = peer.session, self.clock.now_ms()
        if session is not None and now_ms < session.renew_ms:
            return session
        if not peer.is_opening and now_ms >= peer.rest_until_ms:
            peer.is_opening = True
            self.errands.start("session", self._open(peer), on_crash=lambda _: self._rest(peer))
        if session is not None and now_ms >= session.expires_ms:
            session = peer.session = None
        return session

    def forget(self, peer: Peer, session: Session) -> None:
        """The miner does not know this session any more; a younger one stays."""
        if peer.session is session:
            peer.session = None

    async def _open(self, peer: Peer) -> None:
        now_ms = self.clock.now_ms()
        exchange = new_exchange(self.entropy)
        offer = SessionOffer(
            session_id=new_session_id(self.entropy),
            gateway=self.sign.identity,
            miner=peer.miner,
            exchange_key=exchange.public_hex,
            issued_ms=now_ms,
            expires_ms=now_ms + self.deadlines.session_ms,
        )
        signed = sign(OFFER_KIND, offer, self.sign)
        try:
            reply = await self.http.call(
                "POST",
                peer.endpoint + SESSIONS_PATH,
                headers=JSON,
                body=msgspec.json.encode(to_plain(signed)),
                deadline_ms=self.deadlines.seal_call_ms,
                body_bytes_max=ANSWER_BYTES_MAX,
            )
            if reply.status != 200:
                self._refused(peer, reply.status)
                return
            plain = msgspec.json.decode(reply.body)
            digest = signed_digest(signed)
            session = self._agreed(offer, exchange, offer_digest=digest, plain=plain)
        except (WireError, SpecError, ValueError, RecursionError) as error:
            _log.info("session.failed", miner=peer.miner, reason=str(error))
            self._rest(peer)
            return
        peer.session = session
        peer.is_opening = False
        peer.failures = 0

    def _agreed(
        self, offer: SessionOffer, exchange: Exchange, *, offer_digest: str, plain: Any
    ) -> Session:
        """The session that the miner's answer makes. Raises SpecError."""
        signed = parse_signed(plain)
        answer: SessionAnswer = check_session_answer(
            signed, offer, offer_digest=offer_digest, verify=self.verify
        )
        life_ms = answer.expires_ms - offer.issued_ms
        return Session(
            session_id=offer.session_id,
            key=session_key(
                exchange,
                answer.exchange_key,
                offer_digest=offer_digest,
                answer_digest=signed_digest(signed),
            ),
            expires_ms=answer.expires_ms,
            renew_ms=answer.expires_ms - life_ms * RENEW_BEFORE_PPM // PPM,
        )

    def _refused(self, peer: Peer, status: int) -> None:
        """404: a miner that signs every receipt by itself. Anything else may pass."""
        self._rest(peer)
        if status in {404, 405}:
            peer.rest_until_ms = self.clock.now_ms() + NO_SESSIONS_REST_MS

    def _rest(self, peer: Peer) -> None:
        peer.is_opening = False
        peer.failures += 1
        peer.rest_until_ms = self.clock.now_ms() + RETRY.delay_ms(peer.failures)

    def _forget_old(self) -> None:
        """The peer that came first of those that owe nothing goes."""
        if len(self._peers) <= self.bounds.peers_max:
            return
        for name, peer in self._peers.items():
            if not peer.waiting and not peer.is_opening:
                del self._peers[name]
                return
