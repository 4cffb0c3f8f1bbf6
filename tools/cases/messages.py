"""Messages: the id of a chute, and which manifests, offers and orders hold."""

from typing import Any

from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import parse_signed, sign
from penstock.spec.messages import (
    PRICE_NANO_MAX,
    TOKENS_MAX,
    UNITS_MAX,
    Limits,
    Manifest,
    Modality,
    Offer,
    Order,
    Tier,
    check_manifest,
    check_offer,
    check_order,
    chute_id,
    is_name,
)
from penstock.spec.units import Price

OWNER, MINER, GATEWAY = (Ed25519Key(letter * 32) for letter in (b"o", b"m", b"g"))
PRICE = Price(request=0, prompt=50_000, cached=10_000, completion=200_000, images=0, audio_ms=0)
BODY_DIGEST = "ab" * 32
MANIFEST = to_plain(
    Manifest(
        name="tiny-chat",
        owner=OWNER.identity,
        modality=Modality.CHAT,
        engine="echo",
        source="builtin:echo",
        model_digest="",
        limits=Limits(context_tokens_max=1024, output_tokens_max=256, parallel_max=4),
        price_max=PRICE,
        hardware="cpu",
        instances_min=1,
        instances_max=8,
    )
)
OFFER = to_plain(
    Offer(
        instance="m-1",
        miner=MINER.identity,
        chute="sha256:" + "cd" * 32,
        endpoint="http://127.0.0.1:1",
        price=PRICE,
        room=4,
        hardware="cpu",
        device="d1",
        tier=Tier.OPEN,
        issued_ms=1_000,
        valid_until_ms=5_000,
        seq=1,
    )
)
ORDER = to_plain(
    Order(
        order_id="o-" + "00" * 16,
        gateway=GATEWAY.identity,
        miner=MINER.identity,
        instance="m-1",
        chute="sha256:" + "cd" * 32,
        payer_tag="p",
        path="/v1/chat/completions",
        stream=True,
        request_digest=BODY_DIGEST,
        price=PRICE,
        prompt_max=100,
        completion_max=50,
        images_max=0,
        audio_ms_max=0,
        charge_max=15,
        issued_ms=1_000,
        deadline_ms=61_000,
        seed=7,
        nonce="n",
        decision_digest="",
    )
)


def run_manifest(given: Any) -> str:
    manifest = from_plain(Manifest, given)
    check_manifest(manifest)
    return chute_id(manifest)


def run_is_name(given: str) -> bool:
    return is_name(given)


def run_check_offer(given: Any) -> Any:
    signed = parse_signed(given["signed"])
    return to_plain(check_offer(signed, now_ms=given["now_ms"], skew_max_ms=100, verify=verify))


def run_check_order(given: Any) -> Any:
    signed = parse_signed(given["signed"])
    return to_plain(
        check_order(signed, body_digest=given["body_digest"], now_ms=given["now_ms"], verify=verify)
    )


def offered(now_ms: int = 1_000, **changes: Any) -> Any:
    offer = from_plain(Offer, {**OFFER, **changes})
    return {"signed": to_plain(sign("offer", offer, MINER)), "now_ms": now_ms}


def ordered(now_ms: int = 2_000, key: Ed25519Key = GATEWAY, **changes: Any) -> Any:
    order = from_plain(Order, {**ORDER, **changes})
    signed = to_plain(sign("order", order, key))
    return {"signed": signed, "body_digest": BODY_DIGEST, "now_ms": now_ms}


def forged(given: Any, **changes: Any) -> Any:
    signed = given["signed"]
    return {**given, "signed": {**signed, "body": {**signed["body"], **changes}}}


FUNCTIONS = {
    "chute_id": (
        run_manifest,
        {
            "tiny_chat": MANIFEST,
            "another_name_is_another_chute": {**MANIFEST, "name": "other"},
            "bad_name": {**MANIFEST, "name": "Tiny Chat"},
            "bad_owner": {**MANIFEST, "owner": "me"},
            "no_limits": {**MANIFEST, "limits": {**MANIFEST["limits"], "parallel_max": 0}},
            "too_many_tokens": {
                **MANIFEST,
                "limits": {**MANIFEST["limits"], "output_tokens_max": TOKENS_MAX + 1},
            },
            "negative_price": {**MANIFEST, "price_max": {**to_plain(PRICE), "request": -1}},
            "price_too_high": {
                **MANIFEST,
                "price_max": {**to_plain(PRICE), "prompt": PRICE_NANO_MAX + 1},
            },
            "more_instances_than_at_most": {**MANIFEST, "instances_min": 9},
            "a_field_is_missing": {key: MANIFEST[key] for key in MANIFEST if key != "engine"},
        },
    ),
    "is_name": (
        run_is_name,
        {"words": "qwen/qwen3-8b.gguf_q4", "empty": "", "space": "a b", "dash_first": "-a"},
    ),
    "check_offer": (
        run_check_offer,
        {
            "in_its_last_millisecond": offered(now_ms=5_000),
            "over": offered(now_ms=5_001),
            "from_the_future_within_the_skew": offered(now_ms=900),
            "from_the_future": offered(now_ms=899),
            "not_by_its_miner": offered(miner=OWNER.identity),
            "negative_room": offered(room=-1),
            "changed_after_signing": forged(offered(), room=5),
        },
    ),
    "check_order": (
        run_check_order,
        {
            "in_its_last_millisecond": ordered(now_ms=61_000),
            "over": ordered(now_ms=61_001),
            "for_other_bytes": {**ordered(), "body_digest": "00" * 32},
            "not_by_its_gateway": ordered(key=MINER),
            "negative_ceiling": ordered(charge_max=-1),
            "more_units_than_any_order_has": ordered(completion_max=UNITS_MAX + 1),
            "changed_after_signing": forged(ordered(), charge_max=16),
        },
    ),
}
