"""Orders in work: one job each, which can be cancelled from outside while it waits for its engine."""

import asyncio
from dataclasses import dataclass, field

import msgspec

from penstock.kit.engine import Capability, Engine
from penstock.kit.errors import DeadlinePassed, PeerClosed, WireError
from penstock.kit.wire.client import HttpClient, StreamReply
from penstock.kit.wire.http import JSON_HEADERS
from penstock.miner.admission import Admitted
from penstock.miner.cache_slots import Seat
from penstock.miner.engine_links import EngineLinks
from penstock.miner.llama_request import TEMPLATE_PATH
from penstock.miner.meter import Meter
from penstock.miner.paths import GENERATION
from penstock.miner.rewrite import Prepared
from penstock.miner.verdicts import Head, Meaning, blame, meaning

TEMPLATE_BYTES_MAX = 32 << 20
EVENTS_PER_TOKEN_MAX, EVENTS_SPARE = 4, 256
"""A stream with more events than these for each unit of the order's ceiling has no end."""
LATE = "the order's deadline passed"


class TemplateAnswer(msgspec.Struct):
    """What llama.cpp's template route says."""

    prompt: str


_template_answer = msgspec.json.Decoder(TemplateAnswer).decode


class Cancelled(Exception):
    """The gateway does not want the answer any more."""


@dataclass(eq=False)
class EngineLost(Exception):
    """The engine gave no answer, broke one off, or took too long; `why` is for the client."""

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(eq=False)
class TemplateRefused(Exception):
    """The engine's template does not take these messages: its refusal, for the client."""

    status: int
    body: bytes

    def __str__(self) -> str:
        return f"the engine's template answered {self.status}"


@dataclass(slots=True)
class Job:
    """One order and its call to the engine. `deadline_at` is in the loop's time."""

    admitted: Admitted
    meter: Meter
    prepared: Prepared
    deadline_at: float
    idle_ms: int
    is_cancelled: bool = False
    failure: str = ""
    """Set when the miner itself gives the job up, with what the client is told."""
    seat: Seat | None = None
    """Its slot in an engine with slots."""
    _reply: StreamReply | None = None
    _scope: asyncio.Timeout | None = None
    """Around what is asked of the engine until its head is here."""
    _late: asyncio.TimerHandle | None = None

    async def open(self, engines: EngineLinks) -> StreamReply:
        """Send the request to the engine; the reply's head. Raises EngineLost, Cancelled,
        TemplateRefused.

        An engine may have closed a resting connection a moment before we used it. Not one byte came
        and the engine is ours, so asking once more, over a fresh connection, is harmless.
        """
        instance = self.admitted.instance
        try:
            reply = await self._bounded_open(engines.of(instance))
        except PeerClosed as error:
            if error.after_bytes:
                raise EngineLost(str(error)) from error
            reply = await self._open_again(engines.fresh)
        except WireError as error:
            raise EngineLost(str(error)) from error
        self._reply = reply
        self._late = asyncio.get_running_loop().call_at(self.deadline_at, self._give_up, LATE)
        engines.saw(instance, reply)
        if self.seat is not None:
            instance.seats.begun(self.seat)
        return reply

    async def read(self) -> bytes:
        """The next bytes of the engine, b"" at the end. Raises EngineLost, Cancelled."""
        assert self._reply is not None, "opened before it is read"
        self._check()
        try:
            return await self._reply.next_chunk(idle_deadline_ms=self.idle_ms)
        except WireError as error:
            self._check()
            raise EngineLost(str(error)) from error

    def check_flood(self, *, bytes_max: int) -> None:
        """Raises EngineLost for a stream that goes on beyond any answer to its order."""
        meter = self.meter
        if meter.body_bytes > bytes_max:
            raise EngineLost(f"its answer is larger than {bytes_max} bytes")
        events_max = EVENTS_PER_TOKEN_MAX * meter.order.completion_max + EVENTS_SPARE
        if meter.events > events_max and self.prepared.path in GENERATION:
            raise EngineLost(f"its stream has more than {events_max} events and no end")

    def note_lost(self, why: str) -> None:
        """For the operator. What the miner itself gave up is no fault of the engine."""
        if self.failure in {"", LATE}:
            self.admitted.instance.failed(why)

    def abort(self) -> None:
        """Cut the call to the engine, whether or not somebody waits for it. Twice is harmless."""
        if self._scope is not None:
            if not self._scope.expired():
                self._scope.reschedule(asyncio.get_running_loop().time())
        elif self._reply is not None:
            self._reply.fail(PeerClosed(0))

    def cancel(self) -> None:
        """The gateway cancels: the engine stops at once, then the stream ends with its receipt."""
        self.is_cancelled = True
        self.abort()

    def fail(self, why: str) -> None:
        """The miner gives up: the stream ends with an error and its receipt."""
        self.failure = why
        self.abort()

    def close(self) -> None:
        """Leave the call; an unfinished answer is cut, which frees the engine's slot."""
        if self._late is not None:
            self._late.cancel()
        if self._reply is not None:
            self._reply.end()
            self._reply = None

    def _give_up(self, why: str) -> None:
        if not self.is_cancelled and not self.failure:
            self.fail(why)

    async def _open_again(self, client: HttpClient) -> StreamReply:
        try:
            return await self._bounded_open(client)
        except WireError as error:
            raise EngineLost(str(error)) from error

    async def _bounded_open(self, client: HttpClient) -> StreamReply:
        self._check()
        loop = asyncio.get_running_loop()
        body = self.prepared.body
        try:
            async with asyncio.timeout_at(self.deadline_at) as self._scope:
                if self.prepared.template:
                    body = await self._templated(client)
                if self.seat is not None:
                    await self.admitted.instance.seats.until_safe(self.seat)
                    body = self.seat.placed(body)
                head_at = loop.time() + self.idle_ms / 1000
                if head_at < self.deadline_at:
                    self._scope.reschedule(head_at)
                return await client.begin(
                    "POST",
                    self._address + self.prepared.engine_path,
                    headers=(
                        ("content-type", self.prepared.content_type),
                        *self._engine.headers,
                    ),
                    body=body,
                )
        except TimeoutError as error:
            self._check()
            if loop.time() < self.deadline_at:
                raise EngineLost(str(DeadlinePassed("head", self.idle_ms))) from error
            raise EngineLost(LATE) from error
        finally:
            self._scope = None

    @property
    def _engine(self) -> Engine:
        engine = self.admitted.instance.engine
        assert engine is not None, "a ready instance has an engine"
        return engine

    @property
    def _address(self) -> str:
        return self._engine.address

    def sit(self) -> None:
        """Take a slot in an engine that has slots."""
        ready = self.prepared
        if ready.payer and Capability.CACHE_SLOTS in self._engine.capabilities:
            seats = self.admitted.instance.seats
            self.seat = seats.take(ready.payer, choices=ready.choices, forgoes=ready.forgoes_cache)

    def rise(self) -> None:
        """Leave it. Tokens came only if the prompt was worked on."""
        if self.seat is not None:
            is_written = self.meter.units().completion > 0
            self.admitted.instance.seats.give(self.seat, is_written=is_written)
            self.seat = None

    async def _templated(self, client: HttpClient) -> bytes:
        """The body with the prompt that the engine's template makes of the messages."""
        reply = await client.call(
            "POST",
            self._address + TEMPLATE_PATH,
            headers=(*JSON_HEADERS, *self._engine.headers),
            body=self.prepared.template,
            deadline_ms=self.idle_ms,
            body_bytes_max=TEMPLATE_BYTES_MAX,
        )
        head = Head(reply.status, reply.header("content-type"), is_stream_wanted=False)
        match meaning(head):
            case Meaning.REQUEST_REFUSED:
                raise TemplateRefused(reply.status, reply.body)
            case Meaning.REQUEST_BLAMED if blame(reply.body):
                raise TemplateRefused(reply.status, reply.body)
        try:
            prompt = _template_answer(reply.body).prompt
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineLost(f"its template answered {reply.status} without a prompt") from error
        return self.prepared.filled(prompt)

    def _check(self) -> None:
        if self.is_cancelled:
            raise Cancelled
        if self.failure:
            raise EngineLost(self.failure)


@dataclass(slots=True)
class Jobs:
    """Jobs by order id. Bounded by the instances' room."""

    _jobs: dict[str, Job] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._jobs)

    def begin(self, job: Job) -> None:
        """Take the job's place at its instance."""
        job.admitted.instance.take()
        job.sit()
        self._jobs[job.admitted.order.order_id] = job

    def end(self, job: Job) -> None:
        """Leave the engine and give the place back."""
        job.close()
        job.rise()
        del self._jobs[job.admitted.order.order_id]
        job.admitted.instance.give()

    def find(self, order_id: str) -> Job | None:
        """The job of that order, while it is in work."""
        return self._jobs.get(order_id)

    def fail_all(self, why: str) -> None:
        """Give up what is still in work."""
        for job in list(self._jobs.values()):
            job.fail(why)
