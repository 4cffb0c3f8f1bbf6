"""The end of an epoch: what validators reported becomes weights, and weights become payouts.

An epoch is settled when all seats have reported, or when their time is over. The time runs from the
moment the epoch was published: validators cannot judge what they cannot read. With no report at all
nobody has a claim and the whole pool goes to the reserve.
"""

from collections.abc import Sequence

from penstock.kit.ports import Verify
from penstock.ledger.errors import Rejected
from penstock.ledger.state import EpochState, Logged
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.consensus import agree, check_report
from penstock.spec.entries import Entry, EntryKind, parse_leaf
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, open_signed, parse_signed, signed_digest
from penstock.spec.messages import Charter, Report, Settlement
from penstock.spec.params import Params
from penstock.spec.settlement import settle


def read_report(signed: Signed, *, params: Params, verify: Verify) -> Report:
    """A well-formed report, signed by the validator it names. Raises Rejected."""
    try:
        report = open_signed(Report, signed, kind="report", verify=verify)
        shares = {score.miner: score.total_ppm for score in report.scores}
        check_report(report.validator, shares)
    except SpecError as error:
        raise Rejected("refused", str(error)[:200]) from error
    if signed.signer != report.validator:
        raise Rejected("refused", "the signer is not the validator it names")
    if len(shares) != len(report.scores):
        raise Rejected("refused", "a miner is scored twice")
    if report.policy != params.policy:
        raise Rejected("refused", f"this market scores by policy {params.policy}")
    return report


def check_seat(validator: str, charter: Charter) -> None:
    """A validator of this charter. Raises Rejected."""
    if all(seat.validator != validator for seat in charter.seats):
        raise Rejected("no_seat", validator[:80])


def report_prefix(epoch: int) -> str:
    """Under which ids an epoch's reports are logged."""
    return f"report/{epoch}/"


def report_entry(report: Report, signed: Signed) -> Entry:
    """The log entry of a report: one per validator and epoch."""
    return Entry(
        kind=EntryKind.REPORT,
        entry_id=report_prefix(report.epoch) + report.validator,
        body=to_plain(signed),
    )


def is_due(
    state: EpochState, reports: Sequence[Logged], *, charter: Charter, params: Params, now_ms: int
) -> bool:
    """Whether an epoch's settlement waits for nothing any more."""
    if state.published_ms < 0 or state.settled_seq >= 0:
        return False
    all_in = len(reports) >= len({seat.validator for seat in charter.seats})
    return all_in or now_ms >= state.published_ms + params.report_deadline_ms


def settlement_of(
    state: EpochState, reports: Sequence[Logged], *, charter: Charter, params: Params
) -> Settlement:
    """Consensus weights of the logged reports, and the pool shared out by them."""
    shares, digests = {}, []
    for logged in reports:
        signed = parse_signed(parse_leaf(logged.leaf).body)
        report = from_plain(Report, signed.body)
        shares[report.validator] = {score.miner: score.total_ppm for score in report.scores}
        digests.append(signed_digest(signed))
    agreed = agree(
        shares,
        {seat.validator: seat.stake for seat in charter.seats},
        entity_stake_max_ppm=params.entity_stake_max_ppm,
        kappa_ppm=params.kappa_ppm,
    )
    return settle(state.epoch, state.pool_nano, weights=agreed.weights_ppm, reports=digests)
