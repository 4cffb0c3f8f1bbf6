"""Sessions: after one signed handshake a gateway's orders need no signature check each.

Only chartered gateways open one. Each may hold a bounded number (one for each of its processes); a
further one takes the place of the one that rested longest, so that a gateway which restarts often
never shuts itself out. The key lives in memory only: after our restart the gateway opens a new
session, and asks under that one for what it still misses.
"""

from dataclasses import dataclass, field

import msgspec

from penstock.kit.handshake import new_exchange, session_key
from penstock.kit.ports import Clock, Entropy, Sign
from penstock.miner.charter import Trust
from penstock.miner.errors import SessionRefused
from penstock.spec.errors import Expired, SpecError
from penstock.spec.keys import Signed, parse_signed, sign_and_digest, signed_digest
from penstock.spec.params import Params
from penstock.spec.sessions import ANSWER_KIND, SessionAnswer, SessionOffer, check_session_offer

OFFER_BYTES_MAX = 4_096
OFFER_AGE_MS_MAX = 60_000
"""An older offer is somebody's replay of one that was answered long ago."""

_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Session:
    """One gateway's session. `used_ms` is when an order or a request for seals last named it."""

    session_id: str
    gateway: str
    expires_ms: int
    offer_digest: str
    answer: Signed
    used_ms: int
    key: bytes = field(repr=False)


@dataclass(slots=True)
class Sessions:
    """All open sessions of one miner, by id."""

    key: Sign
    trust: Trust
    time: Clock
    entropy: Entropy
    params: Params
    sessions_max: int
    gateway_sessions_max: int
    _by_id: dict[str, Session] = field(default_factory=dict)
    _by_gateway: dict[str, dict[str, Session]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, body: bytes) -> Signed:
        """Our signed answer to a signed offer. The same offer again gets the same answer.

        Raises SessionRefused.
        """
        now_ms = self.time.now_ms()
        signed = _parse_offer(body)
        offer = self._checked(signed, now_ms)
        offer_digest = signed_digest(signed)
        known = self._by_id.get(offer.session_id)
        if known is not None:
            if known.offer_digest == offer_digest:
                return known.answer
            raise SessionRefused(409, "session_taken", "This session id was used by another offer.")
        self._make_room(offer.gateway, now_ms)
        session = self._agreed(offer, offer_digest, now_ms=now_ms)
        self._by_id[session.session_id] = session
        self._by_gateway.setdefault(session.gateway, {})[session.session_id] = session
        return session.answer

    def find(self, session_id: str, *, now_ms: int) -> Session | None:
        """The session, while it lasts and its gateway is chartered."""
        session = self._by_id.get(session_id)
        if session is None:
            return None
        if now_ms > session.expires_ms or not self.trust.is_gateway(session.gateway, now_ms=now_ms):
            self._forget(session)
            return None
        session.used_ms = now_ms
        return session

    def _checked(self, signed: Signed, now_ms: int) -> SessionOffer:
        """A fresh offer of a chartered gateway to us. Raises SessionRefused."""
        # Before its signature, which costs a hundred times as much as this look-up.
        if not self.trust.is_gateway(signed.signer, now_ms=now_ms):
            raise SessionRefused(
                403, "gateway_unknown", "The offer's signer is no gateway of this market's charter."
            )
        try:
            offer = check_session_offer(
                signed,
                miner=self.key.identity,
                now_ms=now_ms,
                skew_max_ms=self.params.clock_skew_max_ms,
                verify=self.trust.verify,
            )
            if now_ms - offer.issued_ms > OFFER_AGE_MS_MAX:
                raise Expired(what="session-offer", at_ms=offer.issued_ms, now_ms=now_ms)
        except SpecError as error:
            raise _bad(error) from error
        return offer

    def _agreed(self, offer: SessionOffer, offer_digest: str, *, now_ms: int) -> Session:
        """The session that this offer and our answer to it make. Raises SessionRefused."""
        exchange = new_exchange(self.entropy)
        answer = SessionAnswer(
            session_id=offer.session_id,
            offer_digest=offer_digest,
            miner=self.key.identity,
            exchange_key=exchange.public_hex,
            expires_ms=offer.expires_ms,
        )
        signed, answer_digest = sign_and_digest(ANSWER_KIND, answer, self.key)
        try:
            key = session_key(
                exchange,
                offer.exchange_key,
                offer_digest=offer_digest,
                answer_digest=answer_digest,
            )
        except SpecError as error:
            raise _bad(error) from error
        return Session(
            session_id=offer.session_id,
            gateway=offer.gateway,
            expires_ms=offer.expires_ms,
            offer_digest=offer_digest,
            answer=signed,
            used_ms=now_ms,
            key=key,
        )

    def _make_room(self, gateway: str, now_ms: int) -> None:
        """Raises SessionRefused when all places are taken by sessions of other gateways."""
        own = self._by_gateway.get(gateway, {})
        if len(own) >= self.gateway_sessions_max:
            self._forget(min(own.values(), key=lambda one: one.used_ms))
        if len(self._by_id) >= self.sessions_max:
            for session in [one for one in self._by_id.values() if now_ms > one.expires_ms]:
                self._forget(session)
        if len(self._by_id) >= self.sessions_max:
            raise SessionRefused(503, "no_capacity", "Too many sessions are open. Sign each order.")

    def _forget(self, session: Session) -> None:
        del self._by_id[session.session_id]
        own = self._by_gateway[session.gateway]
        del own[session.session_id]
        if not own:
            del self._by_gateway[session.gateway]


def _parse_offer(body: bytes) -> Signed:
    """A Signed from JSON. Raises SessionRefused."""
    if len(body) > OFFER_BYTES_MAX:
        raise SessionRefused(
            413, "body_too_large", f"A session offer has at most {OFFER_BYTES_MAX} bytes."
        )
    try:
        return parse_signed(_decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, SpecError, RecursionError) as error:
        raise SessionRefused(
            400, "bad_session", "The session offer is not a signed message."
        ) from error


def _bad(error: SpecError) -> SessionRefused:
    return SessionRefused(400, "bad_session", f"The session offer does not hold: {error}.")
