"""Lines of a batch asked like any request, over spare capacity, until each has its answer."""

import asyncio

from penstock.gateway.batches import Batch
from penstock.gateway.batches_desk import Desk
from penstock.gateway.batches_journal import Journal
from penstock.gateway.batches_lines import Line, Outcome, failure, outcome_of
from penstock.gateway.inside import Terms
from penstock.kit.tasks import Backoff
from penstock.kit.wire.http import Request, Response

PATIENT = frozenset({429, 503})
"""Answers that say: not now. They are asked again for as long as the batch may take."""
FAILING = frozenset({500, 502, 504})
"""Answers that may be chance: asked again a few times."""
FAILURES_MAX = 3
RETRY = Backoff(delay_ms_min=500, delay_ms_max=30_000)
SPARE_LOOK_MS = 100
RETRY_AFTER_S_MAX = 60


class Asking:
    """The workers of one batch. `stopped`: begin nothing new."""

    def __init__(
        self, desk: Desk, journal: Journal, *, batch: Batch, stopped: asyncio.Event
    ) -> None:
        self._desk = desk
        self._journal = journal
        self._batch = batch
        self._stopped = stopped

    async def work(self, waiting: "asyncio.Queue[Line | None]") -> None:
        """Lines one after another until None comes."""
        while (line := await waiting.get()) is not None:
            outcome = None if self._stopped.is_set() else await self._ask(line)
            if outcome is not None:
                await self._journal.add(outcome)
                kind = "done" if outcome.is_good else "failed"
                self._desk.gateway.metrics.count("gateway_batch_lines_total", outcome=kind)

    async def _ask(self, line: Line) -> Outcome | None:
        """The line's outcome; None if it was stopped before there was one."""
        bounds = self._desk.gateway.batch_bounds
        tries = failures = 0
        while not self._stopped.is_set():
            if self._journal.held_bytes > bounds.output_bytes_max:
                text = f"The batch's results have {bounds.output_bytes_max} bytes; no more is kept."
                return failure(self._batch, line, code="output_full", message=text)
            answer = await self._try(line)
            if answer is None:
                continue
            tries += 1
            failures += answer.status in FAILING
            is_final = answer.status not in PATIENT | FAILING or failures >= FAILURES_MAX
            if is_final:
                bytes_max = bounds.answer_bytes_max
                return outcome_of(self._batch, line, answer, bytes_max=bytes_max)
            self._desk.gateway.metrics.count("gateway_batch_lines_total", outcome="again")
            await self._rest(max(RETRY.delay_ms(tries), _retry_after_ms(answer)))
        return None

    async def _try(self, line: Line) -> Response | None:
        """An answer, if there is spare capacity for the question now."""
        desk, spare = self._desk, self._desk.spare
        async with desk.slots:
            chutes = spare.chutes_of(line.model)
            if self._stopped.is_set():
                return None
            if not chutes or spare.has_room(chutes):
                spare.sent(chutes)
                try:
                    return await desk.gateway.answer(
                        self._request(line),
                        terms=Terms(key_hash=self._batch.key_hash, fits=spare.fits),
                    )
                finally:
                    spare.ended(chutes)
        await self._rest(SPARE_LOOK_MS)
        return None

    def _request(self, line: Line) -> Request:
        return Request(
            "POST",
            self._batch.endpoint,
            headers={b"content-type": b"application/json"},
            body=line.body,
            request_id=self._batch.request_id(line.number),
        )

    async def _rest(self, ms: int) -> None:
        """So long, or until the batch is stopped."""
        try:
            async with asyncio.timeout(ms / 1000):
                await self._stopped.wait()
        except TimeoutError:
            return


def _retry_after_ms(answer: Response) -> int:
    told = dict(answer.headers).get("retry-after", "")
    return min(int(told), RETRY_AFTER_S_MAX) * 1000 if told.isdigit() else 0
