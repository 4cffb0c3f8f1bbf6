"""A streamed answer as it leaves the miner: normalised events, checkpoints, and the receipt last.

Pure but for the pen that signs: engine bytes in, bytes for the client out. However the engine's bytes
are cut, the same bytes come out, so digest, events and units never depend on the network.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.sse import comment
from penstock.kit.wire.problem import problem
from penstock.miner.meter import Meter
from penstock.miner.normalise import DONE, StreamReader, run_counts
from penstock.miner.stencil import Run
from penstock.miner.word import Pen, Word
from penstock.spec.receipts import Outcome
from penstock.spec.stream import CHECKPOINT_COMMENT, RECEIPT_COMMENT


@dataclass(slots=True)
class Transcript:
    """One stream. Feed it the engine's bytes, then call `end` once."""

    meter: Meter
    reader: StreamReader
    pen: Pen
    checkpoint_events: int
    failed: bool = False
    """The engine said that it failed; nothing after that counts."""

    @property
    def is_whole(self) -> bool:
        """The engine has said the answer's end, and no error."""
        return self.reader.finished and not self.failed

    def feed(self, data: bytes, *, now_ms: int) -> bytes:
        """What these engine bytes give the client, checkpoints included. Raises EventTooLarge."""
        out: list[bytes] = []
        for step in self.reader.feed(data):
            if isinstance(step, Run):
                self._run(step, out, now_ms)
                continue
            if step.failed:
                self.failed = True
                break
            self.meter.see(step)
            if step.data:
                out.append(self._sent(step.data, events=1, now_ms=now_ms))
                if self.meter.events % self.checkpoint_events == 0:
                    out.append(self._checkpoint(now_ms))
        return b"".join(out)

    def end(self, outcome: Outcome, *, now_ms: int, why: str = "") -> tuple[bytes, Word]:
        """(the last bytes, the word on the order in them). `why` is shown to the client when it failed."""
        last = b""
        if outcome is Outcome.COMPLETE:
            last = self._sent(DONE, events=1, now_ms=now_ms)
        elif outcome is Outcome.MINER_FAILED:
            last = self._sent(error_event(why, self.meter.order.order_id), events=1, now_ms=now_ms)
        word = self.pen.receipt(self.meter.receipt(outcome))
        return last + comment(RECEIPT_COMMENT, word.text), word

    def _run(self, run: Run, out: list[bytes], now_ms: int) -> None:
        """Events in a row, cut where a checkpoint is due."""
        meter, at = self.meter, 0
        while at < len(run):
            left = self.checkpoint_events - meter.events % self.checkpoint_events
            end = min(at + left, len(run))
            meter.see_run(end - at, run_counts(run, end - 1))
            out.append(self._sent(run.data(at, end), events=end - at, now_ms=now_ms))
            if meter.events % self.checkpoint_events == 0:
                out.append(self._checkpoint(now_ms))
            at = end

    def _checkpoint(self, now_ms: int) -> bytes:
        said = comment(CHECKPOINT_COMMENT, self.pen.checkpoint(self.meter.checkpoint()))
        return self._sent(said, events=0, now_ms=now_ms)

    def _sent(self, data: bytes, *, events: int, now_ms: int) -> bytes:
        self.meter.send(data, events=events, now_ms=now_ms)
        return data


def error_event(why: str, request_id: str) -> bytes:
    """The error envelope as a data event: what a client sees when an answer breaks off."""
    envelope: Any = msgspec.Raw(problem(502, "miner_failed", why, request_id=request_id).body)
    return b"data: %b\n\n" % msgspec.json.encode(envelope)
