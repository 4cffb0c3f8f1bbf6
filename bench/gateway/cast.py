"""Who plays in the bench: fixed keys, the chute that is asked for, and what a request looks like.

The keys are no secrets: they exist for the length of a run, on this machine alone.
"""

import json
from dataclasses import replace

from penstock.kit.keys import Ed25519Key
from penstock.spec.messages import Limits, Manifest, Modality, Offer, Tier, chute_id
from penstock.spec.units import Price

OPERATOR, GATEWAY, OWNER, MINER = (Ed25519Key(bytes([n]) * 32) for n in (1, 2, 3, 4))
GATEWAY_SEED = bytes([2]) * 32
API_KEY = "sk-penstock-" + "b" * 48
MODEL = "bench"
BODY_BYTES = 1024
CHAT_PATH = "/v1/chat/completions"
INSTANCES = 4
"""So that the gateway has something to choose among; all of them are the mock."""
PRICE = Price(
    request=1_000,
    prompt=50_000_000,
    cached=50_000_000,
    completion=200_000_000,
    images=0,
    audio_ms=0,
)
MANIFEST = Manifest(
    name=MODEL,
    owner=OWNER.identity,
    modality=Modality.CHAT,
    engine="openai-http",
    source="builtin:echo",
    model_digest="",
    limits=Limits(context_tokens_max=32_768, output_tokens_max=4_096, parallel_max=4_096),
    price_max=PRICE,
    hardware="cpu",
    instances_min=1,
    instances_max=INSTANCES,
)


def offer(number: int, *, endpoint: str, now_ms: int, ttl_ms: int, seq: int) -> Offer:
    """The offer of one instance of the mock."""
    first = Offer(
        instance="bench-1",
        miner=MINER.identity,
        chute=chute_id(MANIFEST),
        endpoint=endpoint,
        price=PRICE,
        room=MANIFEST.limits.parallel_max,
        hardware="cpu",
        device="bench-1",
        tier=Tier.OPEN,
        issued_ms=now_ms,
        valid_until_ms=now_ms + ttl_ms,
        seq=seq,
    )
    return replace(first, instance=f"bench-{number}", device=f"bench-{number}")


def request(port: int, *, api_key: str, chunks: int = 0, interval_us: int = 0) -> bytes:
    """A whole HTTP request of BODY_BYTES of JSON; with `chunks` it asks for a stream."""
    plan = f"bench:{chunks}:{interval_us}; " if chunks else ""
    body = _body(plan, is_stream=bool(chunks))
    body = _body(plan + _filler(BODY_BYTES - len(body)), is_stream=bool(chunks))
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {api_key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def _body(text: str, *, is_stream: bool) -> str:
    fields = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 1024,
        "stream": is_stream,
    }
    return json.dumps(fields, separators=(",", ":"))


def _filler(chars: int) -> str:
    words = "water flows downhill through every open gate "
    return (words * (chars // len(words) + 1))[:chars]
