"""A miner that signs like a real one and misbehaves as told: one script per order it is given."""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

from tests.stations.gateway.script import Act, Script, SealAct, Served

from penstock.gateway.bodies import MODALITIES
from penstock.gateway.orders import header_text, signed_json
from penstock.kit.handshake import (
    new_exchange,
    order_mac,
    parse_session_header,
    receipt_mac,
    seals_mac,
    session_key,
    vouch,
)
from penstock.kit.ports import Clock, Network, Sign, Verify
from penstock.kit.spell import read_order, spell
from penstock.kit.sse import comment
from penstock.kit.wire.http import JSON_HEADERS, SSE_HEADERS, Request, Response, Stream
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.spec.canon import canonical, digest, digest_spelled, from_plain, to_plain
from penstock.spec.keys import Signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Manifest, Offer, Order, Tier, chute_id
from penstock.spec.receipts import Outcome, Receipt, charge_for
from penstock.spec.seals import seal_digest, seal_root
from penstock.spec.sessions import ANSWER_KIND, SessionAnswer, check_session_offer
from penstock.spec.stream import Checkpoint
from penstock.spec.units import NO_UNITS, Price, Units

PORT = 9_000
PROMPT_UNITS = 20
NESTED = b'{"x":' + b"[" * 7_000 + b"]" * 7_000 + b"}"


class ScriptedMiner:
    """One instance on one host. `scripts` are played in order, then `default` for ever."""

    def __init__(
        self,
        host: str,
        *,
        network: Network,
        clock: Clock,
        key: Sign,
        verify: Verify,
        manifest: Manifest,
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
        self.has_sessions = True
        self.nests_sessions = False  # its answers about sessions cannot be read
        self.delay_ms = 0  # before anything is answered
        self.sessions: dict[str, bytes] = {}
        self.sessions_opened = 0
        self.seal_act = SealAct.SIGN
        self.seal_calls = 0
        self.proofs: dict[str, str] = {}
        """What this miner could claim with: order id -> the gateway's signature over the batch."""
        self.receipts: dict[str, bytes] = {}
        self.content_type = ""
        self.traces: list[str] = []
        """The `traceparent` of each order, in order."""
        self.comments: tuple[bytes, ...] = ()
        self._network = network
        self._clock = clock
        self._verify = verify
        self._routes = routes = Routes()
        for path in MODALITIES:
            routes.add("POST", path, self._serve)
        routes.add("POST", "/v1/cancel/{id}", self._cancel)
        routes.add("POST", "/v1/sessions", self._open_session)
        routes.add("POST", "/v1/seals", self._exchange_seals)

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
        key = b""
        if header.startswith("{"):
            named = parse_session_header(request.header("x-penstock-session"))
            assert named is not None, "an order that is not signed is under a session"
            body = header.encode()
            key = self.sessions.get(named[0], b"")
            if not key:
                return Response(401, b'{"error": {"code": "session_unknown"}}', JSON_HEADERS)
            covered = digest_spelled("order", body)
            assert hmac.compare_digest(named[1], order_mac(key, covered))
            order, order_digest = read_order(body), covered.hex()
        else:
            signed = parse_signed(
                json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
            )
            order, order_digest = from_plain(Order, signed.body), signed_digest(signed)
            self.proofs[order.order_id] = signed.signature
        assert order.request_digest == sha256(request.body).hexdigest(), "the body came untouched"
        assert order.path == request.path
        self.content_type = request.header("content-type")
        self.traces.append(request.header("traceparent"))
        if any(one.order.order_id == order.order_id for one in self.served):
            return Response(409, b'{"error": {"code": "order_replayed"}}', JSON_HEADERS)
        served = Served(order, order_digest, request.body, self._clock.now_ms(), session=key)
        self.served.append(served)
        await asyncio.sleep(self.delay_ms / 1000)
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
        body = served.send(script.binary or json.dumps(value).encode())
        units = self._units(served) if status == 200 else NO_UNITS
        if script.omit_receipt:
            return Response(status, body, JSON_HEADERS)
        signed = self._receipt(served, script, outcome=outcome, units=units)
        text = header_text(signed)
        if served.session:
            text = self._vouched(served, signed).decode("latin-1")
        content = script.content_type or "application/json"
        headers = (("content-type", content), ("x-penstock-receipt", text))
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
            said = self._vouched(served, signed) if served.session else signed_json(signed)
            yield comment("receipt", said) + script.trailing

    async def _cancel(self, request: Request) -> Response:
        named = parse_session_header(request.header("x-penstock-session"))
        if named is None:
            proof = from_plain(Order, parse_signed(json.loads(request.body)).body)
        else:
            proof = read_order(request.body)
            covered = digest_spelled("order", request.body)
            assert named[1] == order_mac(self.sessions[named[0]], covered)
        assert proof.order_id == request.params["id"]
        self.cancels.append(proof.order_id)
        for served in self.served:
            if served.order.order_id == proof.order_id and self.default.answers_cancel:
                served.cancelled.set()
        return Response(200, b"{}", JSON_HEADERS)

    async def _open_session(self, request: Request) -> Response:
        if self.nests_sessions:
            return Response(200, NESTED, JSON_HEADERS)
        if not self.has_sessions:
            return Response(404, b'{"error": {"code": "not_found"}}', JSON_HEADERS)
        signed = parse_signed(json.loads(request.body))
        offer = check_session_offer(
            signed,
            miner=self.key.identity,
            now_ms=self._clock.now_ms(),
            skew_max_ms=60_000,
            verify=self._verify,
        )
        self.sessions_opened += 1
        exchange = new_exchange(lambda n: bytes([self.sessions_opened]) * n)
        answer = sign(
            ANSWER_KIND,
            SessionAnswer(
                session_id=offer.session_id,
                offer_digest=signed_digest(signed),
                miner=self.key.identity,
                exchange_key=exchange.public_hex,
                expires_ms=offer.expires_ms,
            ),
            self.key,
        )
        self.sessions[offer.session_id] = session_key(
            exchange,
            offer.exchange_key,
            offer_digest=signed_digest(signed),
            answer_digest=signed_digest(answer),
        )
        return Response(200, json.dumps(to_plain(answer)).encode(), JSON_HEADERS)

    async def _exchange_seals(self, request: Request) -> Response:
        said = json.loads(request.body)
        key = self.sessions.get(said["session_id"])
        self.seal_calls += 1
        if key is None:
            return Response(401, b'{"error": {"code": "session_unknown"}}', JSON_HEADERS)
        rest = {name: value for name, value in said.items() if name != "mac"}
        assert said["mac"] == seals_mac(key, canonical(rest))
        if self.seal_act is SealAct.HANG:
            await asyncio.Event().wait()
        if self.seal_act is SealAct.NEST:
            return Response(200, NESTED, JSON_HEADERS)
        if self.seal_act is SealAct.FAIL:
            return Response(500, b"{}", JSON_HEADERS)
        known = self._take_orders(said["orders"]) if said["orders"] else 0
        asked = said["receipts"]
        answer: dict[str, Any] = {"orders_known": known, "receipts": None, "unknown": []}
        if self.seal_act is SealAct.UNKNOWN:
            answer["unknown"] = asked
        elif asked:
            digests = [self.receipts[order_id] for order_id in asked]
            if self.seal_act is SealAct.SWAP:
                digests[0] = bytes(32)
            signature = self.key.sign(seal_digest(seal_root(digests), len(digests)))
            if self.seal_act is SealAct.FORGE:
                signature = "0" * 64
            answer["receipts"] = {"order_ids": asked, "root_signature": signature}
        return Response(200, json.dumps(answer).encode(), JSON_HEADERS)

    def _take_orders(self, orders: dict[str, Any]) -> int:
        """The gateway's seal over orders: from now on they are proof."""
        digests = [bytes.fromhex(one) for one in orders["digests"]]
        covered = seal_digest(seal_root(digests), len(digests))
        sealed = {
            one.order.gateway for one in self.served if one.order.order_id in orders["order_ids"]
        }
        assert len(sealed) <= 1, "each gateway seals its own"
        gateway = next(iter(sealed), "")
        signature = orders["root_signature"]
        assert not gateway or self._verify(gateway, covered, signature)
        known = {one.order.order_id: one.digest for one in self.served}
        for order_id, one in zip(orders["order_ids"], orders["digests"], strict=True):
            assert known.get(order_id, one) == one
            self.proofs[order_id] = signature
        return sum(order_id in known for order_id in orders["order_ids"])

    def _vouched(self, served: Served, signed: Signed) -> bytes:
        """The receipt under the session's key; a forged signature becomes a forged MAC."""
        receipt = from_plain(Receipt, signed.body)
        body = spell(receipt)
        covered = digest_spelled("receipt", body)
        self.receipts[served.order.order_id] = covered
        genuine = signed.signature == self.key.sign(digest("receipt", signed.body))
        mac = receipt_mac(served.session, covered) if genuine else signed.signature
        prefix = b"" if signed.kind == "receipt" else signed.kind.encode()
        return prefix + vouch(body, mac)

    def _units(self, served: Served) -> Units:
        completion = served.words if served.order.completion_max else 0
        return Units(prompt=PROMPT_UNITS, cached=0, completion=completion, images=0, audio_ms=0)

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
