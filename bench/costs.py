"""Where the gateway's CPU goes: each piece of a request's way by itself, on real messages and keys.

Only the gateway's own code and its cryptography: what the kernel, the event loop and the NATS client
add is the difference to the gateway's CPU in the bench `way`.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import msgspec
from bench.figures import Figure
from bench.ground import question
from tests.makers import make_countersign, make_offer, make_receipt

from penstock.gateway.bodies import CHAT_PATH, parse_body
from penstock.gateway.choice import Asking, Chooser, Prompt
from penstock.gateway.config import Bounds
from penstock.gateway.field import Field
from penstock.gateway.instances import Instance
from penstock.gateway.orders import Ceilings, Orders, Placed, header_text, signed_json
from penstock.gateway.policy import prove
from penstock.gateway.records import Recorder
from penstock.gateway.tally import Tally
from penstock.kit.clock import SystemClock
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.metrics import Metrics
from penstock.kit.wire.intake import Intake
from penstock.kit.wire.limits import IntakeLimits
from penstock.sim.bus import MemoryBus
from penstock.spec.canon import encode, from_plain
from penstock.spec.keys import Signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Offer
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Record
from penstock.spec.routing import Need

GATEWAY, MINER = Ed25519Key(b"\1" * 32), Ed25519Key(b"\2" * 32)
API_KEY = "sk-penstock-" + "0" * 48
INSTANCES = 3
ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Water flows down."}}]}'
CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" water"},"finish_reason":null}]}\n\n'
)
ROUNDS, ROUNDS_QUICK = 2_000, 50


def measure(*, quick: bool) -> list[Figure]:
    """CPU microseconds of each piece."""
    rounds = ROUNDS_QUICK if quick else ROUNDS
    body = json.dumps(question("tiny-chat", words=8)).encode()
    placing, placed = _placing(body)
    tally, receipt = _whole(placed)
    pieces: dict[str, Callable[[], object]] = {
        "parse the request's HTTP": _http(body),
        "hash the key": lambda: sha256(API_KEY.encode()).hexdigest(),
        "read the body": lambda: parse_body(CHAT_PATH, body),
        f"choose of {INSTANCES} instances": _ranking(),
        "place the order (one signature)": placing,
        "prove the receipt (one check)": _proving(placed, tally),
        "countersign (one signature)": _countersigning(placed, receipt),
        "two signed headers": lambda: (header_text(receipt), placed.head_lines()),
        "queue the record": _recording(placed, receipt),
    }
    figures = [Figure(name, "CPU", "us/request", _timed(do, rounds)) for name, do in pieces.items()]
    streamed = Tally()
    figures.append(Figure("sum", "CPU", "us/request", sum(one.value for one in figures)))
    for name, do in (
        ("one signature", lambda: GATEWAY.sign(bytes(32))),
        ("one check", _checking()),
        ("one streamed chunk, counted and hashed", lambda: streamed.feed(CHUNK)),
    ):
        figures.append(Figure(name, "CPU", "us", _timed(do, rounds)))
    return figures


def _timed(do: Callable[[], object], rounds: int) -> float:
    """CPU of one round: the best of three, so that other work on the machine shows least."""
    best = float("inf")
    for _ in range(3):
        before = time.process_time()
        for _ in range(rounds):
            do()
        best = min(best, (time.process_time() - before) * 1_000_000 / rounds)
    return best


def _http(body: bytes) -> Callable[[], object]:
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nhost: 127.0.0.1:8400\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {API_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    intake, data = Intake(IntakeLimits()), head.encode() + body
    return lambda: intake.feed(data)


def _placing(body: bytes) -> tuple[Callable[[], object], Placed]:
    orders = Orders(
        clock=SystemClock(), sign=GATEWAY, entropy=os.urandom, params=LOCAL, tag_secret=b"\3" * 32
    )
    call = parse_body(CHAT_PATH, body)
    offer = _offer(1)
    bounds = Ceilings(prompt_max=len(body), completion_max=50)

    def place() -> Placed:
        return orders.place(call, offer, bounds=bounds, account="ann")

    return place, place()


def _offer(number: int) -> Offer:
    instance = f"miner-{number}"
    signed = make_offer(instance=instance, miner=MINER.identity, valid_until_ms=2**50)
    return from_plain(Offer, signed.body)


def _ranking() -> Callable[[], object]:
    field = Field()
    for number in range(INSTANCES):
        field.add(Instance(_offer(number), pace_ns=100_000))
    need = Need(chute=field.instances[0].chute, price_max=None)
    chooser, prompt = Chooser(), Prompt(marks=(), tokens=25, completion_max=50)
    asking = Asking(need=need, now_ms=0, seed=7)
    return lambda: chooser.choose(field, prompt, asking)


def _whole(placed: Placed) -> tuple[Tally, Signed]:
    """An answer that was seen, and the receipt that fits it."""
    tally = Tally()
    tally.take_whole(ANSWER)
    receipt = make_receipt(
        placed.order,
        order_digest=placed.digest,
        response_digest=tally.digest,
        response_bytes=len(ANSWER),
    )
    signed = sign("receipt", receipt, MINER)
    tally.receipt = signed_json(signed)
    return tally, signed


def _proving(placed: Placed, tally: Tally) -> Callable[[], object]:
    proven = prove(placed, tally, is_error=False, verify=verify)
    assert proven.is_match, "the piece that is timed is the one that succeeds"
    return lambda: prove(placed, tally, is_error=False, verify=verify)


def _countersigning(placed: Placed, receipt: Signed) -> Callable[[], object]:
    said = replace(make_countersign(placed.order, receipt), order_digest=placed.digest)

    def countersign() -> Signed:
        named = replace(said, receipt_digest=signed_digest(receipt))
        return sign("countersign", named, GATEWAY)

    return countersign


def _recording(placed: Placed, receipt: Signed) -> Callable[[], object]:
    recorder = Recorder(
        bus=MemoryBus(), name="gw", bounds=Bounds(recent_max=100), metrics=Metrics()
    )
    said = sign("countersign", make_countersign(placed.order, receipt), GATEWAY)
    record = Record(
        order=parse_signed(msgspec.json.decode(placed.signed_json())),
        receipt=receipt,
        checkpoint=None,
        countersign=said,
    )
    data = encode(record)
    return lambda: recorder.add("o-1", data, account="ann", lease_id="l-" + "0" * 32)


def _checking() -> Callable[[], object]:
    digest = b"\0" * 32
    signature = MINER.sign(digest)
    return lambda: verify(MINER.identity, digest, signature)
