"""Serves orders: each ends with one receipt, signed or vouched for, whatever happens.

| what happens | the gateway gets | outcome |
|---|---|---|
| the answer, whole or streamed | 200 | complete |
| the request cannot be served as it is (ours, or the engine's 4xx) | 4xx | complete, no units |
| no room, or draining | 503, at once | refused |
| the engine is lost before its first byte | 502 | miner_failed |
| the engine is lost later | an error event | miner_failed |
| cancelled, or the gateway's connection breaks | the end of the stream, or nothing | client_cancelled |

Receipts of work go to the outbox before the last bytes go out, so that a crash loses no earnings.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from penstock.kit.errors import EventTooLarge
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Sign
from penstock.kit.wire.client import StreamReply
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream
from penstock.kit.wire.problem import problem
from penstock.miner.admission import Admission, Admitted
from penstock.miner.answers import whole_answer
from penstock.miner.config import Bounds, Deadlines
from penstock.miner.engine_links import EngineLinks
from penstock.miner.errors import OrderRefused, RequestUnservable
from penstock.miner.jobs import Cancelled, EngineLost, Job, Jobs, TemplateRefused
from penstock.miner.meter import EARNING, Meter
from penstock.miner.normalise import StreamReader
from penstock.miner.outbox import Outbox
from penstock.miner.paths import PATHS
from penstock.miner.rewrite import prepare
from penstock.miner.sealing import Sealing
from penstock.miner.store import Claim
from penstock.miner.sums import count_receipt
from penstock.miner.transcript import Transcript
from penstock.miner.verdicts import ERROR_BYTES_MAX, Head, Meaning, blame, meaning, passed_on
from penstock.miner.word import Pen, Word
from penstock.spec.params import Params
from penstock.spec.receipts import Outcome
from penstock.spec.sessions import SESSION_HEADER
from penstock.spec.stream import ORDER_HEADER, RECEIPT_HEADER
from penstock.spec.units import NO_UNITS, Units

RETRY_AFTER = (("retry-after", "1"),)
CLIENT_CLOSED = 499
"""nginx's status for a request that its client gave up; nobody is there to read it."""


@dataclass(slots=True)
class Front:
    """The request side of a miner. `is_draining` says that the miner takes no more orders."""

    admission: Admission
    jobs: Jobs
    sealing: Sealing
    key: Sign
    clock: Clock
    engines: EngineLinks
    params: Params
    deadlines: Deadlines
    bounds: Bounds
    metrics: Metrics
    is_draining: Callable[[], bool]
    salt_key: bytes
    """Of what parts the payers in the engines' caches."""

    @property
    def outbox(self) -> Outbox:
        """Where receipts that can earn are kept."""
        return self.sealing.outbox

    async def serve(self, request: Request) -> Response | Stream:
        """Answer a request that carries an order."""
        assert request.path in PATHS, "routes lead only the known paths here"
        try:
            admitted = self.admission.admit(
                request.header(ORDER_HEADER),
                path=request.path,
                body=request.body,
                session=request.header(SESSION_HEADER),
            )
        except OrderRefused as refused:
            self.metrics.count("miner_orders_refused_total", code=refused.code)
            return problem(
                refused.status, refused.code, refused.message, request_id=request.request_id
            )
        order_digest = admitted.statement.digest.hex()
        meter = Meter(admitted.order, order_digest, accept_ms=self.clock.now_ms())
        if self.is_draining() or admitted.instance.room == 0:
            return self._refused(admitted, meter)
        job = self._job(admitted, meter, request.body)
        if isinstance(job, Response):
            return job
        if not admitted.order.stream:
            return await self._whole(job)
        chunks = self._streamed(job)
        try:
            # The first item comes when the engine's first event is here: a failure before it can
            # still become an error status, so that the gateway may try another miner.
            await anext(chunks)
        except _Answered as answered:
            return answered.response
        return Stream(200, SSE_HEADERS, chunks)

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/cancel/{order_id}`: the gateway that ordered may stop the work."""
        try:
            order = self.admission.proof(request.body, session=request.header(SESSION_HEADER))
        except OrderRefused as refused:
            return problem(refused.status, refused.code, refused.message)
        job = self.jobs.find(order.order_id)
        is_named = order.order_id == request.params["order_id"]
        if job is None or not is_named or job.admitted.order != order:
            return problem(404, "order_unknown", "No such order is in work here.")
        job.cancel()
        return Response(200, b"{}", (("content-type", "application/json"),))

    def _job(self, admitted: Admitted, meter: Meter, body: bytes) -> Job | Response:
        """The job for an order, or the 400 that says why the engine would not take the request."""
        order, instance = admitted.order, admitted.instance
        assert instance.engine is not None, "an instance with room has an engine"
        try:
            prepared = prepare(
                body,
                order,
                manifest=instance.manifest,
                model=instance.engine.model,
                capabilities=instance.engine.capabilities,
                salt_key=self.salt_key,
            )
        except RequestUnservable as error:
            answer = problem(
                400, error.code, error.message, param=error.param, request_id=order.order_id
            )
            return self._finished(admitted, meter, answer, outcome=Outcome.COMPLETE)
        left_ms = order.deadline_ms - self.clock.now_ms()
        return Job(
            admitted=admitted,
            meter=meter,
            prepared=prepared,
            deadline_at=asyncio.get_running_loop().time() + left_ms / 1000,
            idle_ms=self.deadlines.engine_idle_ms,
        )

    # Whole answers.

    async def _whole(self, job: Job) -> Response:
        """One answer in one piece."""
        ended = False
        self.jobs.begin(job)
        try:
            reply = await job.open(self.engines)
            answer = await self._unusual(job, reply)
            if answer is None:
                answer = await self._answer(job, reply)
            ended = True
        except TemplateRefused as refused:
            ended = True
            answer = self._passed_on(job, refused.status, refused.body)
        except EngineLost as lost:
            ended = True
            answer = self._failed(job, lost.why)
        except Cancelled:
            ended = True
            gone = problem(
                CLIENT_CLOSED,
                "client_cancelled",
                "The gateway cancelled the order.",
                request_id=job.admitted.order.order_id,
            )
            answer = self._finished(job.admitted, job.meter, gone, outcome=Outcome.CLIENT_CANCELLED)
        finally:
            if not ended:
                # Our task was cancelled: the connection is gone, and nothing had been sent.
                self._cut(job)
            self.jobs.end(job)
        return answer

    async def _answer(self, job: Job, reply: StreamReply) -> Response:
        """The engine's 200, under the chute's name. Raises EngineLost, Cancelled."""
        body = await self._read_all(job, bytes_max=self.bounds.answer_bytes_max)
        answer = whole_answer(
            body,
            reply.header("content-type"),
            prepared=job.prepared,
            manifest=job.admitted.instance.manifest,
        )
        if answer is None:
            raise EngineLost("its answer is none to what was asked")
        if answer.counts is not None:
            job.meter.count(answer.counts)
        response = Response(200, answer.body, (("content-type", answer.content_type),))
        return self._finished(
            job.admitted,
            job.meter,
            response,
            outcome=Outcome.COMPLETE,
            units=job.meter.units(),
        )

    async def _unusual(self, job: Job, reply: StreamReply) -> Response | None:
        """The response to an engine's reply that is no answer; None if it is one.

        Raises EngineLost, Cancelled.
        """
        head = Head(
            status=reply.status,
            content_type=reply.header("content-type"),
            is_stream_wanted=job.admitted.order.stream,
        )
        match meaning(head):
            case Meaning.ANSWER:
                return None
            case Meaning.FULL:
                return self._refused(job.admitted, job.meter)
            case Meaning.REQUEST_REFUSED:
                body = await self._read_all(job, bytes_max=ERROR_BYTES_MAX)
                return self._passed_on(job, reply.status, body)
            case Meaning.REQUEST_BLAMED:
                body = await self._read_all(job, bytes_max=ERROR_BYTES_MAX)
                if not blame(body) or not await self._is_well(job):
                    raise EngineLost(f"it answered {head.status}")
                return self._passed_on(job, reply.status, body)
            case Meaning.FAILED:
                raise EngineLost(f"it answered {head.status} {head.content_type}".strip())

    async def _is_well(self, job: Job) -> bool:
        engine = job.admitted.instance.engine
        return engine is not None and (await engine.stats()).ready

    async def _read_all(self, job: Job, *, bytes_max: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while data := await job.read():
            size += len(data)
            if size > bytes_max:
                raise EngineLost(f"its answer is larger than {bytes_max} bytes")
            parts.append(data)
        return b"".join(parts)

    # Streams.

    async def _streamed(self, job: Job) -> AsyncGenerator[bytes, None]:
        """The bytes of a stream; first b"" when the engine's first event is here.

        Raises _Answered before that when there is no stream. Whoever leaves early (the connection
        broke) leaves a cancelled order: its receipt for what was sent goes to the outbox.
        """
        transcript = Transcript(
            meter=job.meter,
            reader=StreamReader.of(job.admitted.instance.manifest.name, job.prepared),
            pen=self._pen(job.admitted),
            checkpoint_events=self.params.checkpoint_events,
        )
        ended = started = False
        outcome, why = Outcome.COMPLETE, ""
        self.jobs.begin(job)
        try:
            try:
                reply = await job.open(self.engines)
                unusual = await self._unusual(job, reply)
                if unusual is not None:
                    ended = True
                    raise _Answered(unusual)
                while data := await self._fed(job, transcript):
                    if not started:
                        started = True
                        yield b""
                    yield data
            except EngineLost as lost:
                # What breaks after the answer's own end is no loss to anybody.
                if not transcript.is_whole:
                    if not started:
                        ended = True
                        raise _Answered(self._failed(job, lost.why)) from lost
                    outcome, why = Outcome.MINER_FAILED, f"The miner's engine was lost: {lost.why}."
                    job.note_lost(lost.why)
            except Cancelled:
                outcome = Outcome.CLIENT_CANCELLED
            if not started:
                yield b""
            last, word = transcript.end(outcome, now_ms=self.clock.now_ms(), why=why)
            ended = True
            self._file(job.admitted, word)
            yield last
        finally:
            if not ended:
                self._cut(job)
            self.jobs.end(job)

    async def _fed(self, job: Job, transcript: Transcript) -> bytes:
        """The next bytes for the client; b"" when the engine has ended well.

        Raises EngineLost, Cancelled.
        """
        while not transcript.failed:
            # Before the next bytes are read: what was counted has been sent.
            job.check_flood(bytes_max=self.bounds.answer_bytes_max)
            if not (data := await job.read()):
                break
            try:
                out = transcript.feed(data, now_ms=self.clock.now_ms())
            except EventTooLarge as error:
                raise EngineLost(str(error)) from error
            if out:
                return out
        if transcript.failed:
            raise EngineLost("it reported an error in mid-stream")
        if not transcript.is_whole:
            raise EngineLost("it ended its stream before the answer's end")
        return b""

    # Ends.

    def _refused(self, admitted: Admitted, meter: Meter) -> Response:
        """No room: said at once, and signed, so that it costs no availability."""
        answer = problem(
            503,
            "no_capacity",
            "This instance has no room for another request. Try another one.",
            request_id=admitted.order.order_id,
            headers=RETRY_AFTER,
        )
        return self._finished(admitted, meter, answer, outcome=Outcome.REFUSED)

    def _passed_on(self, job: Job, status: int, body: bytes) -> Response:
        """The engine's refusal of the request: complete, and without units."""
        order = job.admitted.order
        answer = passed_on(status, body, request_id=order.order_id, path=order.path)
        return self._finished(job.admitted, job.meter, answer, outcome=Outcome.COMPLETE)

    def _failed(self, job: Job, why: str) -> Response:
        """The engine was lost before anything had been passed on."""
        job.note_lost(why)
        answer = problem(
            502,
            "miner_failed",
            f"The miner's engine was lost: {why}. Try again.",
            request_id=job.admitted.order.order_id,
        )
        return self._finished(job.admitted, job.meter, answer, outcome=Outcome.MINER_FAILED)

    def _finished(
        self,
        admitted: Admitted,
        meter: Meter,
        answer: Response,
        *,
        outcome: Outcome,
        units: Units = NO_UNITS,
    ) -> Response:
        """A whole answer with its receipt in the header."""
        meter.send(answer.body, events=0, now_ms=self.clock.now_ms())
        word = self._pen(admitted).receipt(meter.receipt(outcome, units))
        self._file(admitted, word)
        headers = (*answer.headers, (RECEIPT_HEADER, word.header()))
        return Response(answer.status, answer.body, headers)

    def _cut(self, job: Job) -> None:
        """The gateway left: nobody gets the receipt, but what was sent is proven by it."""
        receipt = job.meter.receipt(Outcome.CLIENT_CANCELLED)
        self._file(job.admitted, self._pen(job.admitted).receipt(receipt))

    def _pen(self, admitted: Admitted) -> Pen:
        return Pen(self.key, b"" if admitted.session is None else admitted.session.key)

    def _file(self, admitted: Admitted, word: Word) -> None:
        """Count the end, and keep the receipt until the ledger knows it, if it can earn anything."""
        order_id, receipt = admitted.order.order_id, word.receipt
        if receipt.units != NO_UNITS:
            admitted.instance.answered()
        count_receipt(self.metrics, receipt, admitted.instance.manifest.name)
        can_be_proven = admitted.statement.is_signed
        if admitted.session is not None:
            can_be_proven |= self.sealing.close(order_id, word.statement)
        if receipt.outcome in EARNING and can_be_proven:
            claim = Claim(order_id, admitted.statement, word.statement)
            due_ms = self.clock.now_ms() + self.sealing.settle_ms
            self.outbox.put(claim, due_ms=due_ms)


class _Answered(Exception):
    """A stream's order that ends with a whole answer instead."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response
