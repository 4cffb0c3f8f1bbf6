"""A deterministic engine without a model: it answers with the question's own words, at a set pace.

For development and for the simulator: it needs only a Network port, and time passes through
`asyncio.sleep`, so a virtual clock moves it. A token is a word; what is said about it: `echo_words`,
`echo_answers` (texts, vectors), `echo_media` (pictures, sounds).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from penstock.adapters.engines.echo_answers import (
    Answer,
    embeddings_answer,
    models_answer,
    read_chat,
    read_completion,
)
from penstock.adapters.engines.echo_media import images_answer, speech_answer, transcript_answer
from penstock.adapters.engines.echo_words import (
    MODEL,
    Body,
    detokenize_answer,
    moderation_answer,
    rerank_answer,
    tokenize_answer,
)
from penstock.adapters.engines.probe import FRESH_LINKS, NothingServed, Probe
from penstock.adapters.engines.slots import Slots
from penstock.kit.engine import AlwaysOn, Capability, EngineExit, EngineFailed, EngineStats
from penstock.kit.errors import WireError
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Entropy, Network
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server

PLAIN_ANSWERS: dict[str, Callable[[bytes], Body]] = {
    "/v1/embeddings": embeddings_answer,
    "/v1/rerank": rerank_answer,
    "/v1/images/generations": images_answer,
    "/v1/moderations": moderation_answer,
    "/tokenize": tokenize_answer,
    "/detokenize": detokenize_answer,
}
TRANSCRIPT_PATHS = {
    "transcribe": "/v1/audio/transcriptions",
    "translate": "/v1/audio/translations",
}
METRICS_HEADERS = (("content-type", "text/plain; version=0.0.4"),)


@dataclass(frozen=True, slots=True)
class EchoSettings:
    """`token_ms` between tokens, `slots_max` requests at once, `queue_max` more that may wait."""

    token_ms: int = 0
    slots_max: int = 4
    queue_max: int = 16
    host: str = "127.0.0.1"
    port: int = 0


class Echo(AlwaysOn):
    """Implements `kit.engine.Engine`."""

    def __init__(self, settings: EchoSettings, *, network: Network, entropy: Entropy) -> None:
        self.settings = settings
        self._network = network
        self._entropy = entropy
        self._client = HttpClient(network, FRESH_LINKS)
        self._slots = Slots(slots_max=settings.slots_max, queue_max=settings.queue_max)
        self._served = 0
        self._server: Server | None = None
        self._port = settings.port
        self._stopped = asyncio.Event()
        self._capabilities: frozenset[Capability] = frozenset()

    @property
    def address(self) -> str:
        return f"http://{self.settings.host}:{self._port}"

    @property
    def model(self) -> str:
        return MODEL

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._capabilities

    async def start(self, *, deadline_ms: int) -> None:
        self._stopped.clear()
        server = self._server = Server(self._network, self._routes(), entropy=self._entropy)
        started = False
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                self._port = await server.start(self.settings.host, self.settings.port)
                probe = Probe(self._client, self.address, MODEL)
                self._capabilities = await probe.capabilities()
            started = True
        except (OSError, TimeoutError, WireError, NothingServed) as error:
            raise EngineFailed(
                reason=f"The echo engine did not start: {error}.",
                log_tail="",
                remedy="Choose another port for it, or 0 for any free one.",
            ) from error
        finally:
            if not started:
                await server.close(0)

    async def stats(self) -> EngineStats:
        ready = self._server is not None and not self._server.draining
        return EngineStats(self._slots.running, self._slots.waiting, ready=ready)

    async def wait_exit(self) -> EngineExit:
        await self._stopped.wait()
        return EngineExit(wanted=True, reason="stopped", log_tail="", remedy="")

    async def stop(self, *, deadline_ms: int) -> None:
        await self._client.close()
        if self._server is not None:
            await self._server.close(deadline_ms)
        self._stopped.set()

    def _routes(self) -> Routes:
        routes = Routes()
        routes.add("GET", "/health", self._health)
        routes.add("GET", "/metrics", self._metrics)
        routes.add("GET", "/v1/models", self._models)
        routes.add("POST", "/v1/chat/completions", self._chat)
        routes.add("POST", "/v1/completions", self._completions)
        routes.add("POST", "/v1/audio/speech", self._speech)
        for task, path in TRANSCRIPT_PATHS.items():
            routes.add("POST", path, self._hearing(task))
        for path, make in PLAIN_ANSWERS.items():
            routes.add("POST", path, self._plain(make))
        return routes

    async def _health(self, _request: Request) -> Response:
        return json_response(200, {"status": "ok"})

    async def _models(self, _request: Request) -> Response:
        return json_response(200, models_answer())

    async def _metrics(self, _request: Request) -> Response:
        page = Metrics()
        page.gauge("penstock_echo_running", self._slots.running)
        page.gauge("penstock_echo_waiting", self._slots.waiting)
        return Response(200, page.render(), METRICS_HEADERS)

    async def _chat(self, request: Request) -> Response | Stream:
        return await self._answered(read_chat(request.body))

    async def _completions(self, request: Request) -> Response | Stream:
        return await self._answered(read_completion(request.body))

    def _plain(self, make: Callable[[bytes], Body]) -> Callable[[Request], Awaitable[Response]]:
        """A handler for answers that come at once and whole."""

        async def handle(request: Request) -> Response:
            answer = make(request.body)
            async with self._slots.taken():
                return json_response(200, answer)

        return handle

    async def _speech(self, request: Request) -> Response | Stream:
        sound = speech_answer(request.body)
        if sound.wants_events:
            await self._slots.take()
            return Stream(200, SSE_HEADERS, self._paced(sound.events()))
        async with self._slots.taken():
            return Response(200, sound.data, (("content-type", sound.content_type),))

    def _hearing(self, task: str) -> Callable[[Request], Awaitable[Response | Stream]]:
        async def handle(request: Request) -> Response | Stream:
            transcript = transcript_answer(request.body, task=task)
            if transcript.wants_stream:
                await self._slots.take()
                return Stream(200, SSE_HEADERS, self._paced(transcript.events()))
            async with self._slots.taken():
                content_type, body = transcript.whole()
                return Response(200, body, (("content-type", content_type),))

        return handle

    async def _paced(self, events: list[bytes]) -> AsyncIterator[bytes]:
        try:
            for event in events:
                await asyncio.sleep(self.settings.token_ms / 1000)
                yield event
        finally:
            self._slots.give()

    async def _answered(self, answer: Answer) -> Response | Stream:
        # The slot is taken before the head is sent, so that a full engine answers 429.
        await self._slots.take()
        self._served += 1
        answer_id = f"echo-{self._served}"
        if answer.wants_stream:
            return Stream(200, SSE_HEADERS, self._events(answer, answer_id))
        try:
            for _ in answer.tokens:
                await asyncio.sleep(self.settings.token_ms / 1000)
            return json_response(200, answer.whole(answer_id))
        finally:
            self._slots.give()

    async def _events(self, answer: Answer, answer_id: str) -> AsyncIterator[bytes]:
        """The server closes this when the client goes, which frees the slot at once."""
        try:
            for event in answer.opening(answer_id):
                yield event
            for event in answer.deltas(answer_id):
                await asyncio.sleep(self.settings.token_ms / 1000)
                yield event
            for event in answer.closing(answer_id):
                yield event
        finally:
            self._slots.give()
