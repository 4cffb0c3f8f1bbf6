"""The audit: from published files alone to the same scores and payouts, or the first difference.

Nobody's word is taken: each record is judged again from its signatures, each flat row, score,
weight and payout is recomputed by the law, and compared.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from penstock.client.errors import Difference, NotPublished
from penstock.client.published import (
    Operator,
    Outcome,
    Source,
    read_checkpoint,
    read_operator,
    read_outcome,
    read_segment_file,
)
from penstock.client.segments import Leaf, Segment, read_whole, same
from penstock.client.window import (
    failed_miners,
    governing_charter,
    join_window,
    open_at,
    rolls_of,
    signed_body,
    verdicts_of,
)
from penstock.spec.consensus import agree
from penstock.spec.entries import EntryKind, Row, row_of
from penstock.spec.errors import BadMessage, SpecError
from penstock.spec.evidence import Evidence, evidence_digest, gather
from penstock.spec.keys import Signed, Verify, signed_digest
from penstock.spec.messages import Charter, Report, Score, Settlement
from penstock.spec.notes import VerifyRaw
from penstock.spec.params import NETWORKS, Params, params_digest
from penstock.spec.pricing import split_charge
from penstock.spec.receipts import Record, judge, parse_record, record_id
from penstock.spec.routing import check_decision
from penstock.spec.scoring import score
from penstock.spec.settlement import settle

PROGRESS_RECORDS = 64

Progress = Callable[[str, int, int], None]
"""(what, done, of): told while a long audit runs."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was recomputed and found identical. `decisions_broken` counts the records whose gateway did
    not route by the policy that it named: no number hangs on that, but whoever picks a gateway may care.
    """

    epoch: int
    epochs: tuple[int, ...]
    entries: int
    records: int
    evidence_digest: str
    reports: int
    settlement: Settlement
    decisions_broken: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    """One or more records judged again: what payers pay (nano-USD) or its pool part, and how many
    routing decisions break their own policy.
    """

    charge_nano: int
    decisions_broken: int


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the window's evidence gives: what every report must say."""

    evidence_digest: str
    scores: tuple[Score, ...]


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

        async def read(wanted: int) -> Segment:
            if progress:
                progress("segments", epoch - wanted, params.window_epochs)
            file = await read_segment_file(
                self.source, wanted, operator=operator, verify_raw=self.verify_raw
            )
            return read_whole(file)

        return await join_window(epoch, params, read=read)

    async def audit(self, epoch: int, *, progress: Progress | None = None) -> Audit:
        """Recompute the epoch. Raises Difference at the first place that is not identical."""
        operator, params = await self.operator()
        segments = await self.window(epoch, progress=progress)
        await self._check_around(segments, operator)
        outcome = await read_outcome(
            self.source, epoch, operator=operator, verify_raw=self.verify_raw
        )
        last = segments[-1]
        charter = governing_charter(
            [*_leaves(segments), *outcome.leaves],
            size=last.end.size,
            operator=operator,
            verify=self.verify,
        )
        same("charter: params_digest", charter.params_digest, params_digest(params))
        _check_logged_once(segments)
        judged = [
            _judge_again(segment, params=params, verify=self.verify, progress=progress)
            for segment in segments
        ]
        recomputed = _recompute(segments, charter, params=params, verify=self.verify)
        reports = self._reports(outcome, charter, last, recomputed=recomputed, params=params)
        where, settlement = _settlement(outcome, charter, self.verify)
        same(f"{where}: epoch", settlement.epoch, epoch)
        pool_nano = judged[-1].charge_nano
        expected = _settle_again(epoch, pool_nano, reports=reports, charter=charter, params=params)
        for name in Settlement.__slots__:
            same(f"{where}: {name}", getattr(settlement, name), getattr(expected, name))
        return Audit(
            epoch=epoch,
            epochs=tuple(segment.epoch for segment in segments),
            entries=sum(len(segment.leaves) for segment in segments),
            records=sum(leaf.row is not None for leaf in _leaves(segments)),
            evidence_digest=recomputed.evidence_digest,
            reports=len(reports),
            settlement=settlement,
            decisions_broken=sum(one.decisions_broken for one in judged),
        )

    async def _check_around(self, segments: list[Segment], operator: Operator) -> None:
        """The published files of the window that this epoch's numbers do not depend on: the newest
        checkpoint, and what was logged after the window's earlier epochs. Each must hold by itself.
        """
        newest = await read_checkpoint(self.source, operator, self.verify_raw)
        if newest.size < segments[-1].end.size:
            raise Difference(
                "checkpoint: size", str(newest.size), f"at least {segments[-1].end.size}"
            )
        for segment in segments[:-1]:
            try:
                await read_outcome(
                    self.source, segment.epoch, operator=operator, verify_raw=self.verify_raw
                )
            except NotPublished:
                continue  # An epoch that is not settled yet, or never was, has none.

    def _reports(
        self,
        outcome: Outcome,
        charter: Charter,
        last: Segment,
        *,
        recomputed: Recomputed,
        params: Params,
    ) -> dict[str, Report]:
        """Every counted report by its digest; each must be what the evidence gives."""
        seats = {seat.validator for seat in charter.seats}
        reports: dict[str, Report] = {}
        for where, signed in _after(last, outcome, EntryKind.REPORT):
            report = open_at(where, Report, signed, kind="report", verify=self.verify)
            same(f"{where}: signer", signed.signer, report.validator)
            if report.validator not in seats:
                raise Difference(f"{where}: validator", report.validator, "a seat of the charter")
            same(f"{where}: epoch", report.epoch, outcome.epoch)
            same(f"{where}: policy", report.policy, params.policy)
            same(f"{where}: log_size", report.log_size, last.checkpoint.size)
            same(f"{where}: log_root", report.log_root, last.checkpoint.root.hex())
            same(f"{where}: evidence_digest", report.evidence_digest, recomputed.evidence_digest)
            _same_scores(where, report.scores, recomputed.scores)
            reports[signed_digest(signed)] = report
        return reports


def collect(segments: Sequence[Segment], *, charter: Charter, verify: Verify) -> Evidence:
    """The window's evidence: published rows, the market's rolls, and proven verdicts.

    The rows are taken as published; `Auditor.audit` compares each with its record first.
    """
    records = {
        leaf.entry.entry_id: leaf.entry
        for leaf in _leaves(segments)
        if leaf.entry.kind is EntryKind.RECORD
    }
    failed = failed_miners(
        verdicts_of(_leaves(segments)), charter, record_of=records.get, verify=verify
    )
    rows = (leaf.row for leaf in _leaves(segments) if leaf.row is not None)
    return gather(rows, rolls_of(_leaves(segments), charter, verify), failed=failed)


def check_row(leaf: Leaf, *, params: Params, verify: Verify, where: str) -> Checked:
    """Judge a record again, with all its signatures, and compare its row. Raises Difference."""
    try:
        record = parse_record(leaf.entry.body)
        judgement = judge(record, refusal_free_ms=params.refusal_free_ms, verify=verify)
        order_id = record_id(record)
    except SpecError as error:
        raise Difference(where, f"a record that does not hold ({error})", "a record") from error
    same(f"{where}: entry_id", leaf.entry.entry_id, order_id)
    row = row_of(judgement, params)
    for name in Row.__slots__:
        same(f"{where}: {name}", getattr(leaf.row, name), getattr(row, name))
    return Checked(judgement.charge_nano, int(not _follows_policy(record)))


def _follows_policy(record: Record) -> bool:
    """A record without a decision breaks none: its miner claimed it alone."""
    try:
        if record.decision is not None:
            check_decision(record.decision)
    except BadMessage:
        return False
    return True


def _leaves(segments: Iterable[Segment]) -> Iterator[Leaf]:
    return (leaf for segment in segments for leaf in segment.leaves)


def _check_logged_once(segments: Iterable[Segment]) -> None:
    """An id is logged once, so that no work counts twice. Raises Difference."""
    seen: set[tuple[EntryKind, str]] = set()
    for leaf in _leaves(segments):
        key = (leaf.entry.kind, leaf.entry.entry_id)
        if key in seen:
            where = f"entry {leaf.seq}: {leaf.entry.kind.value}"
            raise Difference(where, f"{leaf.entry.entry_id[:80]} again", "an id is logged once")
        seen.add(key)


def _judge_again(
    segment: Segment, *, params: Params, verify: Verify, progress: Progress | None
) -> Checked:
    """Compare every record's row; the answer's charge is the pool's part of all charges."""
    pool_nano = broken = 0
    for done, leaf in enumerate(segment.leaves):
        if progress and done % PROGRESS_RECORDS == 0:
            progress(f"records of epoch {segment.epoch}", done, len(segment.leaves))
        if leaf.row is not None:
            where = f"epoch {segment.epoch}: entry {leaf.seq}"
            found = check_row(leaf, params=params, verify=verify, where=where)
            pool_nano += split_charge(found.charge_nano, params.fees).pool_nano
            broken += found.decisions_broken
    return Checked(pool_nano, broken)


@contextmanager
def _lawful(where: str) -> Iterator[None]:
    """What was logged, though signed, may be more than the law can count: then say where."""
    try:
        yield
    except SpecError as error:
        raise Difference(where, f"what the law refuses ({error})", "lawful numbers") from error


def _recompute(
    segments: Sequence[Segment], charter: Charter, *, params: Params, verify: Verify
) -> Recomputed:
    with _lawful(f"evidence of epoch {segments[-1].epoch}"):
        evidence = collect(segments, charter=charter, verify=verify)
        return Recomputed(evidence_digest(evidence), score(evidence, params))


def _same_scores(where: str, published: Sequence[Score], recomputed: Sequence[Score]) -> None:
    """Raises Difference naming the miner and the part."""
    miners = tuple(one.miner for one in recomputed)
    same(f"{where}: scores: miners", tuple(one.miner for one in published), miners)
    for said, found in zip(published, recomputed, strict=True):
        for name in Score.__slots__:
            place = f"{where}: scores: {found.miner}: {name}"
            same(place, getattr(said, name), getattr(found, name))


def _settlement(outcome: Outcome, charter: Charter, verify: Verify) -> tuple[str, Settlement]:
    found = [
        (f"entry {leaf.seq}: settlement", signed_body(f"entry {leaf.seq}: settlement", leaf.entry))
        for leaf in outcome.leaves
        if leaf.entry.kind is EntryKind.SETTLEMENT
    ]
    if not found:
        raise NotPublished(name=f"the settlement of epoch {outcome.epoch}")
    where, signed = found[-1]
    same(f"{where}: settlements", len(found), 1)
    same(f"{where}: last entry", outcome.leaves[-1].entry.kind, EntryKind.SETTLEMENT)
    same(f"{where}: signer", signed.signer, charter.ledger)
    return where, open_at(where, Settlement, signed, kind="settlement", verify=verify)


def _settle_again(
    epoch: int,
    pool_nano: int,
    *,
    reports: Mapping[str, Report],
    charter: Charter,
    params: Params,
) -> Settlement:
    """What consensus over these reports and this pool give. Raises Difference."""
    with _lawful(f"settlement of epoch {epoch}"):
        consensus = agree(
            {
                report.validator: {one.miner: one.total_ppm for one in report.scores}
                for report in reports.values()
            },
            {seat.validator: seat.stake for seat in charter.seats},
            entity_stake_max_ppm=params.entity_stake_max_ppm,
            kappa_ppm=params.kappa_ppm,
        )
        return settle(epoch, pool_nano, weights=consensus.weights_ppm, reports=sorted(reports))


def _after(last: Segment, outcome: Outcome, kind: EntryKind) -> Iterator[tuple[str, Signed]]:
    """Where and what: the outcome's entries of this kind, which stand after the epoch's close."""
    for leaf in outcome.leaves:
        if leaf.entry.kind is kind:
            where = f"entry {leaf.seq}: {kind.value}"
            if leaf.seq < last.end.size:
                raise Difference(where, "before the epoch's close", "after it")
            yield where, signed_body(where, leaf.entry)
