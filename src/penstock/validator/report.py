"""Reports and verdicts: signed once, remembered before they are sent, sent until they are taken."""

from dataclasses import dataclass, field

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Sign
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Report, Verdict
from penstock.validator.errors import PeerRefused
from penstock.validator.peers import Ledger, Progress
from penstock.validator.rounds import LATE_EPOCHS
from penstock.validator.store import ACCEPTED, LATE, PENDING, REFUSED, Exhibit, Notebook

_log = events("validator")


@dataclass(slots=True)
class Reporter:
    """One report per epoch, never two different ones. `conflict` says that two would have been."""

    ledger: Ledger
    key: Sign
    notebook: Notebook
    metrics: Metrics
    conflict: str = ""

    def sign(self, report: Report) -> None:
        """Sign and remember a report, unless one on this epoch was signed before. Raises DiskFull."""
        kept = self.notebook.report(report.epoch)
        if kept is None and self.notebook.may_report(report.epoch):
            self.notebook.keep_report(report.epoch, sign("report", report, self.key))
        elif kept is not None and kept.signed["body"] != to_plain(report):
            # The log has not changed, so one of the two is wrong: the word that was given stands.
            self.conflict = f"epoch {report.epoch} gave other scores than before"
            _log.error("report.conflict", epoch=report.epoch)

    async def deliver(self, progress: Progress) -> None:
        """Send what is signed and not taken yet. Raises PeerDown, DiskFull, NotebookTorn."""
        for kept in self.notebook.reports:
            if kept.state != PENDING:
                continue
            if kept.epoch <= progress.settled:
                self._mark(kept.epoch, LATE)
                continue
            try:
                await self.ledger.report(kept.opened())
            except PeerRefused as error:
                _log.error("report.refused", epoch=kept.epoch, code=error.code, reason=str(error))
                self._mark(kept.epoch, REFUSED)
            else:
                self._mark(kept.epoch, ACCEPTED)
                _log.info("report.accepted", epoch=kept.epoch)

    def _mark(self, epoch: int, state: str) -> None:
        self.notebook.mark_report(epoch, state)
        self.metrics.count("validator_reports_total", state=state)


@dataclass(slots=True)
class Accuser:
    """Publishes a verdict for each lie, once the record that it is about is in the log."""

    ledger: Ledger
    key: Sign
    notebook: Notebook
    metrics: Metrics
    states: dict[str, int] = field(default_factory=dict)

    async def deliver(self, progress: Progress) -> None:
        """Raises PeerDown, DiskFull."""
        for exhibit in self.notebook.exhibits:
            try:
                is_logged = await self.ledger.has_logged(exhibit.order_id)
                if is_logged:
                    await self.ledger.verdict(sign("verdict", self._verdict(exhibit), self.key))
            except PeerRefused as error:
                _log.error("verdict.refused", order_id=exhibit.order_id, reason=str(error))
                self._end(exhibit, REFUSED)
                continue
            if is_logged:
                _log.warning("verdict.accepted", order_id=exhibit.order_id, miner=exhibit.miner)
                self._end(exhibit, ACCEPTED)
            elif exhibit.epoch + LATE_EPOCHS <= progress.closed:
                self._end(exhibit, LATE)

    def _verdict(self, exhibit: Exhibit) -> Verdict:
        return Verdict(
            validator=self.key.identity,
            epoch=exhibit.epoch,
            miner=exhibit.miner,
            order_id=exhibit.order_id,
            transcript=exhibit.transcript,
        )

    def _end(self, exhibit: Exhibit, state: str) -> None:
        self.notebook.drop_exhibit(exhibit.order_id)
        self.states[state] = self.states.get(state, 0) + 1
        self.metrics.count("validator_verdicts_total", state=state)
