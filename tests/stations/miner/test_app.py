"""The miner as a process: real sockets, real files, a real engine, SIGTERM and kill -9."""

import asyncio
import base64
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine_makers import make_world
from tests.makers import MANIFEST
from tests.stations.miner.gate import Gate
from tests.stations.miner.world import CHARTER, header_of

from penstock.kit.clock import SystemClock
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.sse import EventSplitter, parse_comment
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.miner.app import engine_builder, main, this_machine
from penstock.miner.instance import Launch
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed, open_signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Limits, Manifest, Offer, Order, chute_id
from penstock.spec.params import LOCAL
from penstock.spec.pricing import charge_ceiling, prompt_units_max
from penstock.spec.receipts import Outcome, check_receipt

DEADLINE_S = 90
END_S = 20
CHAT = "/v1/chat/completions"
OPERATOR, GATEWAY, OWNER = (Ed25519Key(bytes([number]) * 32) for number in (1, 2, 3))
TINY = replace(
    MANIFEST,
    owner=OWNER.identity,
    engine="llamacpp",
    source="builtin:tiny-chat",
    limits=Limits(context_tokens_max=512, output_tokens_max=256, parallel_max=2),
)


class Peer:
    """A market and a ledger on a real port, played by hand."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.offers: list[Offer] = []
        self.withdrawn: list[str] = []
        self.claimed: list[str] = []
        self.ledger_up = True
        self.clock = SystemClock()
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Peer"]:
        routes = Routes()
        for method, path, handler in (
            ("GET", "/v1/info", self.info),
            ("POST", "/v1/offers", self.offer),
            ("DELETE", "/v1/offers/{instance}", self.withdraw),
            ("GET", "/v1/targets", self.targets),
            ("POST", "/v1/claims", self.claim),
        ):
            routes.add(method, path, handler)
        server = Server(Sockets(), routes, entropy=os.urandom)
        self.url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        try:
            yield self
        finally:
            await server.close(0)

    async def info(self, _request: Request) -> Response:
        charter = replace(CHARTER, operator=OPERATOR.identity, gateways=(GATEWAY.identity,))
        answer = {
            "charter": to_plain(sign("charter", charter, OPERATOR)),
            "delegations": [],
            "now_ms": self.clock.now_ms(),
            "ledger_url": self.url,
        }
        return json_response(200, answer)

    async def offer(self, request: Request) -> Response:
        signed = parse_signed(msgspec.json.decode(request.body)["offer"])
        self.offers.append(open_signed(Offer, signed, kind="offer", verify=verify))
        return json_response(200, {"now_ms": self.clock.now_ms(), "accepted": True})

    async def withdraw(self, request: Request) -> Response:
        self.withdrawn.append(request.params["instance"])
        return json_response(200, {})

    async def targets(self, _request: Request) -> Response:
        listed = {
            "chute": chute_id(self.manifest),
            "name": self.manifest.name,
            "manifest": to_plain(sign("manifest", self.manifest, OWNER)),
            "target": None,
            "serving": 0,
        }
        return json_response(200, {"targets": None, "chutes": [listed], "miners": []})

    async def claim(self, request: Request) -> Response:
        if not self.ledger_up:
            return Response(503)
        ids = [
            claim["order"]["body"]["order_id"]
            for claim in msgspec.json.decode(request.body)["claims"]
        ]
        self.claimed += ids
        states = [{"order_id": one, "state": "posted"} for one in ids]
        return json_response(200, {"claims": states})

    async def wait_offer(self) -> Offer:
        async with asyncio.timeout(DEADLINE_S):
            while not self.offers:
                await asyncio.sleep(0.05)
        return self.offers[-1]


@asynccontextmanager
async def miner_process(peer: Peer, home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The app, started; ended at the end if it still runs."""
    home.mkdir(exist_ok=True)
    config = {
        "name": "m",
        "network": "local",
        "market_url": peer.url,
        "home": str(home),
        "key_file": str(home / "key"),
        "chutes": ["tiny-chat"],
        "operator": OPERATOR.identity,
    }
    file = home / "config.json"
    file.write_bytes(msgspec.json.encode(config))
    with (home / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "penstock.miner.app", "--config", str(file), stderr=log
        )
    try:
        yield process
    finally:
        # Asked first: the engines of an agent that is killed outlive it by two minutes.
        for end in (process.terminate, process.kill):
            if process.returncode is None:
                end()
                with suppress(TimeoutError):
                    async with asyncio.timeout(END_S):
                        await process.wait()


def order_for(offer: Offer, body: bytes, *, order_id: str) -> Order:
    now_ms = SystemClock().now_ms()
    bounds = {"prompt_max": prompt_units_max(len(body)), "completion_max": 256}
    return Order(
        order_id=order_id,
        gateway=GATEWAY.identity,
        miner=offer.miner,
        instance=offer.instance,
        chute=offer.chute,
        payer_tag="p",
        path=CHAT,
        stream=b'"stream":true' in body,
        request_digest=hashlib.sha256(body).hexdigest(),
        price=offer.price,
        images_max=0,
        audio_ms_max=0,
        charge_max=charge_ceiling(offer.price, **bounds),
        issued_ms=now_ms,
        deadline_ms=now_ms + LOCAL.order_ttl_ms,
        seed=1,
        nonce="n",
        decision_digest="",
        **bounds,
    )


async def post(offer: Offer, body: bytes, *, order_id: str) -> tuple[Signed, Reply]:
    signed = sign("order", order_for(offer, body, order_id=order_id), GATEWAY)
    client = HttpClient(Sockets())
    try:
        reply = await client.call(
            "POST",
            offer.endpoint + CHAT,
            headers=(("x-penstock-order", header_of(signed)),),
            body=body,
            deadline_ms=DEADLINE_S * 1000,
        )
    finally:
        await client.close()
    return signed, reply


def chat(text: str, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return msgspec.json.encode({"model": "tiny-chat", "messages": messages, **fields})


def checked(signed: Signed, receipt: Any) -> Any:
    order = open_signed(Order, signed, kind="order", verify=verify)
    return check_receipt(
        parse_signed(receipt), order, order_digest=signed_digest(signed), verify=verify
    )


@pytest.mark.slow
async def test_a_real_engine_is_served_metered_and_drained(tmp_path: Path) -> None:
    """Slow because llama.cpp starts: about 2 s alone, more on a busy machine."""
    async with Peer(TINY).open() as peer, miner_process(peer, tmp_path / "m") as process:
        offer = await peer.wait_offer()
        body = chat("What is Penstock?", max_tokens=24, temperature=0)
        signed, reply = await post(offer, body, order_id="o-1")
        assert reply.status == 200, reply.body
        assert msgspec.json.decode(reply.body)["model"] == "tiny-chat"
        text = reply.header("x-penstock-receipt")
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        whole = checked(signed, msgspec.json.decode(data))
        assert whole.outcome is Outcome.COMPLETE
        assert 0 < whole.units.completion <= 24
        assert whole.units.prompt > 0
        streamed = chat("What is Penstock?", max_tokens=24, temperature=0, stream=True)
        signed, reply = await post(offer, streamed, order_id="o-2")
        events = EventSplitter().feed(reply.body)
        named = parse_comment(events[-1])
        assert named is not None
        receipt = checked(signed, msgspec.json.decode(named[1]))
        assert events[-2] == b"data: [DONE]\n\n"
        assert b"timings" not in reply.body
        assert b'"usage"' not in reply.body
        assert receipt.units.completion == whole.units.completion
        assert receipt.units.prompt == whole.units.prompt
        assert receipt.units.cached > 0, "the same prompt comes from llama.cpp's cache"
        assert receipt.response_digest == hashlib.sha256(b"".join(events[:-1])).hexdigest()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
        assert peer.withdrawn == [offer.instance]
        assert set(peer.claimed) == {"o-1", "o-2"}


async def cut(offer: Offer, order_id: str) -> None:
    """Ask for a long answer and leave after its first bytes."""
    body = chat(
        "Tell me a long story.", stream=True, ignore_eos=True, top_logprobs=20, logprobs=True
    )
    signed = sign("order", order_for(offer, body, order_id=order_id), GATEWAY)
    client = HttpClient(Sockets())
    async with client.open_stream(
        "POST",
        offer.endpoint + CHAT,
        headers=(("x-penstock-order", header_of(signed)),),
        body=body,
        head_deadline_ms=DEADLINE_S * 1000,
    ) as reply:
        await anext(reply.chunks(idle_deadline_ms=DEADLINE_S * 1000))
    await client.close()


@pytest.mark.slow
async def test_a_real_stream_that_is_cut_frees_the_engine_and_is_claimed_after_kill_9(
    tmp_path: Path,
) -> None:
    """Slow because llama.cpp starts twice. The small model may be done before the cut arrives, most
    of all on a busy machine: then the next answer is cut.
    """
    peer = Peer(TINY)
    peer.ledger_up = False
    outbox = tmp_path / "m" / "outbox.jsonl"
    receipts: list[Any] = []
    async with peer.open():
        async with miner_process(peer, tmp_path / "m") as process:
            offer = await peer.wait_offer()
            async with asyncio.timeout(DEADLINE_S):
                while not any(one.outcome is Outcome.CLIENT_CANCELLED for one in receipts):
                    await cut(offer, f"o-cut-{len(receipts)}")
                    lines: list[bytes] = []
                    while len(lines) <= len(receipts):
                        await asyncio.sleep(0.02)
                        lines = outbox.read_bytes().splitlines()
                    line = msgspec.json.decode(lines[-1])
                    receipts.append(checked(parse_signed(line["order"]), line["receipt"]))
            process.kill()
        assert receipts[-1].units.prompt > 0, "known from the engine's timings"
        assert receipts[-1].units.completion > 0
        peer.ledger_up = True
        async with miner_process(peer, tmp_path / "m"), asyncio.timeout(DEADLINE_S):
            while receipts[-1].order_id not in peer.claimed:
                await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_sealed_order_is_claimed_after_kill_9_and_a_bare_one_can_still_be_sealed(
    tmp_path: Path,
) -> None:
    """Slow because llama.cpp starts twice."""
    peer = Peer(TINY)
    peer.ledger_up = False
    client, numbers = HttpClient(Sockets()), count()
    async with peer.open():
        async with miner_process(peer, tmp_path / "m") as process:
            gate = gate_before(await peer.wait_offer(), client, numbers)
            await gate.open()
            body = chat("What is Penstock?", max_tokens=4)
            answers = [await gate.call(body) for _ in range(3)]
            orders = [one.order for one in answers]
            assert (await gate.seal(orders[:2]))["orders_known"] == 2
            process.kill()
        peer.ledger_up = True
        peer.offers.clear()
        async with miner_process(peer, tmp_path / "m"), asyncio.timeout(DEADLINE_S):
            gate = gate_before(await peer.wait_offer(), client, numbers)
            while set(peer.claimed) != {one.order_id for one in orders[:2]}:
                await asyncio.sleep(0.05)
            await gate.open()
            given = await gate.seal(orders[2:], [orders[2].order_id])
            (record,) = gate.records(answers[2:], orders[2:], given)
            assert record.receipt is not None
            assert record.receipt.signature.startswith("seal1.")
            while orders[2].order_id not in peer.claimed:
                await asyncio.sleep(0.05)
    await client.close()


def gate_before(offer: Offer, client: HttpClient, numbers: Iterator[int]) -> Gate:
    """A gateway with real keys before the miner of this offer."""

    def make(body: bytes, **changes: Any) -> Order:
        return replace(order_for(offer, body, order_id=f"o-{next(numbers)}"), **changes)

    now_ms = SystemClock().now_ms
    return Gate(client, make, now_ms, GATEWAY, miner=offer.miner, url=offer.endpoint, verify=verify)


def test_a_wrong_configuration_ends_with_a_line_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.json"
    file.write_text("{}")
    assert main(["--config", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


def test_this_machine_is_described_from_its_own_files() -> None:
    found = this_machine()
    assert found.cores > 0
    assert found.memory_bytes > 0


def test_an_engine_is_built_within_the_limits_of_its_manifest(tmp_path: Path) -> None:
    build = engine_builder(make_world(tmp_path), threads=1)
    manifest = replace(TINY, engine="echo", source="")
    engine: Any = build(Launch("m-1-0a", manifest, (), 0, 0))
    assert engine.settings.slots_max == TINY.limits.parallel_max
