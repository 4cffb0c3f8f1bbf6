"""Offers of sessions: who may open one, how many, how long it is kept."""

import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import GATEWAY, MINER, ToyKey, toy_verify
from tests.stations.miner.gate import Gate
from tests.stations.miner.test_sessions import OTHER, THIEF, ready_gate
from tests.stations.miner.world import CHARTER, OPERATOR, World, playing

from penstock.kit.handshake import new_exchange
from penstock.miner.charter import Trust
from penstock.miner.errors import SessionRefused
from penstock.miner.sessions import OFFER_AGE_MS_MAX, OFFER_BYTES_MAX, Sessions
from penstock.spec.canon import encode, to_plain
from penstock.spec.keys import sign
from penstock.spec.params import LOCAL
from penstock.spec.sessions import OFFER_KIND, SESSION_MS_MAX, SessionOffer

NOW_MS = 10_000_000


class FixedClock:
    """A clock that a test sets. Implements kit's Clock."""

    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return self.ms + self.ahead_ms

    def mono_us(self) -> int:
        return self.ms * 1000


class Table:
    """Sessions of a miner without its HTTP side, at a time of the test's choice."""

    def __init__(self, *, sessions_max: int = 100, gateway_sessions_max: int = 3) -> None:
        self.rng = random.Random(4)
        trust = Trust(toy_verify)
        charter = replace(CHARTER, gateways=(GATEWAY.identity, OTHER.identity))
        info = {"charter": to_plain(sign("charter", charter, OPERATOR))}
        trust.learn(info, now_ms=0)
        self.clock = FixedClock()
        self.sessions = Sessions(
            key=MINER,
            trust=trust,
            time=self.clock,
            entropy=self.rng.randbytes,
            params=LOCAL,
            sessions_max=sessions_max,
            gateway_sessions_max=gateway_sessions_max,
        )

    def offer(self, key: ToyKey = GATEWAY, **changes: Any) -> bytes:
        offer = SessionOffer(
            session_id="s-" + self.rng.randbytes(16).hex(),
            gateway=key.identity,
            miner=MINER.identity,
            exchange_key=new_exchange(self.rng.randbytes).public_hex,
            issued_ms=self.clock.ms,
            expires_ms=self.clock.ms + 100_000,
        )
        return encode(sign(OFFER_KIND, replace(offer, **changes), key))

    def refusal(self, body: bytes) -> tuple[int, str]:
        with pytest.raises(SessionRefused) as caught:
            self.sessions.open(body)
        return caught.value.status, caught.value.code

    def id_of(self, body: bytes) -> str:
        session_id: str = msgspec.json.decode(body)["body"]["session_id"]
        return session_id


class TestOffers:
    def test_the_same_offer_again_gets_the_same_answer_and_opens_nothing(self) -> None:
        table = Table()
        offer = table.offer()
        first = table.sessions.open(offer)
        session = table.sessions.find(table.id_of(offer), now_ms=NOW_MS)
        assert session is not None
        assert table.sessions.open(offer) == first
        again = table.sessions.find(table.id_of(offer), now_ms=NOW_MS)
        assert again is session
        assert len(table.sessions) == 1

    def test_an_id_is_not_taken_over_by_another_offer(self) -> None:
        table = Table()
        offer = table.offer()
        table.sessions.open(offer)
        for key in (GATEWAY, OTHER):
            other = table.offer(key, session_id=table.id_of(offer))
            assert table.refusal(other) == (409, "session_taken")

    @pytest.mark.parametrize(
        ("changes", "status", "code"),
        [
            ({"miner": THIEF.identity}, 400, "bad_session"),
            ({"gateway": OTHER.identity}, 400, "bad_session"),
            ({"session_id": "s-1"}, 400, "bad_session"),
            ({"exchange_key": "00" * 32}, 400, "bad_session"),
            ({"exchange_key": "zz" * 32}, 400, "bad_session"),
            ({"expires_ms": NOW_MS - 1, "issued_ms": NOW_MS - 10}, 400, "bad_session"),
            ({"expires_ms": NOW_MS + SESSION_MS_MAX + 1}, 400, "bad_session"),
            ({"issued_ms": NOW_MS + 60_000, "expires_ms": NOW_MS + 70_000}, 400, "bad_session"),
            ({"issued_ms": NOW_MS - OFFER_AGE_MS_MAX - 1}, 400, "bad_session"),
        ],
    )
    def test_an_offer_that_is_wrong_in_one_thing_is_refused(
        self, changes: dict[str, Any], status: int, code: str
    ) -> None:
        table = Table()
        assert table.refusal(table.offer(**changes)) == (status, code)
        assert len(table.sessions) == 0

    def test_strangers_forgers_and_nonsense_open_nothing(self) -> None:
        table = Table()
        assert table.refusal(table.offer(THIEF)) == (403, "gateway_unknown")
        fields = msgspec.json.decode(table.offer())
        forged = msgspec.json.encode({**fields, "signature": "00"})
        assert table.refusal(forged) == (400, "bad_session")
        as_order = msgspec.json.encode({**fields, "kind": "order"})
        assert table.refusal(as_order) == (400, "bad_session")
        for body in (b"", b"{", b"[]", b"{}", b"\xff", b"[" * 4_000):
            assert table.refusal(body) == (400, "bad_session")
        large = b" " * (OFFER_BYTES_MAX + 1)
        assert table.refusal(large) == (413, "body_too_large")

    def test_a_session_ends_at_its_time(self) -> None:
        table = Table()
        offer = table.offer()
        table.sessions.open(offer)
        session_id = table.id_of(offer)
        assert table.sessions.find(session_id, now_ms=NOW_MS + 100_000) is not None
        assert table.sessions.find(session_id, now_ms=NOW_MS + 100_001) is None
        assert len(table.sessions) == 0

    @pytest.mark.slow
    def test_ten_thousand_offers_of_one_gateway_hold_its_bound_and_leave_others_alone(self) -> None:
        """Slow: ten thousand key exchanges."""
        table = Table()
        others = table.offer(OTHER)
        table.sessions.open(others)
        for _ in range(10_000):
            table.sessions.open(table.offer())
            assert len(table.sessions) <= 4
        assert table.sessions.find(table.id_of(others), now_ms=NOW_MS) is not None

    def test_the_session_that_rested_longest_makes_room(self) -> None:
        table = Table()
        offers = [table.offer() for _ in range(3)]
        for offer in offers:
            table.sessions.open(offer)
        for one, used_ms in ((0, NOW_MS + 3), (1, NOW_MS + 1), (2, NOW_MS + 2)):
            assert table.sessions.find(table.id_of(offers[one]), now_ms=used_ms) is not None
        table.sessions.open(table.offer())
        held = [table.sessions.find(table.id_of(one), now_ms=NOW_MS + 4) for one in offers]
        assert [one is not None for one in held] == [True, False, True]

    def test_when_all_places_are_taken_only_time_makes_room(self) -> None:
        table = Table(sessions_max=2)
        table.sessions.open(table.offer())
        table.sessions.open(table.offer())
        assert table.refusal(table.offer(OTHER)) == (503, "no_capacity")
        table.clock.ms += 100_001
        table.sessions.open(table.offer(OTHER))
        assert len(table.sessions) == 1

    def test_a_key_is_not_shown_when_a_session_is_printed(self) -> None:
        table = Table()
        offer = table.offer()
        table.sessions.open(offer)
        session = table.sessions.find(table.id_of(offer), now_ms=NOW_MS)
        assert session is not None
        assert "key=b" not in repr(session)


def test_offers_are_answered_over_http_and_refusals_are_counted() -> None:
    async def scenario(world: World) -> None:
        await ready_gate(world)
        reply = await Gate.of(world).post("/v1/sessions", b"nonsense")
        assert reply.status == 400
        assert msgspec.json.decode(reply.body)["error"]["code"] == "bad_session"
        metrics = (await world.get("/metrics")).body
        assert b'miner_sessions_refused_total{code="bad_session"} 1' in metrics
        assert b"miner_sessions 1" in metrics

    playing(scenario)
