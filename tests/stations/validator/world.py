"""A validator's surroundings in memory: market, gateway with one miner, and a ledger that publishes."""

import asyncio
import hashlib
import random
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from tests.client.published_log import (
    MINERS,
    VALIDATORS,
    Alterations,
    PublishedLog,
    order_for,
    presence,
    served,
    verify,
)
from tests.makers import GATEWAY, MANIFEST, OWNER, ToyKey, sealed

from penstock.client.sources import HttpSource
from penstock.kit.keys import verify_raw
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Files
from penstock.kit.sse import comment
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import SSE_HEADERS, Headers, Request, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.sim.disk import MemoryFiles
from penstock.sim.loop import VirtualClock, VirtualLoop, run
from penstock.sim.net import MemoryNetwork
from penstock.spec.canon import canonical, encode, from_plain, to_plain
from penstock.spec.entries import EntryKind
from penstock.spec.keys import Signed, open_signed, parse_signed, sign
from penstock.spec.messages import Charter, Manifest, Modality, Report, Verdict, chute_id
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Record, record_id
from penstock.spec.stream import COUNTERSIGN_COMMENT, RECEIPT_COMMENT
from penstock.validator.config import Bounds, Deadlines
from penstock.validator.peers import Facts
from penstock.validator.service import Urls, Validator

PORT = 80
API_KEY = "sk-penstock-validator"
HORIZON_MS = 24 * 3_600_000
DISK_BYTES_MAX = 1 << 24
URLS = Urls("http://gateway", "http://market", "http://ledger")
CHAT, EMBEDDINGS = MANIFEST, replace(MANIFEST, name="minilm", modality=Modality.EMBEDDINGS)
WORDS = ("one", " two", " three", " four")


@dataclass
class Manners:
    """How gateway, miner and ledger behave; a test changes them as it goes."""

    units_claimed: int = len(WORDS)
    status: int = 200
    is_tampered: bool = False
    is_unsigned: bool = False
    is_sealed: bool = False
    is_never_sealed: bool = False
    """Words come without signatures; they follow in the record, or never do."""
    loses_records: bool = False
    breaks_off: bool = False
    serving: int = 1
    report_status: int = 200
    is_ledger_down: bool = False
    is_publishing: bool = True


class World:
    """Everything runs on one virtual loop; `run` a scenario in it."""

    def __init__(self, *, alter: Alterations | None = None, seed: int = 1) -> None:
        self.loop = VirtualLoop(horizon_ms=HORIZON_MS)
        self.clock = VirtualClock(self.loop)
        self.network = MemoryNetwork(random.Random(seed), self.loop)
        self.log = PublishedLog(alter)
        self.log.epoch = self.clock.now_ms() // LOCAL.epoch_ms
        self.first_epoch = self.log.epoch
        self.manners = Manners()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.records: list[Record] = []
        self.reports: list[Signed] = []
        self.verdicts: list[Verdict] = []
        self.settled = -1
        self.published: dict[str, bytes] = self.log.published
        self._orders = 0
        self._clients: list[HttpClient] = []

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            servers = [
                await self._serve("ledger", self._ledger()),
                await self._serve("market", self._market()),
                await self._serve("gateway", self._gateway()),
            ]
            await scenario()
            for client in self._clients:
                await client.close()
            for server in servers:
                await server.close(drain_ms=100)

        run(main(), self.loop)

    def client(self, host: str) -> HttpClient:
        client = HttpClient(self.network.at(host))
        self._clients.append(client)
        return client

    def validator(
        self, key: ToyKey = VALIDATORS[0], *, files: Files | None = None, probes_max: int = 0
    ) -> Validator:
        """One on a host of its own; it does nothing until it is told to."""
        http = self.client(key.name)
        return Validator(
            name=key.name,
            clock=self.clock,
            http=http,
            key=key,
            verify=verify,
            verify_raw=verify_raw,
            rng=random.Random(key.name),
            files=files or MemoryFiles(bytes_max=DISK_BYTES_MAX),
            source=HttpSource(http, URLS.ledger),
            facts=Facts(charter_of(self.log), LOCAL),
            urls=URLS,
            api_key=API_KEY,
            deadlines=Deadlines(),
            bounds=Bounds(probes_per_epoch_max=probes_max),
            metrics=Metrics(),
        )

    async def close_epoch(self) -> int:
        """Log the gateway's records and a roll, close the epoch; the newest files are served."""
        for record in self.records:
            self.log.add_record(record)
        self.records.clear()
        self.log.add_roll([presence(key, chute_id(CHAT)) for key in MINERS])
        epoch = await self.log.close()
        self.published = self.log.published
        return epoch

    async def next_epoch(self) -> None:
        """Sleep until the epoch of the clock is the one that the log has open."""
        begins_ms = self.log.epoch * LOCAL.epoch_ms
        await asyncio.sleep(max(0, begins_ms - self.clock.now_ms()) / 1000)

    def report_bodies(self) -> list[Report]:
        return [open_signed(Report, one, kind="report", verify=verify) for one in self.reports]

    async def _serve(self, host: str, routes: Routes) -> Server:
        entropy = random.Random(host).randbytes
        server = Server(self.network.at(host), routes, entropy=entropy)
        await server.start("0.0.0.0", PORT)
        return server

    def _ledger(self) -> Routes:
        table = Routes()
        table.add("GET", "/v1/epochs", self._up(self._epochs))
        table.add("GET", "/files/{name...}", self._up(self._file))
        table.add("POST", "/v1/reports", self._up(self._report))
        table.add("POST", "/v1/verdicts", self._up(self._verdict))
        table.add("GET", "/v1/receipts/{order_id}", self._up(self._receipt))
        return table

    def _up(
        self, handler: Callable[[Request], Response]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            if self.manners.is_ledger_down:
                return problem(503, "store_down", "The store is down. Try again.")
            return handler(request)

        return answer

    def _epochs(self, request: Request) -> Response:
        closed = max(self.log.ends, default=-1)
        size = self.log.log.frontier.size
        return json_response(
            200,
            {"epoch": self.log.epoch, "closed": closed, "settled": self.settled, "log_size": size},
        )

    def _file(self, request: Request) -> Response:
        data = self.published.get(request.params["name"])
        if data is None or not self.manners.is_publishing:
            return Response(404)
        return Response(200, data)

    def _report(self, request: Request) -> Response:
        if self.manners.report_status != 200:
            return problem(self.manners.report_status, "no_seat", "Nobody sits there.")
        self.reports.append(parse_signed(msgspec.json.decode(request.body)))
        return json_response(200, {"accepted": True})

    def _verdict(self, request: Request) -> Response:
        signed = parse_signed(msgspec.json.decode(request.body))
        verdict = open_signed(Verdict, signed, kind="verdict", verify=verify)
        self.verdicts.append(verdict)
        self.log.append(EntryKind.VERDICT, f"verdict/{verdict.order_id}", to_plain(signed))
        return json_response(200, {"accepted": True})

    def _receipt(self, request: Request) -> Response:
        order_id = request.params["order_id"]
        is_logged = any(one.entry_id == order_id for one in self.log.log.entries_)
        return json_response(200, {}) if is_logged else problem(404, "not_found", "Not yet.")

    def _market(self) -> Routes:
        async def info(request: Request) -> Response:
            return json_response(200, {})

        async def chutes(request: Request) -> Response:
            return json_response(
                200, {"chutes": [listed(one, self.manners.serving) for one in (CHAT, EMBEDDINGS)]}
            )

        table = Routes()
        table.add("GET", "/v1/info", info)
        table.add("GET", "/v1/chutes", chutes)
        return table

    def _gateway(self) -> Routes:
        table = Routes()
        table.add("POST", "/v1/chat/completions", self._answer)
        table.add("POST", "/v1/embeddings", self._answer)
        table.add("GET", "/v1/receipts/{order_id}", self._sealed)
        return table

    async def _sealed(self, request: Request) -> Response:
        found = [one for one in self.records if record_id(one) == request.params["order_id"]]
        if not found or self.manners.is_never_sealed or self.manners.is_unsigned:
            return problem(404, "receipt_not_found", "Not yet.")
        return json_response(200, {"record": to_plain(found[0]), "seq": -1})

    async def _answer(self, request: Request) -> Response:
        assert request.bearer() == API_KEY
        asked = msgspec.json.decode(request.body)
        self.asked.append((request.path, asked))
        manners = self.manners
        if manners.status != 200:
            return problem(manners.status, "refused", "No.")
        is_stream = bool(asked.get("stream"))
        body = _embedded() if "input" in asked else _streamed() if is_stream else _whole()
        record = self._record(request, asked, body)
        if not manners.loses_records:
            self.records.append(record)
        if manners.is_tampered:
            body = body.replace(b"[", b"[ ", 1)
        headers: Headers = (("x-penstock-order", str(record.order.body["order_id"])),)
        assert record.receipt is not None
        assert record.countersign is not None
        if is_stream:
            tail = comment(RECEIPT_COMMENT, self._told(record.receipt))
            tail += comment(COUNTERSIGN_COMMENT, self._told(record.countersign))
            whole = body + (b"" if manners.is_unsigned else tail)
            return Response(200, whole, (*SSE_HEADERS, *headers))
        if not manners.is_unsigned and not manners.is_sealed:
            headers += (
                ("x-penstock-receipt", _header(record.receipt)),
                ("x-penstock-countersign", _header(record.countersign)),
            )
        return Response(200, body, headers)

    def _told(self, signed: Signed) -> bytes:
        if not self.manners.is_sealed:
            return encode(signed)
        return canonical({"body": signed.body, "mac": "00" * 32})

    def _record(self, request: Request, asked: dict[str, Any], body: bytes) -> Record:
        self._orders += 1
        key = MINERS[self._orders % len(MINERS)]
        units = 0 if "input" in asked else self.manners.units_claimed
        name = f"o-{self._orders:032x}"
        order = order_for(name, key, chute=asked["model"], completion=units)
        order = replace(
            order,
            path=request.path,
            stream=bool(asked.get("stream")),
            request_digest=hashlib.sha256(request.body).hexdigest(),
        )
        record = served(order, key, total_us=1_000 * self._orders, body=body)
        if not self.manners.is_sealed:
            return record
        return sealed(record, gateway=GATEWAY, miner=key, strangers=self._orders % 5)


def charter_of(log: PublishedLog) -> Charter:
    """The first charter of a log."""
    logged = next(one for one in log.log.entries_ if one.kind is EntryKind.CHARTER)
    return from_plain(Charter, msgspec.json.decode(logged.leaf)["body"]["body"])


def listed(manifest: Manifest, serving: int) -> dict[str, Any]:
    """A chute as the market lists it."""
    return {
        "chute": chute_id(manifest),
        "name": manifest.name,
        "manifest": to_plain(sign("manifest", manifest, OWNER)),
        "target": None,
        "serving": serving,
    }


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return msgspec.json.encode({"choices": choices})


def _streamed() -> bytes:
    pieces = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in WORDS]
    data = b"".join(b"data: " + msgspec.json.encode(piece) + b"\n\n" for piece in pieces)
    return data + b"data: [DONE]\n\n"


def _embedded() -> bytes:
    usage = {"prompt_tokens": 20, "total_tokens": 20}
    data = [{"index": 0, "embedding": [0.25, 0.5]}]
    return msgspec.json.encode({"object": "list", "data": data, "usage": usage})


def _header(signed: Signed) -> str:
    return urlsafe_b64encode(encode(signed)).decode().rstrip("=")
