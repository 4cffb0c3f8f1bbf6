"""What the market and the ledger say is believed only as far as it holds."""

from dataclasses import replace
from typing import Any

import pytest
from tests.makers import GATEWAY, MANIFEST, OWNER, ToyKey, make_order, toy_verify
from tests.stations.miner.world import CHARTER, OPERATOR

from penstock.kit.errors import ConnectFailed
from penstock.kit.wire.client import Reply
from penstock.miner.charter import Trust
from penstock.miner.errors import PeerDown, PeerRefused
from penstock.miner.market import Verdict, ask, claim
from penstock.miner.statement import state
from penstock.miner.store import Claim
from penstock.miner.view import read_view
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Manifest, chute_id
from penstock.spec.units import PPM

CHUTE = chute_id(MANIFEST)


def listed(manifest: Manifest = MANIFEST, key: ToyKey = OWNER, **changes: Any) -> dict[str, Any]:
    entry = {
        "chute": chute_id(manifest),
        "name": manifest.name,
        "manifest": to_plain(sign("manifest", manifest, key)),
        "target": {"instances": 3, "price_ppm": PPM // 2},
        "serving": 0,
    }
    return {**entry, **changes}


def seen(*chutes: Any, miners: Any = (), known: dict[str, Manifest] | None = None) -> Any:
    targets = {"chutes": list(chutes), "miners": ["a", 7, "b"]}
    return read_view(targets, {"miners": miners}, known=known or {}, verify=toy_verify)


def test_a_chute_is_seen_with_its_target_its_price_and_who_serves_it() -> None:
    miners = [
        {"miner": "a", "instances": [{"chute": CHUTE}, {"chute": CHUTE}, {"chute": "sha256:x"}]},
        {"miner": "b", "instances": [{"chute": CHUTE}, "noise"]},
        {"miner": 5, "instances": [{"chute": CHUTE}]},
        "noise",
    ]
    view = seen(listed(), miners=miners)
    (chute,) = view.chutes
    assert (chute.chute, chute.manifest, chute.wanted_instances) == (CHUTE, MANIFEST, 3)
    assert chute.servers == ("a", "a", "b")
    assert chute.missing == 0
    assert view.miners == ("a", "b")
    assert view.multiplier(CHUTE) == PPM // 2
    assert view.multiplier("sha256:other") == PPM


@pytest.mark.parametrize(
    "entry",
    [
        listed(chute="sha256:" + "0" * 64),
        listed(chute=None),
        listed(key=ToyKey("thief")),
        listed(manifest=replace(MANIFEST, name="Not A Name")),
        listed() | {"manifest": None},
        "noise",
        {},
    ],
)
def test_a_chute_whose_manifest_does_not_hold_is_not_seen(entry: Any) -> None:
    assert seen(entry).chutes == ()


@pytest.mark.parametrize(
    "target", [None, [], {"instances": -1, "price_ppm": 0}, {"instances": "9"}]
)
def test_a_target_that_says_nothing_sensible_wants_nothing(target: Any) -> None:
    view = seen(listed(target=target))
    assert view.chutes[0].wanted_instances == 0
    assert view.multiplier(CHUTE) == PPM


def test_a_manifest_that_was_checked_before_is_not_checked_again() -> None:
    view = seen(listed() | {"manifest": None}, known={CHUTE: MANIFEST})
    assert view.chutes[0].manifest == MANIFEST


@pytest.mark.parametrize("answer", [{}, {"chutes": None, "miners": 3}, {"chutes": [None, 1]}])
def test_an_empty_answer_is_an_empty_view(answer: dict[str, Any]) -> None:
    view = read_view(answer, {}, known={}, verify=toy_verify)
    assert (view.chutes, view.miners) == ((), ())


class Wire:
    """Implements Call with one answer."""

    def __init__(self, answer: Reply | Exception) -> None:
        self.answer = answer

    async def call(self, *_: Any, **__: Any) -> Reply:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def replied(status: int, body: bytes) -> Wire:
    return Wire(Reply(status, {}, body))


async def asked(wire: Wire) -> dict[str, Any]:
    return await ask(wire, "market", ("GET", "http://m/v1/info"), body=b"", deadline_ms=1)


@pytest.mark.parametrize(
    "wire",
    [
        Wire(ConnectFailed("m", 80)),
        replied(500, b"{}"),
        replied(200, b"<html>"),
        replied(200, b"[]"),
        replied(200, b"\xff"),
    ],
)
async def test_a_peer_without_a_usable_answer_is_down(wire: Wire) -> None:
    with pytest.raises(PeerDown) as caught:
        await asked(wire)
    assert "market" in str(caught.value)


async def test_a_peers_refusal_carries_its_code() -> None:
    with pytest.raises(PeerRefused) as caught:
        await asked(replied(409, b'{"error": {"code": "stale_offer", "message": "older"}}'))
    assert (caught.value.status, caught.value.code) == (409, "stale_offer")
    with pytest.raises(PeerRefused) as caught:
        await asked(replied(400, b'{"error": "text"}'))
    assert caught.value.code == ""


async def test_an_empty_answer_is_an_empty_object() -> None:
    assert await asked(replied(200, b"")) == {}


async def test_the_ledgers_verdicts_are_read_and_noise_is_left_out() -> None:
    body = b'{"claims": [{"order_id": "o-1", "state": "posted"}, {"order_id": 5}, "noise"]}'
    order = state("order", make_order(), signer="g", signature="x")
    one = Claim("o-1", order, order)
    verdicts = await claim(replied(200, body), "http://l/", [one], deadline_ms=1)
    assert verdicts == [Verdict("o-1", "posted")]
    assert await claim(replied(200, b"{}"), "http://l", [one], deadline_ms=1) == []


@pytest.mark.parametrize(
    ("state", "is_settled"),
    [("posted", True), ("accepted", True), ("rejected", True), ("waiting", False), ("new", False)],
)
def test_only_final_words_of_the_ledger_settle_a_claim(*, state: str, is_settled: bool) -> None:
    assert Verdict("o-1", state).is_settled is is_settled


def test_the_first_operator_is_pinned_and_the_last_good_charter_stays() -> None:
    trust = Trust(verify=toy_verify)
    assert not trust.is_gateway(GATEWAY.identity, now_ms=0)
    trust.learn({"charter": to_plain(sign("charter", CHARTER, OPERATOR))}, now_ms=0)
    assert trust.is_gateway(GATEWAY.identity, now_ms=0)
    thief = ToyKey("thief")
    other = replace(CHARTER, operator=thief.identity, gateways=(thief.identity,))
    for charter in (
        to_plain(sign("charter", other, thief)),
        to_plain(sign("charter", CHARTER, thief)),
        None,
    ):
        with pytest.raises(PeerRefused):
            trust.learn({"charter": charter}, now_ms=0)
    assert trust.operator == OPERATOR.identity
    assert trust.is_gateway(GATEWAY.identity, now_ms=0)
    assert not trust.is_gateway(thief.identity, now_ms=0)


def test_an_operator_named_in_the_configuration_is_the_only_one() -> None:
    trust = Trust(verify=toy_verify, operator=ToyKey("mine").identity)
    with pytest.raises(PeerRefused) as caught:
        trust.learn({"charter": to_plain(sign("charter", CHARTER, OPERATOR))}, now_ms=0)
    assert caught.value.code == "operator_changed"
    assert trust.charter is None
