"""The frame of our own worker processes: `python -m penstock.adapters.engines.<name>_worker`.

A worker is a table of skills: plain functions from a request's body to an answer, which run in a
thread of their own so that /health answers meanwhile. The frame does the rest: settings and result
line (see worker_pipe.py), HTTP on a free port of the loopback, a bounded queue, metrics, and the end:
SIGTERM ends it at once when it is idle, otherwise after the running answers or `drain_ms`.

| path | answer |
|---|---|
| the skills' | POST; 429 when the queue is full; errors in OpenAI's envelope |
| `/health`, `/v1/models` | GET |
| `/metrics` | gauges `penstock_engine_running`, `_waiting`; counter `penstock_engine_units_total{unit}` |
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from penstock.adapters.engines.slots import Slots
from penstock.adapters.engines.worker_pipe import Parent
from penstock.kit.engine import EngineFailed
from penstock.kit.metrics import Metrics
from penstock.kit.wire.http import Request, Response, Stream, json_response
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.problem import Refusal, problem
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

HOST = "127.0.0.1"
BODY_BYTES_MAX = 8 << 20
DRAIN_MS = 30_000
SPARE_CONNECTIONS = 64
METRICS_HEADERS = (("content-type", "text/plain; version=0.0.4"),)
JSON = "application/json"

T = TypeVar("T")


class FrameSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every worker is told. A worker's own settings extend it.

    `slots_max` requests are worked at once, `queue_max` more may wait. `body_bytes_max` bounds one
    request. `tethered`: end when stdin closes.
    """

    model: str
    slots_max: int
    queue_max: int
    threads: int = 1
    body_bytes_max: int = BODY_BYTES_MAX
    drain_ms: int = DRAIN_MS
    tethered: bool = True


S = TypeVar("S", bound=FrameSettings)


@dataclass(frozen=True, slots=True)
class Made:
    """What a skill answers: a body at once or piece by piece, and the units worked for it.

    `units` (audio_ms, prompt_tokens, images, ...) are read when the last piece is out.
    """

    body: bytes | Iterator[bytes]
    content_type: str = JSON
    units: Mapping[str, int] = field(default_factory=dict)


Skill = Callable[[bytes], Made]
"""A request's body -> its answer. Runs in a thread. Raises Refusal for a bad request."""
Skills = Mapping[str, Skill]
"""By path."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker's skills, ready to serve, and the version of what does the work."""

    skills: Skills
    version: str


def run_worker(kind: type[S], load: Callable[[S], Loaded]) -> None:
    """The whole life of a worker process; `load` may take seconds.

    What `load` raises of EngineFailed, ImportError, OSError, RuntimeError or ValueError is told to the
    parent in one line.
    """
    parent = Parent()
    settings = parent.settings(kind)
    try:
        loaded = load(settings)
    except EngineFailed as error:
        parent.failed(f"{error.reason} {error.remedy}")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parent.failed(f"{type(error).__name__}: {error}")
    asyncio.run(_serve(parent, settings, loaded))
    # A thread that still works on a lost request must not hold the process.
    os._exit(0)


async def _serve(parent: Parent, settings: FrameSettings, loaded: Loaded) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    frame = Frame(settings, loaded.skills)
    limits = ServerLimits(
        intake=IntakeLimits(body_bytes_max=settings.body_bytes_max),
        connections_max=settings.slots_max + settings.queue_max + SPARE_CONNECTIONS,
    )
    server = Server(Sockets(), frame.routes(), entropy=os.urandom, limits=limits)
    port = await server.start(HOST, 0)
    parent.serving(f"http://{HOST}:{port}", version=loaded.version)
    if settings.tethered:
        parent.tie()
    await ended.wait()
    await server.close(settings.drain_ms)


class Frame:
    """The routes of a worker. Usable without a process, on any Network."""

    def __init__(self, settings: FrameSettings, skills: Skills) -> None:
        self._settings = settings
        self._skills = skills
        self._slots = Slots(slots_max=settings.slots_max, queue_max=settings.queue_max)
        self._pool = ThreadPoolExecutor(settings.slots_max, thread_name_prefix="skill")
        self._metrics = Metrics()

    def routes(self) -> Routes:
        routes = Routes()
        routes.add("GET", "/health", self._health)
        routes.add("GET", "/metrics", self._page)
        routes.add("GET", "/v1/models", self._models)
        for path, skill in self._skills.items():
            routes.add("POST", path, self._handler(skill))
        return routes

    async def _health(self, _request: Request) -> Response:
        return json_response(200, {"status": "ok"})

    async def _models(self, _request: Request) -> Response:
        model = {"id": self._settings.model, "object": "model", "created": 0}
        return json_response(200, {"object": "list", "data": [{**model, "owned_by": "penstock"}]})

    async def _page(self, _request: Request) -> Response:
        self._metrics.gauge("penstock_engine_running", self._slots.running)
        self._metrics.gauge("penstock_engine_waiting", self._slots.waiting)
        return Response(200, self._metrics.render(), METRICS_HEADERS)

    def _handler(self, skill: Skill) -> Callable[[Request], Awaitable[Response | Stream]]:
        async def handle(request: Request) -> Response | Stream:
            # The slot is taken before the head is sent, so that a full engine can say so.
            await self._slots.take()
            turn = Turn(self._pool, self._slots)
            try:
                made = await turn.run(lambda: skill(request.body))
            except BaseException:
                turn.end()
                raise
            headers = (("content-type", made.content_type),)
            if not isinstance(made.body, bytes):
                return Stream(200, headers, self._pieces(turn, made, made.body))
            turn.end()
            self._count(made)
            return Response(200, made.body, headers)

        return handle

    async def _pieces(
        self, turn: "Turn", made: Made, body: Iterator[bytes]
    ) -> AsyncIterator[bytes]:
        """The server closes this when the client goes, which frees the slot."""
        try:
            while (piece := await turn.run(lambda: next(body, None))) is not None:
                yield piece
            self._count(made)
        finally:
            turn.end()

    def _count(self, made: Made) -> None:
        self._metrics.count("penstock_engine_requests_total")
        for unit, worked in made.units.items():
            self._metrics.count("penstock_engine_units_total", worked, unit=unit)


class Turn:
    """One request's slot. A thread cannot be stopped: the slot is free when the thread is."""

    def __init__(self, pool: ThreadPoolExecutor, slots: Slots) -> None:
        self._pool = pool
        self._slots = slots
        self._working: asyncio.Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in a thread. Raises what it raises."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._working = future
        return await asyncio.shield(future)

    def end(self) -> None:
        """Called once, after the last `run`, also when that was cancelled."""
        if self._working is None or self._working.done():
            self._slots.give()
        else:
            self._working.add_done_callback(self._late)

    def _late(self, future: asyncio.Future[Any]) -> None:
        self._slots.give()
        if not future.cancelled():
            future.exception()  # nobody waits for it; asyncio would report it as forgotten


def json_made(fields: object, **units: int) -> Made:
    """A JSON answer and the units worked for it."""
    return Made(msgspec.json.encode(fields), units=units)


def understood(body: bytes, kind: type[T]) -> T:
    """The request body as `kind`; fields it does not know are ignored. Raises Refusal (400)."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"The request body is not understood: {error}."
        raise Refusal(problem(400, "body_invalid", message)) from error


def refused(message: str, param: str) -> Refusal:
    """A 400 about one field."""
    return Refusal(problem(400, "unsupported_value", message, param=param))
