"""Failures that other markets of this kind have had, one test each: our law must not repeat them.

Each test says in its docstring what happened there. What concerns whole stations is in
`tests/stations/test_failures_of_peers.py`.
"""

import hashlib
from base64 import b64encode
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
from tests.makers import (
    GATEWAY,
    MINER,
    PRICE,
    ToyKey,
    make_checkpoint,
    make_countersign,
    make_offer,
    make_order,
    make_receipt,
    make_record,
    toy_verify,
)

from penstock.spec.canon import from_plain
from penstock.spec.consensus import agree
from penstock.spec.entries import row_of, size_bucket, work_units
from penstock.spec.errors import BadMessage, BadProof, SpecError
from penstock.spec.evidence import Evidence, Median, Work, gather
from penstock.spec.keys import sign
from penstock.spec.log import check_inclusion, leaf_hash, root
from penstock.spec.messages import Offer, Presence, Roll, Verdict
from penstock.spec.params import LOCAL, MAINNET, Params, params_digest
from penstock.spec.pricing import is_within
from penstock.spec.receipts import Judgement, Outcome, Record, is_valid, judge, parse_record
from penstock.spec.routing import Need, Rejection, rejection
from penstock.spec.scoring import availability, capacity, score, speed
from penstock.spec.settlement import settle
from penstock.spec.units import NO_UNITS, PPM, Price, Units
from penstock.spec.verdicts import check_verdict

VALIDATOR, RIVAL = ToyKey("validator"), ToyKey("rival")
CHUTE = "sha256:c"

RECORD_PARTS = ("order", "receipt", "checkpoint", "countersign", "decision")


def told(record: Record) -> Judgement:
    return judge(record, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)


def is_accepted(record: Record) -> bool:
    return is_valid(record, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)


def cancelled(*, receipt: bool, checkpoint: bool, charge_nano: int) -> Record:
    order = make_order()
    signed = (
        sign("receipt", make_receipt(order, outcome=Outcome.CLIENT_CANCELLED), MINER)
        if receipt
        else None
    )
    seen = replace(
        make_countersign(order, signed),
        outcome=Outcome.CLIENT_CANCELLED,
        charge_nano=charge_nano,
        match=receipt,
    )
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=signed,
        checkpoint=sign("checkpoint", make_checkpoint(order), MINER) if checkpoint else None,
        countersign=sign("countersign", seen, GATEWAY),
    )


def test_1_output_streamed_and_the_end_left_out_is_still_paid_for() -> None:
    """A sequencer streamed all output, omitted the finish message, and settled unpaid."""
    silent = replace(make_record(), countersign=None)
    found = told(silent)
    assert found.outcome is Outcome.GATEWAY_FAILED
    assert found.earned_nano == told(make_record()).charge_nano
    # Nor may it call a stream cancelled whose checkpoint it holds and charge nothing for it.
    assert not is_accepted(cancelled(receipt=False, checkpoint=True, charge_nano=0))


def test_2_a_vote_signed_by_one_does_not_count_for_another() -> None:
    """A timeout vote signed by A claimed the heavier slot of B."""
    body = b'{"choices": [{"index": 0, "message": {"content": "hi"}}]}'
    record = _lying_record(body)
    verdict = Verdict(
        validator=VALIDATOR.identity,
        epoch=1,
        miner=MINER.identity,
        order_id="o-1",
        transcript=b64encode(body).decode(),
    )
    check_verdict(sign("verdict", verdict, VALIDATOR), record, verify=toy_verify)
    with pytest.raises(BadMessage):
        check_verdict(sign("verdict", verdict, RIVAL), record, verify=toy_verify)


def _lying_record(body: bytes) -> Record:
    order = make_order(stream=False)
    receipt = make_receipt(
        order,
        units=Units(prompt=20, cached=0, completion=50, images=0, audio_ms=0),
        response_digest=hashlib.sha256(body).hexdigest(),
        response_bytes=len(body),
    )
    return Record(sign("order", order, GATEWAY), sign("receipt", receipt, MINER), None, None)


def test_3_what_a_request_costs_is_in_the_order_and_not_in_anything_read_later() -> None:
    """Parameters were read live instead of being snapshotted, and funds were locked."""
    order = make_order()
    dearer = replace(order, price=replace(PRICE, completion=10 * PRICE.completion))
    before = told(make_record(order))
    assert before.charge_nano == told(make_record(order)).charge_nano
    mixed = replace(make_record(order), order=sign("order", dearer, GATEWAY))
    assert not is_accepted(mixed)


def test_4_no_rule_of_who_pays_and_who_earns_asks_what_time_it_is() -> None:
    """A wall clock inside replicated state made replicas diverge: here all times are signed words."""
    for shift_ms in (0, 10**9, 10**12):
        order = make_order(issued_ms=shift_ms, deadline_ms=shift_ms + 60_000)
        receipt = make_receipt(
            order, accept_ms=shift_ms, first_ms=shift_ms + 9, last_ms=shift_ms + 99
        )
        signed = sign("receipt", receipt, MINER)
        seen = sign("countersign", make_countersign(order, signed), GATEWAY)
        record = Record(sign("order", order, GATEWAY), signed, None, seen)
        assert row_of(told(record), LOCAL) == row_of(told(make_record()), LOCAL)


def numbers_of(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if is_dataclass(value):
        return [
            one
            for field in fields(value)
            for one in numbers_of(getattr(value, field.name), (*path, field.name))
        ]
    return [path]


def with_number(params: Any, path: tuple[str, ...]) -> Any:
    value = getattr(params, path[0])
    if len(path) > 1:
        return replace(params, **{path[0]: with_number(value, path[1:])})
    return replace(params, **{path[0]: value + (1 if isinstance(value, int) else "x")})


@pytest.mark.parametrize("params", [LOCAL, MAINNET], ids=["local", "mainnet"])
def test_5_two_that_count_by_other_numbers_know_it_from_the_digest(params: Params) -> None:
    """Two components defaulted different timeouts and their roots differed: every single number is
    covered by the digest that the charter names.
    """
    digests = {params_digest(params)}
    paths = numbers_of(params)
    digests |= {params_digest(with_number(params, path)) for path in paths}
    assert len(digests) == len(paths) + 1


def test_6_an_executor_does_not_witness_its_own_work() -> None:
    """The executor validated its own challenge: here a miner's own countersignature is nothing."""
    order = make_order()
    receipt = sign("receipt", make_receipt(order), MINER)
    own = sign("countersign", make_countersign(order, receipt), MINER)
    assert not is_accepted(Record(sign("order", order, GATEWAY), receipt, None, own))
    # Nor can a miner write itself an order in the name of a gateway.
    assert not is_accepted(replace(make_record(order), order=sign("order", order, MINER)))


def test_7_skewed_stakes_never_leave_an_epoch_without_an_answer() -> None:
    """A quorum became unreachable under skewed weights."""
    stakes = {"whale": 10**18, "b": 3, "c": 2, "d": 1, "e": 1}
    report = {MINER.identity: 400_000}
    for present in (["whale"], ["b"], ["whale", "b"], ["b", "c", "d"], list(stakes)):
        answer = agree(
            dict.fromkeys(present, report),
            stakes,
            entity_stake_max_ppm=MAINNET.entity_stake_max_ppm,
            kappa_ppm=MAINNET.kappa_ppm,
        )
        assert answer.weights_ppm == report
    nobody = agree(
        {},
        stakes,
        entity_stake_max_ppm=MAINNET.entity_stake_max_ppm,
        kappa_ppm=MAINNET.kappa_ppm,
    )
    assert settle(1, 900, weights=nobody.weights_ppm, reports=()).reserve_nano == 900


def test_10_zero_work_is_zero_reward() -> None:
    """Full rewards were paid for zero work: empty answers and silent nodes earn nothing here."""
    order = make_order()
    empty = sign("receipt", make_receipt(order, units=NO_UNITS), MINER)
    seen = sign("countersign", make_countersign(order, empty), GATEWAY)
    row = row_of(told(Record(sign("order", order, GATEWAY), empty, None, seen)), LOCAL)
    here = Presence(
        instance="m-1",
        miner=MINER.identity,
        chute=CHUTE,
        device="d",
        hardware="cpu",
        beats_seen=60,
        beats_due=60,
        asked=False,
    )
    (only,) = score(gather([row] * 50, [Roll(7, (here,), ())], failed=()), LOCAL)
    assert (only.miner, only.total_ppm) == (MINER.identity, 0)


def test_11_short_answers_are_paid_and_compared_with_short_answers() -> None:
    """A floor of 64 tokens for a proof broke tool calls, and short outputs diluted the score."""
    short = Units(prompt=1, cached=0, completion=1, images=0, audio_ms=0)
    assert work_units(short, LOCAL) == 9
    assert size_bucket(9) < size_bucket(work_units(replace(short, completion=500), LOCAL))
    works = (
        # Each short answer takes long per unit, because most of it is the first token.
        Work("a", CHUTE, size_bucket(9), 1, 9, 9_000_000),
        Work("b", CHUTE, size_bucket(4_001), 1, 4_001, 1_000),
    )
    found = replace(gather((), (), failed=()), works=works)
    found = replace(found, medians=tuple(_median(9_000_000)))
    paces = speed(found, LOCAL)
    # Alone in its size, each has a ratio of exactly one: its speed is its work time.
    assert paces == capacity(found, LOCAL)


def _median(ns: int) -> list[Median]:
    return [Median(CHUTE, ns)]


def test_12_an_honest_count_that_is_off_by_a_little_is_no_fraud() -> None:
    """Honest nodes looked like frauds because kernels differ: the tolerance is part of the law."""
    body = b'{"choices": [{"index": 0, "message": {"content": "abcdefghij"}}]}'
    record = _lying_record(body)
    assert record.receipt is not None
    order = make_order(stream=False)
    for completion, is_lie in ((10, False), (14, False), (15, True), (50, True)):
        receipt = make_receipt(
            order,
            units=Units(prompt=20, cached=0, completion=completion, images=0, audio_ms=0),
            response_digest=hashlib.sha256(body).hexdigest(),
            response_bytes=len(body),
        )
        said = replace(record, receipt=sign("receipt", receipt, MINER))
        verdict = sign("verdict", _verdict(b64encode(body).decode()), VALIDATOR)
        if is_lie:
            check_verdict(verdict, said, verify=toy_verify)
        else:
            with pytest.raises(BadMessage):
                check_verdict(verdict, said, verify=toy_verify)


def _verdict(transcript: str) -> Verdict:
    return Verdict(VALIDATOR.identity, 1, MINER.identity, "o-1", transcript)


@pytest.mark.parametrize("transcript", ["", "null", "e30=", "!", "A", "bnVsbA=="])
def test_13_a_proof_of_nothing_proves_nothing(transcript: str) -> None:
    """A null proof, returned after an exception, was accepted as data."""
    record = _lying_record(b'{"choices": []}')
    with pytest.raises(SpecError):
        check_verdict(sign("verdict", _verdict(transcript), VALIDATOR), record, verify=toy_verify)


@pytest.mark.parametrize("part", RECORD_PARTS)
@pytest.mark.parametrize("nothing", [{}, [], "", 0, False])
def test_13_an_empty_part_of_a_record_is_not_a_missing_one(part: str, nothing: object) -> None:
    """None says that a word never came; any other emptiness is no word at all."""
    plain: dict[str, Any] = dict.fromkeys(RECORD_PARTS)
    plain["order"] = {"kind": "order", "body": {}, "signer": "", "signature": ""}
    plain[part] = nothing
    with pytest.raises(SpecError):
        parse_record(plain)


def test_14_a_missing_measurement_is_never_full_pay() -> None:
    """A missing or NaN measurement counted as neutral and paid in full: here it is no share."""
    works = (Work("a", CHUTE, 5, 1, 1_000_000, 0), Work("b", CHUTE, 5, 1, 1_000_000, 1_000))
    measured = replace(gather((), (), failed=()), works=works, medians=tuple(_median(1_000)))
    assert "a" not in speed(measured, LOCAL)
    assert availability(measured, LOCAL) == {}
    unmeasured: Evidence = replace(measured, medians=())
    assert capacity(unmeasured, LOCAL) == {}
    assert score(unmeasured, LOCAL)[0].total_ppm == 0


def test_17_a_newcomer_inherits_nothing_with_the_name_of_an_instance() -> None:
    """A freed UID kept the weights of its former owner: here evidence goes by the key alone."""
    row = row_of(told(make_record()), LOCAL)
    taken_over = replace(row, miner=RIVAL.identity, success=0, work_units=0, ns_per_unit=0)
    found = {one.miner: one for one in score(gather([row, taken_over], (), failed=()), LOCAL)}
    assert row.instance == taken_over.instance
    assert found[MINER.identity].capacity_ppm == LOCAL.weights.capacity_ppm
    assert found[RIVAL.identity].total_ppm == 0


@pytest.mark.parametrize("index", [-1, 3, 4, 2**63, -(2**63)])
def test_18_a_place_that_is_not_there_is_a_refusal_and_no_crash(index: int) -> None:
    """A witness index was not checked: a panic, or an impersonation by wrap-around."""
    leaves = [leaf_hash(b"%d" % number) for number in range(3)]
    with pytest.raises(BadProof):
        check_inclusion(leaves[2], index, size=3, proof=(), expected=root(leaves))


def test_22_a_price_filter_that_leaves_nobody_says_so_for_each() -> None:
    """A maximum price emptied the supply without a word."""
    offers = [from_plain(Offer, make_offer(instance=name).body) for name in ("a", "b")]
    cheap = replace(PRICE, completion=PRICE.completion - 1)
    need = Need(chute=offers[0].chute, price_max=cheap)
    reasons = [rejection(Priced(offer), need, now_ms=2_000) for offer in offers]
    assert reasons == [Rejection.TOO_DEAR, Rejection.TOO_DEAR]


@dataclass(frozen=True)
class Priced:
    """An offer as a candidate with room."""

    offer: Offer
    room: int = 4
    running: int = 0
    rests_until_ms: int = 0

    @property
    def chute(self) -> str:
        return self.offer.chute

    @property
    def valid_until_ms(self) -> int:
        return self.offer.valid_until_ms

    def fits(self, price_max: Price) -> bool:
        return is_within(self.offer.price, price_max)


def test_23_a_spike_of_prices_changes_no_order_that_is_under_way() -> None:
    """A fee spike dropped live streams: an order carries its own price and its own ceiling."""
    order = make_order(price=PRICE)
    spike = replace(PRICE, request=10**9)
    billed = make_receipt(order)
    dearer = replace(billed, charge_nano=billed.charge_nano + spike.request)
    wrong = sign("receipt", dearer, MINER)
    assert not is_accepted(Record(sign("order", order, GATEWAY), wrong, None, None))
    assert is_accepted(
        Record(sign("order", order, GATEWAY), sign("receipt", billed, MINER), None, None)
    )


def test_29_no_order_costs_more_than_was_set_aside_for_it() -> None:
    """An escrow was overdrawn and the job ran on for nothing: the ceiling is in the signed order."""
    order = make_order(charge_max=1)
    found = told(make_record(order))
    assert (found.charge_nano, found.earned_nano) == (1, 1)
    greedy = replace(make_receipt(order), charge_nano=2)
    record = Record(sign("order", order, GATEWAY), sign("receipt", greedy, MINER), None, None)
    assert not is_accepted(record)
    assert order.charge_max < PPM
