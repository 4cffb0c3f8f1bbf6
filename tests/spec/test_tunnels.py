"""Reverse connections: what both ends sign, what an endpoint may say, and what each side refuses."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MINER, OWNER, toy_verify

from penstock.spec.errors import BadMessage, BadSignature, Expired, NotCanonical, SpecError
from penstock.spec.keys import Signed, sign
from penstock.spec.tunnels import (
    GREETING_KIND,
    HELLO_KIND,
    HELLO_MS_MAX,
    PING_MS,
    SILENCE_MS,
    Reach,
    TunnelGreeting,
    TunnelHello,
    check_greeting,
    check_hello,
    endpoint_of,
    is_node,
    reach_of,
)

NOW_MS = 50_000
SKEW_MS = 100
CHANNEL, CHALLENGE = "ab" * 32, "cd" * 32
HELLO = TunnelHello(
    gateway=GATEWAY.identity, channel=CHANNEL, issued_ms=NOW_MS, expires_ms=NOW_MS + 1_000
)
GREETING = TunnelGreeting(
    miner=MINER.identity,
    node="gpu-1",
    gateway=GATEWAY.identity,
    channel=CHANNEL,
    challenge=CHALLENGE,
)


def said(key: Any = GATEWAY, **changes: Any) -> Signed:
    return sign(HELLO_KIND, replace(HELLO, **changes), key)


def hear(signed: Signed, *, channel: str = CHANNEL, now_ms: int = NOW_MS) -> TunnelHello:
    return check_hello(
        signed, channel=channel, now_ms=now_ms, skew_max_ms=SKEW_MS, verify=toy_verify
    )


def greeted(key: Any = MINER, **changes: Any) -> Signed:
    return sign(GREETING_KIND, replace(GREETING, **changes), key)


def admit(signed: Signed, *, challenge: str = CHALLENGE) -> TunnelGreeting:
    return check_greeting(signed, hello=HELLO, challenge=challenge, verify=toy_verify)


class TestEndpoints:
    @pytest.mark.parametrize(
        ("endpoint", "reach"),
        [
            ("http://1.2.3.4:80", None),
            ("https://a.example/base", None),
            ("tunnel", None),
            ("", None),
            ("tunnel:gpu-1", Reach("gpu-1", "")),
            ("tunnel:a@http://1.2.3.4:80", Reach("a", "http://1.2.3.4:80")),
            ("tunnel:a@https://[::1]:9/", Reach("a", "https://[::1]:9")),
        ],
    )
    def test_what_an_endpoint_means(self, endpoint: str, reach: Reach | None) -> None:
        assert reach_of(endpoint) == reach

    @pytest.mark.parametrize(
        "endpoint",
        [
            "tunnel:",
            "tunnel:-a",
            "tunnel:A",
            "tunnel:a.b",
            "tunnel:" + "a" * 33,
            "tunnel:a@",
            "tunnel:a@ftp://x",
            "tunnel:a@http://x/path",
            "tunnel:a@http://user@x",
            "tunnel:a@http://x?q",
            "tunnel:a@http://x\r\ny",
            "tunnel:a@tunnel:b",
            "tunnel:a\n",
        ],
    )
    def test_a_malformed_one_is_refused(self, endpoint: str) -> None:
        with pytest.raises(BadMessage, match="bad tunnel endpoint"):
            reach_of(endpoint)

    @given(
        node=st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
        direct=st.sampled_from(["", "http://1.2.3.4:5", "https://host.example"]),
    )
    def test_it_is_read_as_it_was_spelled(self, node: str, direct: str) -> None:
        assert is_node(node)
        assert reach_of(endpoint_of(Reach(node, direct))) == Reach(node, direct)

    def test_a_miner_hears_several_pings_before_it_gives_up(self) -> None:
        assert SILENCE_MS > 3 * PING_MS


class TestHello:
    def test_a_gateways_word_for_its_certificate(self) -> None:
        assert hear(said()) == HELLO

    @pytest.mark.parametrize("now_ms", [NOW_MS - SKEW_MS, HELLO.expires_ms + SKEW_MS])
    def test_clocks_may_differ_a_little(self, now_ms: int) -> None:
        assert hear(said(), now_ms=now_ms) == HELLO

    def test_another_certificate_means_somebody_in_between(self) -> None:
        with pytest.raises(BadMessage, match="in between"):
            hear(said(), channel="00" * 32)
        with pytest.raises(BadMessage, match="in between"):
            hear(said(), channel="")

    @pytest.mark.parametrize(
        ("signed", "now_ms", "error"),
        [
            (said(OWNER), NOW_MS, BadMessage),
            (said(gateway=OWNER.identity), NOW_MS, BadMessage),
            (said(), NOW_MS - SKEW_MS - 1, BadMessage),
            (said(), HELLO.expires_ms + SKEW_MS + 1, Expired),
            (said(expires_ms=NOW_MS), NOW_MS, BadMessage),
            (said(expires_ms=NOW_MS + HELLO_MS_MAX + 1), NOW_MS, BadMessage),
            (replace(said(), signature="00"), NOW_MS, BadSignature),
            (replace(said(), kind=GREETING_KIND), NOW_MS, BadSignature),
            (replace(said(), body={}), NOW_MS, SpecError),
        ],
    )
    def test_what_does_not_hold(self, signed: Signed, now_ms: int, error: type[SpecError]) -> None:
        with pytest.raises(error):
            hear(signed, now_ms=now_ms)

    def test_it_lasts_a_day_at_most(self) -> None:
        signed = said(expires_ms=NOW_MS + HELLO_MS_MAX)
        assert hear(signed).expires_ms == NOW_MS + HELLO_MS_MAX


class TestGreeting:
    def test_a_miners_word_for_this_connection(self) -> None:
        assert admit(greeted()) == GREETING

    @pytest.mark.parametrize(
        ("signed", "error"),
        [
            (greeted(OWNER), BadMessage),
            (greeted(miner=OWNER.identity), BadMessage),
            (greeted(node="Not/A.Node"), BadMessage),
            (greeted(gateway=OWNER.identity), BadMessage),
            (greeted(channel="00" * 32), BadMessage),
            (greeted(challenge="00" * 32), BadMessage),
            (replace(greeted(), signature="00"), BadSignature),
            (replace(greeted(), kind=HELLO_KIND), BadSignature),
            (replace(greeted(), body={"miner": MINER.identity}), SpecError),
        ],
    )
    def test_what_does_not_hold(self, signed: Signed, error: type[SpecError]) -> None:
        with pytest.raises(error):
            admit(signed)

    def test_a_replayed_one_answers_another_challenge(self) -> None:
        with pytest.raises(BadMessage, match="replayed"):
            admit(greeted(), challenge="ef" * 32)

    def test_an_empty_challenge_is_answered_by_nobody(self) -> None:
        with pytest.raises(BadMessage, match="replayed"):
            admit(greeted(challenge=""), challenge="")

    def test_a_field_too_many_is_refused(self) -> None:
        body = {**greeted().body, "more": 1}
        signed = Signed(GREETING_KIND, body, MINER.identity, "")
        with pytest.raises((NotCanonical, BadSignature)):
            admit(signed)
