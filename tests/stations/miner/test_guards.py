"""What a miner guards itself with: replays, the market's word, odd bodies, hostile engines."""

import json
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MANIFEST, OWNER, ToyKey, make_order, toy_verify

from penstock.gateway.bodies import CHOICES_MAX, COMPLETIONS_PATH, parse_body
from penstock.gateway.errors import GatewayError
from penstock.kit.engine import Capability
from penstock.miner.answers import Whole, whole_answer
from penstock.miner.charter import DELEGATIONS_MAX, Trust
from penstock.miner.config import parse_config
from penstock.miner.errors import ConfigInvalid, PeerRefused, RequestUnservable
from penstock.miner.normalise import COUNT_MAX, StreamReader, read_counts
from penstock.miner.policy import PricePolicy, asked_price
from penstock.miner.replay import ReplayGuard
from penstock.miner.rewrite import STEERING, Prepared, prepare
from penstock.spec.canon import to_plain
from penstock.spec.keys import Delegation, Role, Signed, sign
from penstock.spec.messages import Charter
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.units import PPM, Price

OPERATOR, STRANGER, WORKING = ToyKey("operator"), ToyKey("stranger"), ToyKey("working key")
ALL = frozenset(Capability)
NOW_MS = 1_000_000
PRICE = Price(request=7, prompt=101, cached=11, completion=997, images=1, audio_ms=3)


class TestReplays:
    def test_an_order_is_seen_until_its_second_is_over(self) -> None:
        guard = ReplayGuard()
        guard.remember("o-1", deadline_ms=5_999, now_ms=0)
        guard.remember("o-2", deadline_ms=6_000, now_ms=5_999)
        assert guard.has_seen("o-1")
        guard.remember("o-3", deadline_ms=9_000, now_ms=6_000)
        assert not guard.has_seen("o-1")
        assert guard.has_seen("o-2")

    def test_a_full_guard_makes_room_only_by_time(self) -> None:
        guard = ReplayGuard(orders_max=3)
        for number in range(3):
            guard.remember(f"o-{number}", deadline_ms=1_000 * (number + 1), now_ms=0)
        assert guard.is_full(now_ms=1_999)
        assert not guard.is_full(now_ms=2_000)
        assert len(guard) == 2

    def test_a_clock_that_jumps_back_forgets_nothing(self) -> None:
        guard = ReplayGuard()
        guard.remember("o-1", deadline_ms=5_000, now_ms=4_000)
        guard.remember("o-2", deadline_ms=9_000, now_ms=-60_000)
        assert guard.has_seen("o-1")

    @given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 500)), max_size=60))
    def test_no_living_order_is_ever_forgotten(self, orders: list[tuple[int, int]]) -> None:
        guard, now_ms, living = ReplayGuard(), 0, {}
        for number, (lifetime_ms, step_ms) in enumerate(orders):
            now_ms += step_ms
            living[f"o-{number}"] = now_ms + lifetime_ms
            guard.remember(f"o-{number}", deadline_ms=now_ms + lifetime_ms, now_ms=now_ms)
            assert all(guard.has_seen(one) for one, end in living.items() if end >= now_ms)
        assert not guard.is_full(now_ms=now_ms)


def charter(**changes: Any) -> Charter:
    made = Charter(
        origin="log.example",
        network=LOCAL.network,
        params_digest=params_digest(LOCAL),
        operator=OPERATOR.identity,
        ledger=ToyKey("ledger").identity,
        market=ToyKey("market").identity,
        gateways=(GATEWAY.identity, OWNER.identity),
        seats=(),
    )
    return replace(made, **changes)


def delegation(owner: ToyKey, **changes: Any) -> dict[str, Any]:
    given_ = Delegation(owner.identity, WORKING.identity, Role.GATEWAY, NOW_MS + 1_000)
    plain: dict[str, Any] = to_plain(sign("delegation", replace(given_, **changes), owner))
    return plain


def info(signed: Signed, delegations: object = ()) -> dict[str, Any]:
    listed = list(delegations) if isinstance(delegations, tuple) else delegations
    return {"charter": to_plain(signed), "delegations": listed, "now_ms": NOW_MS}


class TestTrust:
    def test_before_a_charter_nobody_may_order(self) -> None:
        assert not Trust(toy_verify).is_gateway(GATEWAY.identity, now_ms=NOW_MS)

    def test_the_first_operator_is_pinned_and_another_changes_nothing(self) -> None:
        trust = Trust(toy_verify)
        trust.learn(info(sign("charter", charter(), OPERATOR)), now_ms=NOW_MS)
        evil = charter(operator=STRANGER.identity, gateways=(STRANGER.identity,))
        with pytest.raises(PeerRefused) as caught:
            trust.learn(info(sign("charter", evil, STRANGER)), now_ms=NOW_MS)
        assert caught.value.code == "operator_changed"
        assert trust.is_gateway(GATEWAY.identity, now_ms=NOW_MS)
        assert not trust.is_gateway(STRANGER.identity, now_ms=NOW_MS)

    def test_a_pinned_operator_is_believed_from_the_first(self) -> None:
        trust = Trust(toy_verify, operator=STRANGER.identity)
        with pytest.raises(PeerRefused):
            trust.learn(info(sign("charter", charter(), OPERATOR)), now_ms=NOW_MS)
        assert trust.charter is None

    @pytest.mark.parametrize(
        "said",
        [
            {},
            {"charter": None},
            {"charter": "x"},
            info(sign("charter", charter(), STRANGER)),
            info(sign("offer", charter(), OPERATOR)),
            info(replace(sign("charter", charter(), OPERATOR), signature="00")),
        ],
    )
    def test_a_charter_that_does_not_hold_leaves_the_old_one(self, said: dict[str, Any]) -> None:
        trust = Trust(toy_verify)
        trust.learn(info(sign("charter", charter(), OPERATOR)), now_ms=NOW_MS)
        with pytest.raises(PeerRefused):
            trust.learn(said, now_ms=NOW_MS)
        assert trust.is_gateway(GATEWAY.identity, now_ms=NOW_MS)

    def test_a_delegated_key_may_order_until_its_last_moment(self) -> None:
        trust = Trust(toy_verify)
        said = info(sign("charter", charter(), OPERATOR), (delegation(OWNER),))
        trust.learn(said, now_ms=NOW_MS)
        assert trust.is_gateway(WORKING.identity, now_ms=NOW_MS + 1_000)
        assert not trust.is_gateway(WORKING.identity, now_ms=NOW_MS + 1_001)

    def test_a_delegation_that_is_withdrawn_is_over(self) -> None:
        trust = Trust(toy_verify)
        signed = sign("charter", charter(), OPERATOR)
        trust.learn(info(signed, (delegation(OWNER),)), now_ms=NOW_MS)
        trust.learn(info(signed), now_ms=NOW_MS)
        assert not trust.is_gateway(WORKING.identity, now_ms=NOW_MS)

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            {},
            delegation(STRANGER),
            delegation(OWNER, role=Role.MINER),
            delegation(OWNER, not_after_ms=NOW_MS - 1),
            {**delegation(OWNER), "signature": "00"},
        ],
    )
    def test_a_delegation_that_does_not_hold_gives_no_key_and_hides_no_other(
        self, bad: Any
    ) -> None:
        trust = Trust(toy_verify)
        other = delegation(OWNER, key=STRANGER.identity)
        said = info(sign("charter", charter(), OPERATOR), (bad, other))
        trust.learn(said, now_ms=NOW_MS)
        assert not trust.is_gateway(WORKING.identity, now_ms=NOW_MS)
        assert trust.is_gateway(STRANGER.identity, now_ms=NOW_MS)

    @pytest.mark.parametrize("listed", [None, "x", 5, {"a": 1}])
    def test_delegations_of_another_shape_are_none(self, listed: object) -> None:
        trust = Trust(toy_verify)
        trust.learn(info(sign("charter", charter(), OPERATOR), listed), now_ms=NOW_MS)
        assert not trust.is_gateway(WORKING.identity, now_ms=NOW_MS)

    def test_a_flood_of_delegations_is_cut_at_the_bound(self) -> None:
        trust = Trust(toy_verify)
        flood = [None] * DELEGATIONS_MAX
        said = info(sign("charter", charter(), OPERATOR), [*flood, delegation(OWNER)])
        trust.learn(said, now_ms=NOW_MS)
        assert not trust.is_gateway(WORKING.identity, now_ms=NOW_MS)


PROMPTS = st.one_of(
    st.text(max_size=3),
    st.lists(st.text(max_size=3), min_size=1, max_size=6),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=6),
    st.lists(st.one_of(st.integers(0, 9), st.text(max_size=2), st.none()), min_size=1, max_size=4),
)
COUNTS = st.one_of(st.none(), st.integers(-2, CHOICES_MAX + 2))


def generation(fields: dict[str, Any], ceiling: int) -> dict[str, Any]:
    order = make_order(path=COMPLETIONS_PATH, stream=False, completion_max=ceiling)
    body = msgspec.json.encode(fields)
    made = prepare(body, order, manifest=MANIFEST, model="engine", capabilities=ALL)
    found: dict[str, Any] = msgspec.json.decode(made.body)
    return found


@given(PROMPTS, COUNTS, COUNTS, st.integers(1, 50), st.sampled_from(["max_tokens", "n_predict"]))
def test_what_the_gateway_lets_in_the_miner_keeps_within_the_orders_ceiling(
    prompt: Any, n: int | None, best_of: int | None, each: int, name: str
) -> None:
    """The two count answers apart from each other; were the miner's count lower, it would work
    beyond the ceiling and not be paid.
    """
    fields = {"model": "m", "prompt": prompt, "n": n, "best_of": best_of, name: 10**9}
    try:
        call = parse_body(COMPLETIONS_PATH, msgspec.json.encode({**fields, "max_tokens": each}))
    except GatewayError:
        return
    ceiling = each * call.choices
    try:
        bounded = generation(fields, ceiling)
    except RequestUnservable:
        return
    assert 1 <= bounded["max_tokens"] * call.choices <= ceiling
    assert bounded.get("n_predict", 0) <= bounded["max_tokens"]


@given(
    st.dictionaries(
        st.text(max_size=6).filter(
            lambda name: name not in {"model", "stream", "prompt", "n", "seed", "max_tokens"}
        ),
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
        max_size=5,
    )
)
def test_fields_that_nobody_knows_reach_the_engine_as_they_are(fields: dict[str, Any]) -> None:
    known = STEERING | {"tools", "logprobs", "response_format", "best_of", "n_predict"}
    sent = {name: value for name, value in fields.items() if name not in known}
    bounded = generation({**sent, "prompt": "x"}, 50)
    assert {name: bounded[name] for name in sent} == sent


def whole_of(data: bytes) -> Whole | None:
    return whole_answer(data, "application/json", prepared=Prepared(b""), manifest=MANIFEST)


def reader() -> StreamReader:
    return StreamReader.of("tiny-chat", Prepared(b"", shows_usage=True, hidden=frozenset()))


DEEP = b"[" * 5_000 + b"]" * 5_000


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"5", b"[]", DEEP, b'{"error": 1}'])
def test_an_event_of_the_engine_that_is_none_is_its_failure(payload: bytes) -> None:
    (step,) = reader().feed(b"data: " + payload + b"\n\n")
    assert step.failed
    assert step.data == b""
    assert whole_of(payload) is None


@given(st.binary(max_size=60))
def test_an_engine_can_say_anything_without_a_crash(payload: bytes) -> None:
    for step in reader().feed(b"data: " + payload + b"\n\n"):
        assert step.failed or step.data.startswith(b"data: {")
    whole = whole_of(payload)
    assert whole is None or whole.body.startswith(b"{")


@pytest.mark.parametrize("value", [-1, 1.5, "9", True, None, COUNT_MAX + 1, [], {}])
def test_a_count_that_cannot_be_one_is_nothing(value: Any) -> None:
    counts = read_counts({"usage": {"prompt_tokens": value, "completion_tokens": value}})
    assert counts is not None
    assert (counts.prompt, counts.completion, counts.cached) == (0, 0, 0)


def test_cached_tokens_are_never_more_than_the_prompt() -> None:
    usage = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}
    counts = read_counts({"usage": usage})
    assert counts is not None
    assert counts.cached == counts.prompt == 5


def test_llama_counts_the_cached_part_apart() -> None:
    counts = read_counts({"timings": {"prompt_n": 3, "cache_n": 4, "predicted_n": 5}})
    assert counts is not None
    assert (counts.prompt, counts.cached, counts.completion) == (7, 4, 5)
    assert read_counts({"usage": None, "timings": 5}) is None


@pytest.mark.parametrize(
    "choice",
    [{"text": ""}, {"delta": None}, {"delta": "x"}, {"delta": {"role": "assistant"}}, {}],
)
def test_an_event_without_a_part_of_the_answer_counts_for_nothing(choice: dict[str, Any]) -> None:
    event = msgspec.json.encode({"choices": [choice, 5, None]})
    (step,) = reader().feed(b"data: " + event + b"\n\n")
    assert not step.has_content
    assert not step.failed


@given(share_ppm=st.integers(0, PPM), target_ppm=st.integers(0, 3 * PPM), follow=st.booleans())
def test_an_asked_price_is_never_above_what_the_owner_allows(
    share_ppm: int, target_ppm: int, *, follow: bool
) -> None:
    asked = asked_price(PricePolicy(share_ppm, follow), PRICE, target_ppm=target_ppm)
    for name, ceiling in to_plain(PRICE).items():
        part = to_plain(asked)[name]
        assert 0 <= part <= ceiling
        if share_ppm == PPM and (not follow or target_ppm >= PPM):
            assert part == ceiling


@pytest.mark.parametrize("share_ppm", [-1, PPM + 1])
def test_a_share_beyond_the_whole_is_refused(share_ppm: int) -> None:
    with pytest.raises(ValueError, match="share_ppm"):
        PricePolicy(share_ppm)


GOOD: dict[str, Any] = {
    "name": "m-1",
    "network": "local",
    "market_url": "http://127.0.0.1:1",
    "home": "/h",
    "key_file": "/k",
    "auto": True,
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Big"}, "name"),
        ({"name": "a.b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\n"}, "name"),
        ({"network": "mars"}, "network"),
        ({"market_url": "127.0.0.1"}, "market_url"),
        ({"price_share_ppm": PPM + 1}, "price_share_ppm"),
        ({"price_share_ppm": -1}, "price_share_ppm"),
        ({"engine_threads": 0}, "engine_threads"),
        ({"instances_max": 0}, "instances_max"),
        ({"auto": False}, "auto"),
        ({"colour": 1}, "colour"),
        ({"port": "x"}, "port"),
        ({"tier": "best"}, "tier"),
        ({"bounds": {"claims_max": "x"}}, "claims_max"),
    ],
)
def test_each_mistake_in_a_miners_file_is_told(changes: dict[str, Any], told: str) -> None:
    assert parse_config(msgspec.json.encode(GOOD), place="m.json").auto
    with pytest.raises(ConfigInvalid, match=told):
        parse_config(msgspec.json.encode({**GOOD, **changes}), place="m.json")


def test_a_miners_file_may_be_toml_too() -> None:
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in GOOD.items()).encode()
    assert parse_config(text, place="m.toml") == parse_config(
        msgspec.json.encode(GOOD), place="m.json"
    )
    for place in ("m.toml", "m.json"):
        with pytest.raises(ConfigInvalid):
            parse_config(random.Random(1).randbytes(50), place=place)
