"""One batch, run by one gateway: checked, asked line by line, put into files.

Every step is safe to repeat: whoever takes a batch over reads its record and its journal and goes on
from there. A runner that finds the record held by another stops at once.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from penstock.gateway.batches import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    VALIDATING,
    Batch,
    Counts,
    LineError,
)
from penstock.gateway.batches_asking import Asking
from penstock.gateway.batches_desk import Desk
from penstock.gateway.batches_journal import Journal
from penstock.gateway.batches_lines import BadLine, Line, failure, read_line, split_lines
from penstock.gateway.batches_record import Known
from penstock.gateway.errors import GatewayError
from penstock.gateway.files import OUTPUT_PURPOSE, NewFile
from penstock.gateway.files_errors import FileUnknown
from penstock.kit.ports import BusDown, Conflict, DiskFull
from penstock.kit.tasks import Backoff, Scope

ERRORS_MAX = 100
RETRY = Backoff(delay_ms_min=200, delay_ms_max=10_000)
TROUBLES = (BusDown, DiskFull, GatewayError)


class BatchLost(Exception):
    """Another gateway holds the batch now."""


class Run:
    """One batch from where it stands to its end. `stop` lets it rest where it is."""

    def __init__(self, desk: Desk, known: Known, journal: Journal) -> None:
        self._desk = desk
        self._known = known
        self._journal = journal
        self._saving = asyncio.Lock()
        self.stopped = asyncio.Event()
        """No line is begun any more: cancelled, late, halted, or lost."""
        self._is_halted = False

    @property
    def batch(self) -> Batch:
        return self._known.batch

    def halt(self) -> None:
        """The gateway ends: finish what is on its way, then let go."""
        self._is_halted = True
        self.stopped.set()

    async def go(self) -> None:
        """Raises BatchLost."""
        async with Scope() as scope:
            scope.start("beat", self._beat())
            try:
                await self._steps()
            finally:
                scope.cancel()

    async def _steps(self) -> None:
        failures = 0
        while self.batch.is_open and not self._is_halted:
            try:
                await self._step()
                failures = 0
            except TROUBLES:
                failures += 1
                await asyncio.sleep(RETRY.delay_ms(failures) / 1000)
        if self.batch.is_open:
            await self._save(holder="", until_ms=0)
        else:
            await self._journal.forget()
            await self._desk.records.close(self.batch.id)

    async def _step(self) -> None:
        if self.batch.status in {FINALIZING, CANCELLING}:
            await self._finish()
            return
        if self._is_late():
            self.stopped.set()
        elif self.stopped.is_set():
            raise BusDown("the record could not be renewed")
        if self.batch.status == VALIDATING:
            await self._validate()
        else:
            await self._work()

    # Steps.

    async def _validate(self) -> None:
        """All lines, before the first is run."""
        ids: set[str] = set()
        models: set[str] = set()
        errors: list[LineError] = []
        total, lines_max = 0, self._desk.gateway.batch_bounds.lines_max
        try:
            async with aclosing(self._lines(errors)) as lines:
                async for line in lines:
                    total += 1
                    models.add(line.model)
                    if line.custom_id in ids:
                        text = f"The custom_id {line.custom_id[:80]!r} is used by a line before."
                        error = LineError("duplicate_custom_id", text, line.number, "custom_id")
                        errors.append(error)
                    ids.add(line.custom_id)
                    if len(errors) >= ERRORS_MAX or total > lines_max or self.stopped.is_set():
                        break
        except FileUnknown as error:
            errors.append(LineError("input_file_missing", error.text()))
        if total > lines_max:
            errors.append(LineError("too_many_lines", f"A batch may have {lines_max} lines."))
        elif not total and not errors:
            errors.append(LineError("empty_file", "The input file has no lines."))
        now_s = self._now_s()
        if errors:
            await self._save(status=FAILED, errors=errors[:ERRORS_MAX], failed_at=now_s)
        elif self._is_late() or not self.stopped.is_set():
            model = models.pop() if len(models) == 1 else ""
            counts = Counts(total=total)
            await self._save(status=IN_PROGRESS, in_progress_at=now_s, counts=counts, model=model)

    async def _work(self) -> None:
        """Run every line that the journal does not have."""
        await self._journal.load()
        parallel_max = self._desk.gateway.batch_bounds.parallel_max
        asking = Asking(self._desk, self._journal, batch=self.batch, stopped=self.stopped)
        waiting: asyncio.Queue[Line | None] = asyncio.Queue(maxsize=parallel_max)
        trouble: GatewayError | None = None
        async with Scope() as workers:
            for _ in range(parallel_max):
                workers.start("lines", asking.work(waiting))
            try:
                await self._feed(waiting)
            except GatewayError as error:
                trouble = error  # what is on its way is not cut off for it
            for _ in range(parallel_max):
                await waiting.put(None)
        if isinstance(trouble, FileUnknown):
            errors = [LineError("input_file_missing", trouble.text())]
            await self._save(errors=errors, status=FINALIZING, finalizing_at=self._now_s())
        elif trouble is not None:
            raise trouble
        elif self._is_late() or not self.stopped.is_set():
            is_late = self._is_late()
            await self._save(status=FINALIZING, finalizing_at=self._now_s(), is_late=is_late)

    async def _feed(self, waiting: "asyncio.Queue[Line | None]") -> None:
        """Lines that have not run yet. Raises FileUnknown, BooksBehind."""
        async with aclosing(self._lines([])) as lines:
            async for line in lines:
                if self.stopped.is_set():
                    return
                if line.number not in self._journal.lines:
                    await waiting.put(line)

    async def _finish(self) -> None:
        """The two files, and the end."""
        batch = self.batch
        await self._journal.load()
        good, bad = self._journal.counts
        is_whole = good + bad >= batch.counts.total
        if batch.status == FINALIZING and not (is_whole or batch.is_late or batch.errors):
            await self._save(status=IN_PROGRESS)  # an entry is lost: its lines run again
            return
        changes: dict[str, Any] = {}
        if good:
            changes["output_file_id"] = await self._put_file("output", is_good=True)
        if bad or (batch.is_late and not is_whole):
            changes["error_file_id"] = await self._put_file("error", is_good=False)
        now_s = self._now_s()
        if batch.status == CANCELLING:
            changes |= {"status": CANCELLED, "cancelled_at": now_s}
        elif batch.errors:
            changes |= {"status": FAILED, "failed_at": now_s}
        elif batch.is_late and not is_whole:
            changes |= {"status": EXPIRED, "expired_at": now_s}
        else:
            changes |= {"status": COMPLETED, "completed_at": now_s}
        if await self._save(**changes):
            self._desk.gateway.metrics.count("gateway_batches_total", status=self.batch.status)

    async def _put_file(self, kind: str, *, is_good: bool) -> str:
        batch = self.batch
        file_id = batch.file_id(kind)
        new = NewFile(f"{batch.id}_{kind}.jsonl", OUTPUT_PURPOSE, batch.output_life_s)
        async with aclosing(self._results(is_good=is_good)) as results:
            await self._desk.files.put(batch.shelf, file_id, new=new, parts=results)
        return file_id

    async def _results(self, *, is_good: bool) -> AsyncGenerator[bytes, None]:
        """Lines of an output file; of a late batch's error file also those that were never run."""
        async with aclosing(self._journal.outcomes()) as outcomes:
            async for outcome in outcomes:
                if outcome.is_good == is_good:
                    yield bytes(outcome.result) + b"\n"
        if is_good or not self.batch.is_late:
            return
        text = "This request could not be run before the completion window ended."
        try:
            async with aclosing(self._lines([])) as lines:
                async for line in lines:
                    if line.number not in self._journal.lines:
                        outcome = failure(self.batch, line, code="batch_expired", message=text)
                        yield bytes(outcome.result) + b"\n"
        except FileUnknown:
            return  # nobody can tell any more what they were

    async def _lines(self, errors: list[LineError]) -> AsyncGenerator[Line, None]:
        """The lines that can be run; why others cannot goes into `errors`. Raises FileUnknown."""
        batch, gateway = self.batch, self._desk.gateway
        line_bytes_max = gateway.bounds.body_bytes_max
        async with aclosing(self._desk.files.content(batch.shelf, batch.input_file_id)) as parts:
            try:
                async for number, raw in split_lines(parts, line_bytes_max=line_bytes_max):
                    try:
                        line = read_line(number, raw, batch.endpoint)
                    except BadLine as error:
                        errors.append(error.error)
                        if len(errors) >= ERRORS_MAX:
                            return
                    else:
                        yield line
            except BadLine as error:
                errors.append(error.error)

    # The record.

    async def _beat(self) -> None:
        """Renew the hold, show the counts, and hear what others have written."""
        beat_ms = self._desk.gateway.batch_bounds.beat_ms
        while True:
            await asyncio.sleep(beat_ms / 1000)
            if self._is_late():
                self.stopped.set()
            try:
                await self._save()
            except (BusDown, DiskFull):
                if self._now_ms() > self.batch.until_ms:
                    self.stopped.set()  # another may hold it by now: begin nothing new
            else:
                if not (self._is_halted or self._is_late() or self.batch.status == CANCELLING):
                    self.stopped.clear()

    async def _save(self, **changes: Any) -> bool:
        """Write the record; False if somebody else's change came first and was taken over instead.

        Raises BatchLost, BusDown, DiskFull.
        """
        async with self._saving:
            batch = self.batch
            total = batch.counts.total
            if self._journal.is_loaded:
                changes.setdefault("counts", self._journal.counted(total))
                changes.setdefault("usage", self._journal.usage)
            until_ms = self._now_ms() + self._desk.gateway.batch_bounds.hold_ms
            changes = {"holder": self._desk.name, "until_ms": until_ms} | changes
            new = msgspec.structs.replace(batch, **changes)
            try:
                self._known = await self._desk.records.put(self._known, new)
            except Conflict as error:
                known = await self._desk.records.find(batch.shelf, batch.id)
                if known is None or known.batch.holder != self._desk.name:
                    self.stopped.set()
                    raise BatchLost(batch.id) from error
                self._known = known
                if known.batch.status == CANCELLING:
                    self.stopped.set()
                return False
            return True

    async def hear(self) -> None:
        """Somebody here has changed the record."""
        try:
            await self._save()
        except (BatchLost, BusDown, DiskFull):
            return  # the next beat finds out

    def _is_late(self) -> bool:
        return self._now_s() >= self.batch.expires_at

    def _now_ms(self) -> int:
        return self._desk.gateway.clock.now_ms()

    def _now_s(self) -> int:
        return self._now_ms() // 1000
