"""Weights: listings, the digests they give, and the signed questions of one miner to another."""

from typing import Any

from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import parse_signed, sign
from penstock.spec.weights import (
    ASK_KIND,
    ASK_MS_MAX,
    FILE_BYTES_MAX,
    LISTING_HEAD,
    PATH_CHARS_MAX,
    WeightFile,
    WeightsAsk,
    check_weights_ask,
    listing_digest,
    read_listing,
    spell_listing,
)

MINER, OTHER = Ed25519Key(b"m" * 32), Ed25519Key(b"o" * 32)
A, B = "0a" * 32, "0b" * 32
CONFIG = {"path": "config.json", "sha256": A, "size_bytes": 2}
WEIGHTS = {"path": "sub/model.safetensors", "sha256": B, "size_bytes": 1_000_000}
ASK = WeightsAsk(miner=MINER.identity, host="miner:8443", sha256=A, issued_ms=1_000)


def run_digest(given: Any) -> Any:
    return listing_digest([from_plain(WeightFile, one) for one in given])


def run_read(given: Any) -> Any:
    return [to_plain(one) for one in read_listing(bytes.fromhex(given))]


def run_ask(given: Any) -> Any:
    signed = parse_signed(given["signed"])
    found = check_weights_ask(
        signed, host=given["host"], now_ms=given["now_ms"], skew_max_ms=100, verify=verify
    )
    return to_plain(found)


def asked(now_ms: int = 1_000, host: str = "miner:8443", **changes: Any) -> Any:
    key = changes.pop("key", MINER)
    said = WeightsAsk(**{**to_plain(ASK), **changes})
    return {"signed": to_plain(sign(ASK_KIND, said, key)), "host": host, "now_ms": now_ms}


def path(text: str) -> list[dict[str, Any]]:
    return [{**CONFIG, "path": text}]


def spelled(*files: dict[str, Any]) -> bytes:
    return spell_listing([from_plain(WeightFile, one) for one in files])


FUNCTIONS = {
    "listing_digest": (
        run_digest,
        {
            "one": [CONFIG],
            "two": [CONFIG, WEIGHTS],
            "order_says_nothing": [WEIGHTS, CONFIG],
            "empty_file": [{**CONFIG, "size_bytes": 0}],
            "largest_file": [{**CONFIG, "size_bytes": FILE_BYTES_MAX}],
            "longest_path": path("a" * PATH_CHARS_MAX),
            "none": [],
            "twice": [CONFIG, CONFIG],
            "differs_in_case_only": [CONFIG, {**CONFIG, "path": "Config.json"}],
            "file_and_folder": [*path("a"), *path("a/b")],
            "escapes": path("../config.json"),
            "escapes_within": path("a/../config.json"),
            "absolute": path("/config.json"),
            "hidden": path(".config"),
            "backslash": path("a\\b"),
            "path_too_long": path("a" * (PATH_CHARS_MAX + 1)),
            "empty_path": path(""),
            "no_digest": [{**CONFIG, "sha256": A.upper()}],
            "size_below_nothing": [{**CONFIG, "size_bytes": -1}],
            "size_too_large": [{**CONFIG, "size_bytes": FILE_BYTES_MAX + 1}],
        },
    ),
    "read_listing": (
        run_read,
        {
            "two": spelled(CONFIG, WEIGHTS).hex(),
            "no_head": spelled(CONFIG)[len(LISTING_HEAD) :].hex(),
            "not_sorted": (
                LISTING_HEAD
                + b"["
                + spelled(WEIGHTS)[len(LISTING_HEAD) + 1 : -1]
                + b","
                + spelled(CONFIG)[len(LISTING_HEAD) + 1 : -1]
                + b"]"
            ).hex(),
            "another_spelling": (spelled(CONFIG) + b"\n").hex(),
            "a_field_too_many": (LISTING_HEAD + b'[{"path":"a","x":1}]').hex(),
            "no_json": (LISTING_HEAD + b"[").hex(),
            "empty": LISTING_HEAD.hex(),
        },
    ),
    "check_weights_ask": (
        run_ask,
        {
            "good": asked(),
            "last_moment": asked(now_ms=1_000 + ASK_MS_MAX),
            "expired": asked(now_ms=1_001 + ASK_MS_MAX),
            "from_the_future": asked(now_ms=899),
            "skewed": asked(now_ms=900),
            "of_another_miner": asked(host="other:1"),
            "signed_by_another": asked(key=OTHER),
            "no_digest": asked(sha256="x"),
            "changed": {
                **asked(),
                "signed": {**asked()["signed"], "body": {**to_plain(ASK), "sha256": B}},
            },
        },
    ),
}
