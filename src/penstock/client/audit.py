"""The audit: from published files alone to the same scores and payouts, or the first difference.

Nobody's word is taken: each record is judged again from its signatures, each flat row, score,
weight and payout is recomputed by the law, and compared. Validators join a window, find its charter
and its proven verdicts with the same functions.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from penstock.client.errors import Difference, NotPublished
from penstock.client.published import (
    Operator,
    Outcome,
    Source,
    epoch_folder,
    read_operator,
    read_outcome,
    read_segment_file,
)
from penstock.client.segments import Leaf, Segment, read_whole, same
from penstock.spec.consensus import agree
from penstock.spec.entries import Entry, EntryKind, Row, row_of
from penstock.spec.errors import SpecError
from penstock.spec.evidence import Evidence, evidence_digest, gather
from penstock.spec.keys import Signed, Verify, open_signed, parse_signed, signed_digest
from penstock.spec.log import Frontier
from penstock.spec.messages import Charter, Report, Roll, Settlement
from penstock.spec.notes import VerifyRaw
from penstock.spec.params import NETWORKS, Params, params_digest
from penstock.spec.pricing import split_charge
from penstock.spec.receipts import Record, judge, parse_record, record_id
from penstock.spec.scoring import score
from penstock.spec.settlement import settle
from penstock.spec.verdicts import check_verdict

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""(what, done, of): told while a long audit runs."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was recomputed and found identical."""

    epoch: int
    epochs: tuple[int, ...]
    entries: int
    records: int
    evidence_digest: str
    reports: int
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Auditor:
    """How to read one operator's log and check it."""

    source: Source
    verify: Verify
    verify_raw: VerifyRaw
    log_key: str = ""
    """The log's key, when it is known beforehand: a log under another key is refused."""

    async def operator(self) -> tuple[Operator, Params]:
        """Whose log it is, and its network's numbers. Raises Difference or NotPublished."""
        operator = await read_operator(self.source)
        if self.log_key:
            same("operator.json: log_key", operator.log_key, self.log_key)
        if operator.network not in NETWORKS:
            raise Difference("operator.json: network", operator.network[:80], "a known network")
        return operator, NETWORKS[operator.network]

    async def window(self, epoch: int, *, progress: Progress | None = None) -> list[Segment]:
        """The segments of the window that ends with `epoch`, oldest first, joined without a gap.

        Raises Difference, or NotPublished when the epoch itself is not there.
        """
        operator, params = await self.operator()
        segments: list[Segment] = []
        wanted = epoch
        while wanted >= 0 and wanted > epoch - params.window_epochs:
            if progress:
                progress("segments", epoch - wanted, params.window_epochs)
            segment = await read_segment(
                self.source, wanted, operator=operator, verify_raw=self.verify_raw
            )
            if segments:
                same(f"epoch {wanted}: log at its end", segment.end, segments[0].start)
            segments.insert(0, segment)
            wanted = closing(segment).previous
        return segments

    async def audit(self, epoch: int, *, progress: Progress | None = None) -> Audit:
        """Recompute the epoch. Raises Difference at the first place that is not identical."""
        operator, params = await self.operator()
        segments = await self.window(epoch, progress=progress)
        outcome = await read_outcome(
            self.source, epoch, operator=operator, verify_raw=self.verify_raw
        )
        charter = governing_charter(segments, outcome, operator=operator, verify=self.verify)
        same("charter: params_digest", charter.params_digest, params_digest(params))
        judged = [
            _judged(segment, params=params, verify=self.verify, progress=progress)
            for segment in segments
        ]
        evidence = collect(segments, charter=charter, verify=self.verify)
        reports = self._reports(outcome, charter, segments[-1], evidence, params=params)
        pool = sum(pool_nano for _, pool_nano in judged[-1])
        settlement = _settlement(outcome, charter, self.verify)
        _check_settlement(settlement, reports, pool, charter=charter, params=params)
        return Audit(
            epoch=epoch,
            epochs=tuple(segment.epoch for segment in segments),
            entries=sum(len(segment.leaves) for segment in segments),
            records=sum(len(rows) for rows in judged),
            evidence_digest=evidence_digest(evidence),
            reports=len(reports),
            settlement=settlement,
        )

    def _reports(
        self,
        outcome: Outcome,
        charter: Charter,
        last: Segment,
        evidence: Evidence,
        *,
        params: Params,
    ) -> dict[str, Report]:
        """Every counted report by its digest; each must be what the evidence gives."""
        scores = score(evidence, params)
        seats = {seat.validator for seat in charter.seats}
        reports: dict[str, Report] = {}
        for where, signed in _of_kind(outcome, EntryKind.REPORT):
            report = _open(where, Report, signed, kind="report", verify=self.verify)
            same(f"{where}: signer", signed.signer, report.validator)
            if report.validator not in seats:
                raise Difference(f"{where}: validator", report.validator, "a seat of the charter")
            same(f"{where}: epoch", report.epoch, outcome.epoch)
            same(f"{where}: policy", report.policy, params.policy)
            same(f"{where}: log_size", report.log_size, last.checkpoint.size)
            same(f"{where}: log_root", report.log_root, last.checkpoint.root.hex())
            same(f"{where}: evidence_digest", report.evidence_digest, evidence_digest(evidence))
            same(f"{where}: scores", report.scores, scores)
            reports[signed_digest(signed)] = report
        return reports


def closing(segment: Segment) -> Close:
    """The segment's last entry, which must be the close of its epoch and the only one."""
    where = f"epoch {segment.epoch}: last entry"
    closes = [leaf.entry for leaf in segment.leaves if leaf.entry.kind is EntryKind.CLOSE]
    if len(closes) != 1 or segment.leaves[-1].entry is not closes[0]:
        raise Difference(where, f"{len(closes)} closes", "one close, as the last entry")
    try:
        close = from_plain(Close, closes[0].body)
    except SpecError as error:
        raise Difference(where, f"malformed ({error})", "a close") from error
    same(f"{where}: epoch", close.epoch, segment.epoch)
    if close.previous >= close.epoch:
        raise Difference(f"{where}: previous", str(close.previous), "an earlier epoch")
    return close


def governing_charter(
    segments: Sequence[Segment], outcome: Outcome | None, *, operator: Operator, verify: Verify
) -> Charter:
    """The newest charter up to the window's end: in the window itself, else proven in the outcome.

    Raises Difference.
    """
    found: list[tuple[int, Entry]] = [
        (leaf.seq, leaf.entry)
        for segment in segments
        for leaf in segment.leaves
        if leaf.entry.kind is EntryKind.CHARTER
    ]
    if outcome is not None:
        found += [
            (leaf.seq, leaf.entry)
            for leaf in outcome.leaves
            if leaf.entry.kind is EntryKind.CHARTER and leaf.seq < segments[-1].end.size
        ]
    if not found:
        raise Difference("charter", "none up to this epoch", "one entry")
    seq, entry = max(found, key=lambda item: item[0])
    where = f"entry {seq}: charter"
    signed = _signed(where, entry)
    charter = _open(where, Charter, signed, kind="charter", verify=verify)
    same(f"{where}: signer", signed.signer, operator.operator)
    same(f"{where}: origin", charter.origin, operator.origin)
    same(f"{where}: ledger", charter.ledger, operator.log_key)
    same(f"{where}: network", charter.network, operator.network)
    return charter


def collect(segments: Iterable[Segment], *, charter: Charter, verify: Verify) -> Evidence:
    """The window's evidence: published rows, the market's rolls, and proven verdicts.

    The rows are taken as published; `Auditor.audit` compares each with its record first. A verdict
    counts when its signer has a seat, its record is in the window, and it proves itself.
    """
    rows: list[Row] = []
    rolls: dict[str, Roll] = {}
    records: dict[str, Entry] = {}
    verdicts: list[Signed] = []
    for segment in segments:
        for leaf in segment.leaves:
            entry = leaf.entry
            if entry.kind is EntryKind.RECORD:
                assert leaf.row is not None, "read_segment refuses a record without its row"
                rows.append(leaf.row)
                records[leaf.row.order_id] = entry
            elif entry.kind is EntryKind.ROLL:
                where = f"entry {leaf.seq}: roll"
                signed = _signed(where, entry)
                same(f"{where}: signer", signed.signer, charter.market)
                rolls[entry.entry_id] = _open(where, Roll, signed, kind="roll", verify=verify)
            elif entry.kind is EntryKind.VERDICT:
                verdicts.append(_signed(f"entry {leaf.seq}: verdict", entry))
    failed = _failed(verdicts, records, charter=charter, verify=verify)
    return gather(rows, rolls.values(), failed=failed)


def _failed(
    verdicts: Iterable[Signed], records: dict[str, Entry], *, charter: Charter, verify: Verify
) -> list[str]:
    seats = {seat.validator for seat in charter.seats}
    failed = []
    for signed in verdicts:
        entry = records.get(str(signed.body.get("order_id")))
        if entry is None or signed.signer not in seats:
            continue
        try:
            verdict = check_verdict(signed, parse_record(entry.body), verify=verify)
        except SpecError:
            continue
        failed.append(verdict.miner)
    return failed


def _judged(
    segment: Segment, *, params: Params, verify: Verify, progress: Progress | None
) -> list[tuple[Row, int]]:
    """(row, the pool's part of its charge) of each record, judged anew and compared."""
    judged = []
    for done, leaf in enumerate(segment.leaves):
        if progress and done % 64 == 0:
            progress(f"records of epoch {segment.epoch}", done, len(segment.leaves))
        if leaf.entry.kind is not EntryKind.RECORD:
            continue
        where = f"epoch {segment.epoch}: entry {leaf.seq}"
        try:
            record: Record = parse_record(leaf.entry.body)
            judgement = judge(record, refusal_free_ms=params.refusal_free_ms, verify=verify)
        except SpecError as error:
            raise Difference(where, f"a record that does not hold ({error})", "a record") from error
        same(f"{where}: entry_id", leaf.entry.entry_id, record_id(record))
        row = row_of(judgement, params)
        for name in Row.__slots__:
            same(f"{where}: {name}", getattr(leaf.row, name), getattr(row, name))
        fees = split_charge(judgement.charge_nano, params.fees)
        judged.append((row, fees.pool_nano))
    return judged


def _settlement(outcome: Outcome, charter: Charter, verify: Verify) -> Settlement:
    found = list(_of_kind(outcome, EntryKind.SETTLEMENT))
    if not found:
        raise NotPublished(name=f"the settlement of epoch {outcome.epoch}")
    where, signed = found[-1]
    same(f"{where}: settlements", len(found), 1)
    same(f"{where}: signer", signed.signer, charter.ledger)
    return _open(where, Settlement, signed, kind="settlement", verify=verify)


def _check_settlement(
    published: Settlement,
    reports: dict[str, Report],
    pool_nano: int,
    *,
    charter: Charter,
    params: Params,
) -> None:
    """The settlement is what consensus over these reports and this pool give. Raises Difference."""
    where = f"settlement of epoch {published.epoch}"
    same(f"{where}: reports", published.reports, tuple(sorted(reports)))
    consensus = agree(
        {
            report.validator: {one.miner: one.total_ppm for one in report.scores}
            for report in reports.values()
        },
        {seat.validator: seat.stake for seat in charter.seats},
        entity_stake_max_ppm=params.entity_stake_max_ppm,
        kappa_ppm=params.kappa_ppm,
    )
    expected = settle(
        published.epoch, pool_nano, weights=consensus.weights_ppm, reports=sorted(reports)
    )
    for name in Settlement.__slots__:
        same(f"{where}: {name}", getattr(published, name), getattr(expected, name))


def _of_kind(outcome: Outcome, kind: EntryKind) -> Iterable[tuple[str, Signed]]:
    for leaf in outcome.leaves:
        if leaf.entry.kind is kind:
            where = f"entry {leaf.seq}: {kind.value}"
            yield where, _signed(where, leaf.entry)


def _signed(where: str, entry: Entry) -> Signed:
    try:
        return parse_signed(entry.body)
    except SpecError as error:
        raise Difference(where, f"unsigned ({error})", "a signed message") from error


def _open(where: str, cls: type[T], signed: Signed, *, kind: str, verify: Verify) -> T:
    try:
        return open_signed(cls, signed, kind=kind, verify=verify)
    except SpecError as error:
        raise Difference(where, f"does not hold ({error})", f"a signed {kind}") from error
