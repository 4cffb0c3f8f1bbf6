"""A miner that signs like a real one and misbehaves as told: one script per order it is given."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from typing import Any

from penstock.gateway.orders import header_text, signed_json
from penstock.kit.ports import Clock, Network, Sign
from penstock.kit.sse import comment
from penstock.kit.wire.http import JSON_HEADERS, SSE_HEADERS, Request, Response, Stream
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.spec.canon import from_plain
from penstock.spec.keys import Signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Manifest, Offer, Order, Tier, chute_id
from penstock.spec.receipts import Outcome, Receipt, charge_for
from penstock.spec.stream import Checkpoint
from penstock.spec.units import NO_UNITS, Price, Units

PORT = 9_000
PROMPT_UNITS = 20


class Act(Enum):
    """What the miner does with an order."""

    ANSWER = "answer"
    REFUSE = "refuse"
    ERROR = "error"  # `status`, with a receipt of no units
    BREAK = "break"  # `status`, without a receipt
    HANG = "hang"  # no head ever
    CUT = "cut"  # after `words_until` words the connection breaks
    STALL = "stall"  # after `words_until` words nothing comes any more
    LOSE = "lose"  # the engine is lost after `words_until` words: error event, failed receipt


@dataclass(frozen=True)
class Script:
    """One order's play. `tamper` changes the receipt before it is signed, `forge` the signature."""

    act: Act = Act.ANSWER
    words: tuple[str, ...] = ("Water", " turns", " the", " wheel", ".")
    words_until: int = 0
    word_ms: int = 20
    checkpoint_events: int = 2
    status: int = 400
    cut_bytes: int = 0
    """Re-cut the stream into pieces of this size; 0 sends event by event."""
    tamper: Callable[[Receipt], Receipt] = field(default=lambda receipt: receipt)
    tamper_checkpoint: Callable[[Checkpoint], Checkpoint] = field(default=lambda point: point)
    forge: Callable[[Signed], Signed] = field(default=lambda signed: signed)
    omit_receipt: bool = False
    answers_cancel: bool = True
    trailing: bytes = b""


@dataclass(eq=False)
class Served:
    """What the miner knows of one order."""

    order: Order
    digest: str
    body: bytes
    accept_ms: int
    hash: Any = field(default_factory=sha256)
    body_bytes: int = 0
    events: int = 0
    words: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False

    def send(self, data: bytes) -> bytes:
        self.hash.update(data)
        self.body_bytes += len(data)
        return data

    def event(self, value: object) -> bytes:
        self.events += 1
        text = value if isinstance(value, str) else json.dumps(value)
        return self.send(f"data: {text}\n\n".encode())


class ScriptedMiner:
    """One instance on one host. `scripts` are played in order, then `default` for ever."""

    def __init__(
        self, host: str, *, network: Network, clock: Clock, key: Sign, manifest: Manifest
    ) -> None:
        self.host = host
        self.key = key
        self.manifest = manifest
        self.scripts: list[Script] = []
        self.default = Script()
        self.served: list[Served] = []
        self.cancels: list[str] = []
        self.price: Price = manifest.price_max
        self.room = 4
        self.seq = 0
        self.port = PORT
        self.confused = False  # streams what was asked for whole, and the other way round
        self._network = network
        self._clock = clock
        self._routes = routes = Routes()
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            routes.add("POST", path, self._serve)
        routes.add("POST", "/v1/cancel/{id}", self._cancel)

    @property
    def instance(self) -> str:
        return f"{self.host}-1"

    async def start(self) -> None:
        self._server = Server(self._network, self._routes, entropy=bytes)
        self.port = await self._server.start(self.host, self.port)

    async def stop(self) -> None:
        await self._server.close(0)

    def offer(self, **changes: Any) -> Signed:
        """The next offer of the instance."""
        self.seq += 1
        now_ms = self._clock.now_ms()
        offer = Offer(
            instance=self.instance,
            miner=self.key.identity,
            chute=chute_id(self.manifest),
            endpoint=f"http://{self.host}:{self.port}",
            price=self.price,
            room=self.room,
            hardware="cpu",
            device=self.host,
            tier=Tier.OPEN,
            issued_ms=now_ms,
            valid_until_ms=now_ms + 3_600_000,
            seq=self.seq,
        )
        return sign("offer", replace(offer, **changes), self.key)

    async def _serve(self, request: Request) -> Response | Stream:
        header = request.header("x-penstock-order")
        signed = parse_signed(
            json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        )
        order = from_plain(Order, signed.body)
        assert order.request_digest == sha256(request.body).hexdigest(), "the body came untouched"
        if any(one.order.order_id == order.order_id for one in self.served):
            return Response(409, b'{"error": {"code": "order_replayed"}}', JSON_HEADERS)
        served = Served(order, signed_digest(signed), request.body, self._clock.now_ms())
        self.served.append(served)
        script = self.scripts.pop(0) if self.scripts else self.default
        if script.act is Act.HANG:
            await served.cancelled.wait()
            return Response(504)
        return await self._perform(served, script)

    async def _perform(self, served: Served, script: Script) -> Response | Stream:
        match script.act:
            case Act.BREAK:
                return Response(script.status, b'{"error": {"code": "broken"}}', JSON_HEADERS)
            case Act.REFUSE:
                return self._whole(served, script, status=503, outcome=Outcome.REFUSED)
            case Act.ERROR:
                return self._whole(served, script, status=script.status, outcome=Outcome.COMPLETE)
            case _ if served.order.stream is self.confused:
                return await self._answer_whole(served, script)
            case _:
                return Stream(200, SSE_HEADERS, self._pieces(served, script))

    async def _answer_whole(self, served: Served, script: Script) -> Response:
        for _ in script.words:
            if served.cancelled.is_set():
                break
            served.words += 1
            await asyncio.sleep(script.word_ms / 1000)
        outcome = Outcome.CLIENT_CANCELLED if served.cancelled.is_set() else Outcome.COMPLETE
        if script.act is Act.LOSE:
            return self._whole(served, script, status=500, outcome=Outcome.MINER_FAILED)
        if script.act is Act.CUT:
            raise ConnectionAbortedError("as scripted")
        return self._whole(served, script, status=200, outcome=outcome)

    def _whole(self, served: Served, script: Script, *, status: int, outcome: Outcome) -> Response:
        text = "".join(script.words[: served.words])
        value: dict[str, Any] = {"choices": [{"message": {"content": text}}]}
        if status != 200:
            value = {"error": {"message": "as scripted", "code": "scripted", "type": "x"}}
        body = served.send(json.dumps(value).encode())
        units = self._units(served) if status == 200 else NO_UNITS
        if script.omit_receipt:
            return Response(status, body, JSON_HEADERS)
        signed = self._receipt(served, script, outcome=outcome, units=units)
        headers = (*JSON_HEADERS, ("x-penstock-receipt", header_text(signed)))
        return Response(status, body, headers)

    async def _pieces(self, served: Served, script: Script) -> AsyncIterator[bytes]:
        """The stream, cut as the script wants it."""
        rest = b""
        async for part in self._parts(served, script):
            if not script.cut_bytes:
                yield part
                continue
            rest += part
            while len(rest) >= script.cut_bytes:
                yield rest[: script.cut_bytes]
                rest = rest[script.cut_bytes :]
                await asyncio.sleep(0.001)
        if rest:
            yield rest

    async def _parts(self, served: Served, script: Script) -> AsyncIterator[bytes]:
        for word in script.words:
            if served.words == script.words_until and script.act is not Act.ANSWER:
                if script.act is Act.CUT:
                    yield served.send(b'data: {"choices":[{"del')
                    raise ConnectionAbortedError("as scripted")
                if script.act is Act.STALL:
                    await served.cancelled.wait()
                break
            if served.cancelled.is_set():
                break
            yield served.event({"choices": [{"delta": {"content": word}}]})
            served.words += 1
            if served.events % script.checkpoint_events == 0:
                yield served.send(self._checkpoint(served, script))
            await asyncio.sleep(script.word_ms / 1000)
        outcome = Outcome.COMPLETE
        if served.cancelled.is_set():
            outcome = Outcome.CLIENT_CANCELLED
        elif script.act is Act.LOSE:
            outcome = Outcome.MINER_FAILED
            yield served.event({"error": {"message": "the engine was lost", "code": "x"}})
        else:
            yield served.event("[DONE]")
        if not script.omit_receipt:
            units = NO_UNITS if outcome is Outcome.MINER_FAILED else self._units(served)
            signed = self._receipt(served, script, outcome=outcome, units=units)
            yield comment("receipt", signed_json(signed)) + script.trailing

    async def _cancel(self, request: Request) -> Response:
        proof = from_plain(Order, parse_signed(json.loads(request.body)).body)
        assert proof.order_id == request.params["id"]
        self.cancels.append(proof.order_id)
        for served in self.served:
            if served.order.order_id == proof.order_id and self.default.answers_cancel:
                served.cancelled.set()
        return Response(200, b"{}", JSON_HEADERS)

    def _units(self, served: Served) -> Units:
        return Units(prompt=PROMPT_UNITS, cached=0, completion=served.words, images=0, audio_ms=0)

    def _checkpoint(self, served: Served, script: Script) -> bytes:
        point = Checkpoint(
            order_id=served.order.order_id,
            order_digest=served.digest,
            events=served.events,
            body_bytes=served.body_bytes,
            units=self._units(served),
            digest=served.hash.hexdigest(),
        )
        signed = sign("checkpoint", script.tamper_checkpoint(point), self.key)
        return comment("checkpoint", signed_json(signed))

    def _receipt(self, served: Served, script: Script, *, outcome: Outcome, units: Units) -> Signed:
        order = served.order
        pays = outcome in {Outcome.COMPLETE, Outcome.CLIENT_CANCELLED}
        receipt = Receipt(
            order_id=order.order_id,
            order_digest=served.digest,
            chute=order.chute,
            instance=order.instance,
            miner=order.miner,
            gateway=order.gateway,
            payer_tag=order.payer_tag,
            outcome=outcome,
            units=units if pays else NO_UNITS,
            charge_nano=charge_for(order, units) if pays else 0,
            response_digest=served.hash.hexdigest(),
            response_bytes=served.body_bytes,
            events=served.events,
            accept_ms=served.accept_ms,
            first_ms=served.accept_ms,
            last_ms=max(served.accept_ms, self._clock.now_ms()),
            seed=order.seed,
            token_ids_digest="",
            logprobs_digest="",
        )
        return script.forge(sign("receipt", script.tamper(receipt), self.key))
