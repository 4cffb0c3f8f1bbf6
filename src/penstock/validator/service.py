"""The validator as a dataclass of ports: it probes, follows the log, judges epochs, reports.

Two validators that read the same log report the same bytes, whatever their own probes were.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from penstock.client.errors import Difference, NotPublished, Unreachable
from penstock.client.published import Source
from penstock.client.window import failed_miners, rolls_of, verdicts_of
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, DiskFull, Files, Sign, Verify
from penstock.kit.tasks import Scope, crash_recorder
from penstock.kit.wire.client import HttpClient
from penstock.spec.errors import SpecError
from penstock.spec.evidence import evidence_digest
from penstock.spec.messages import Report
from penstock.spec.notes import VerifyRaw
from penstock.spec.scoring import score
from penstock.validator.config import Bounds, Deadlines
from penstock.validator.errors import PeerDown, PeerRefused
from penstock.validator.evidence import gather_tables
from penstock.validator.follow import Follower
from penstock.validator.peers import Facts, Ledger, Market, Progress
from penstock.validator.probe import Asking, Found
from penstock.validator.report import Accuser, Reporter
from penstock.validator.rounds import Awaited, Rounds
from penstock.validator.store import PENDING, Notebook

POLLS_PER_EPOCH = 60
POLL_MS_MIN, POLL_MS_MAX = 200, 5_000
REFUSAL_POLLS = 10
"""An epoch that does not hold is read again after this many polls."""

_log = events("validator")


@dataclass(frozen=True, slots=True)
class Urls:
    """Whom this validator talks to."""

    gateway: str
    market: str
    ledger: str


@dataclass(slots=True, eq=False)
class Validator:
    """One validator: ports and numbers in, its parts made of them. Raises NotebookTorn."""

    name: str
    clock: Clock
    http: HttpClient
    key: Sign
    verify: Verify
    verify_raw: VerifyRaw
    rng: random.Random
    files: Files
    """Its own memory, not published."""
    source: Source
    facts: Facts
    urls: Urls
    api_key: str = field(repr=False)
    deadlines: Deadlines = field(default_factory=Deadlines)
    bounds: Bounds = field(default_factory=Bounds)
    metrics: Metrics = field(default_factory=Metrics)

    progress: Progress = field(init=False, default_factory=lambda: Progress(-1, -1))
    refusals: dict[int, str] = field(init=False, default_factory=dict)
    """Epochs that this validator will not report on, and why."""
    trouble: str = field(init=False, default="")
    """What keeps it from working at the moment; "" when all is well."""
    has_seat: bool = field(init=False, default=True)
    notebook: Notebook = field(init=False)
    awaited: Awaited = field(init=False)
    rounds: Rounds = field(init=False)
    follower: Follower = field(init=False)
    reporter: Reporter = field(init=False)
    accuser: Accuser = field(init=False)
    _judged_epoch: int = field(init=False, default=-1)
    _pause_polls: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        ledger = Ledger(self.http, self.urls.ledger, self.deadlines.peer_ms)
        market = Market(self.http, self.urls.market, self.deadlines.peer_ms)
        asking = Asking(
            http=self.http,
            gateway_url=self.urls.gateway,
            verify=self.verify,
            deadline_ms=self.deadlines.probe_ms,
            answer_bytes_max=self.bounds.answer_bytes_max,
            api_key=self.api_key,
        )
        self.notebook = Notebook(self.files, self.bounds.exhibits_max)
        self.awaited = Awaited(self.bounds.awaited_max)
        self.rounds = Rounds(
            clock=self.clock,
            rng=self.rng,
            params=self.facts.params,
            market=market,
            asking=asking,
            verify=self.verify,
            bounds=self.bounds,
            notebook=self.notebook,
            awaited=self.awaited,
            metrics=self.metrics,
        )
        self.follower = Follower(
            source=self.source,
            params=self.facts.params,
            log_key=self.facts.charter.ledger,
            identity=self.key.identity,
            verify=self.verify,
            verify_raw=self.verify_raw,
            metrics=self.metrics,
            on_record=self.awaited.found,
        )
        self.reporter = Reporter(ledger, self.key, self.notebook, self.metrics)
        self.accuser = Accuser(ledger, self.key, self.notebook, self.metrics)

    def start(self, scope: Scope) -> None:
        """Start both loops: probing, and following the log."""
        crash = crash_recorder(self.metrics)
        scope.supervise("probes", self.rounds.run, on_event=crash)
        scope.supervise("epochs", self._follow, on_event=crash)

    async def _follow(self) -> None:
        poll_ms = self.facts.params.epoch_ms // POLLS_PER_EPOCH
        poll_ms = min(max(poll_ms, POLL_MS_MIN), POLL_MS_MAX)
        while True:
            await self.step()
            await asyncio.sleep(poll_ms / 1000)

    async def step(self) -> None:
        """Everything that can be done now. What fails is told in `trouble` and tried again."""
        troubles = [
            await self._try(work)
            for work in (self._look, self._judge_new, self._deliver_reports, self._deliver_verdicts)
        ]
        trouble = next((one for one in troubles if one), "")
        if trouble and trouble != self.trouble:
            _log.warning("validator.trouble", reason=trouble)
        self.trouble = trouble
        self._show()

    async def _try(self, work: Callable[[], Awaitable[None]]) -> str:
        """What kept this part of the work from being done; "" when nothing did."""
        try:
            await work()
        except (PeerDown, PeerRefused, Unreachable) as error:
            return str(error)
        except NotPublished as error:
            # Closed, but its files are still being written: the next poll will find them.
            _log.debug("epoch.unpublished", file=error.name)
        except DiskFull as error:
            return f"The disk of this validator's home is full ({error}). Free space on it."
        return ""

    async def _look(self) -> None:
        self.progress = await self.reporter.ledger.progress()

    async def _deliver_reports(self) -> None:
        await self.reporter.deliver(self.progress)

    async def _deliver_verdicts(self) -> None:
        await self.accuser.deliver(self.progress)

    async def _judge_new(self) -> None:
        """Judge the newest closed epoch, and older ones of its window that are not settled yet."""
        newest = self.progress.closed
        if newest <= self._judged_epoch:
            return
        if self._pause_polls:
            self._pause_polls -= 1
            return
        try:
            window = await self.follower.window(newest)
        except Difference as error:
            self._refuse(newest, error)
            return
        for epoch in [held.epoch for held in window]:
            if epoch > max(self.progress.settled, self._judged_epoch):
                await self._judge(epoch)
        if newest not in self.refusals:
            self._judged_epoch = newest
        for order_id in self.awaited.give_up(newest):
            self.metrics.count("validator_records_missing_total")
            _log.warning("record.missing", order_id=order_id)

    async def _judge(self, epoch: int) -> None:
        """Sign a report on one epoch, or refuse to."""
        try:
            report = await self.report_on(epoch)
        except Difference as error:
            self._refuse(epoch, error)
            return
        self.refusals.pop(epoch, None)
        if report is not None:
            self.reporter.sign(report)

    async def report_on(self, epoch: int) -> Report | None:
        """What the law makes of the epoch's window; None when this validator has no seat in it.

        Raises Difference, NotPublished, Unreachable.
        """
        window = await self.follower.window(epoch)
        charter = await self.follower.charter(window)
        self.has_seat = any(seat.validator == self.key.identity for seat in charter.seats)
        if not self.has_seat:
            return None
        words = [leaf for held in window for leaf in held.words]
        failed = failed_miners(
            verdicts_of(words),
            charter,
            record_of=await self.follower.accused(window),
            verify=self.verify,
        )
        rolls = rolls_of(words, charter, self.verify)
        begun_us = self.clock.mono_us()
        try:
            evidence = gather_tables([held.table for held in window], rolls, failed=failed)
            digest, scores = evidence_digest(evidence), score(evidence, self.facts.params)
        except SpecError as error:
            where = f"evidence of epoch {epoch}"
            raise Difference(where, f"what the law refuses ({error})", "lawful numbers") from error
        self.metrics.observe("validator_scoring_ms", (self.clock.mono_us() - begun_us) // 1000)
        last = window[-1].checkpoint
        return Report(
            validator=self.key.identity,
            epoch=epoch,
            policy=self.facts.params.policy,
            log_size=last.size,
            log_root=last.root.hex(),
            evidence_digest=digest,
            scores=scores,
        )

    def _refuse(self, epoch: int, error: Difference) -> None:
        if self.refusals.get(epoch) != str(error):
            _log.error(
                "epoch.refused",
                epoch=epoch,
                where=error.where,
                published=error.published,
                recomputed=error.recomputed,
            )
            self.metrics.count("validator_refusals_total")
        self.refusals[epoch] = str(error)
        oldest = epoch - self.facts.params.window_epochs
        self.refusals = {one: why for one, why in self.refusals.items() if one >= oldest}
        self._pause_polls = REFUSAL_POLLS

    def _show(self) -> None:
        self.metrics.gauge("validator_epoch_closed", self.progress.closed)
        self.metrics.gauge("validator_epoch_judged", self._judged_epoch)
        self.metrics.gauge("validator_refusing", len(self.refusals))
        self.metrics.gauge("validator_records_awaited", self.awaited.count)
        self.metrics.gauge("validator_exhibits", len(self.notebook.exhibits))

    def health(self) -> dict[str, Any]:
        """What an operator should know. `problems` is empty when all is well."""
        problems = [
            f"Epoch {epoch} does not hold, and is not reported on: {why}"
            for epoch, why in sorted(self.refusals.items())
        ]
        problems += [said for said in (self.trouble, self.reporter.conflict) if said]
        if self.rounds.is_unpaid:
            problems.append(
                "The gateway refuses this validator's probes for want of money (402). Put money "
                "into its account; it goes on by itself."
            )
        if not self.has_seat:
            problems.append("This validator has no seat in the charter: its reports do not count.")
        reports = self.notebook.reports
        return {
            "status": "refusing" if self.refusals else "degraded" if problems else "ok",
            "name": self.name,
            "validator": self.key.identity,
            "problems": problems,
            "epochs": {
                "closed": self.progress.closed,
                "settled": self.progress.settled,
                "judged": self._judged_epoch,
                "reported": max((one.epoch for one in reports), default=-1),
                "pending": sum(one.state == PENDING for one in reports),
            },
            "probes": {found.value: self.rounds.counts[found] for found in Found},
            "records": {
                "awaited": self.awaited.count,
                "missing": self.awaited.missing,
                "rechecked": self.follower.rechecked,
            },
            "verdicts": {**self.accuser.states, PENDING: len(self.notebook.exhibits)},
        }
