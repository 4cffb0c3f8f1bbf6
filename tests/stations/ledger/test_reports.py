"""Reports and verdicts of validators: who may say what, once, and of which epoch."""

import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import GATEWAY, MINER, ToyKey, make_countersign, make_order, make_receipt
from tests.stations.ledger.makers_ledger import (
    PARAMS,
    SECOND_VALIDATOR,
    VALIDATOR,
    World,
    charter,
    order_id,
    record,
    record_event,
    score,
)
from tests.stations.ledger.test_epochs import worked_epoch

from penstock.spec.canon import from_plain
from penstock.spec.entries import EntryKind
from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.messages import Report, Seat, Verdict
from penstock.spec.receipts import Record

OTHER_MINER = "toy:" + "2" * 16


@pytest.fixture
async def world() -> World:
    return await World().start()


async def reported(world: World, signed: Signed) -> tuple[int, Any]:
    from penstock.spec.canon import to_plain

    return await world.call("POST", "/v1/reports", to_plain(signed))


class TestReports:
    async def test_a_report_of_a_seat_is_logged(self, world: World) -> None:
        number = await worked_epoch(world)
        assert await reported(world, await world.report(number)) == (200, {"accepted": True})
        key = (EntryKind.REPORT, f"report/{number}/{VALIDATOR.identity}")
        assert await world.store.entry(key) is not None

    async def test_the_same_report_again_is_accepted_and_logged_once(self, world: World) -> None:
        number = await worked_epoch(world)
        signed = await world.report(number)
        await reported(world, signed)
        size = (await world.ledger.epochs())["log_size"]
        assert await reported(world, signed) == (200, {"accepted": True})
        assert (await world.ledger.epochs())["log_size"] == size

    async def test_a_second_different_report_is_rejected_and_counted(self, world: World) -> None:
        number = await worked_epoch(world)
        await reported(world, await world.report(number))
        status, answer = await reported(world, await world.report(number, scores=()))
        assert (status, answer["error"]["code"]) == (409, "second_report")
        assert world.rejected("second_report") == 1

    async def test_an_open_epoch_is_not_reported_on(self, world: World) -> None:
        number = await worked_epoch(world)
        said = from_plain(Report, (await world.report(number)).body)
        early = sign("report", replace(said, epoch=number + 1), VALIDATOR)
        assert (await reported(world, early))[1]["error"]["code"] == "epoch_open"

    async def test_a_settled_epoch_is_not_reported_on(self, world: World) -> None:
        number = await worked_epoch(world)
        await world.step(PARAMS.report_deadline_ms)
        status, answer = await reported(world, await world.report(number))
        assert (status, answer["error"]["code"]) == (409, "epoch_settled")

    async def test_who_has_no_seat_does_not_report(self, world: World) -> None:
        number = await worked_epoch(world)
        status, answer = await reported(world, await world.report(number, ToyKey("stranger")))
        assert (status, answer["error"]["code"]) == (403, "no_seat")

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"policy": "v9"}, "refused"),
            ({"validator": SECOND_VALIDATOR.identity}, "refused"),
            ({"scores": (score(MINER.identity, 600_000), score(OTHER_MINER, 400_001))}, "refused"),
            ({"scores": (score(MINER.identity, -1),)}, "refused"),
            ({"scores": (score(MINER.identity, 1), score(MINER.identity, 2))}, "refused"),
            ({"log_size": 1}, "other_log"),
            ({"log_root": "00" * 32}, "other_log"),
        ],
    )
    async def test_a_report_that_cannot_be_counted_is_rejected(
        self, world: World, changes: dict[str, Any], code: str
    ) -> None:
        number = await worked_epoch(world)
        status, answer = await reported(world, await world.report(number, **changes))
        assert (status, answer["error"]["code"]) == (400, code)

    async def test_a_forged_report_is_rejected(self, world: World) -> None:
        number = await worked_epoch(world)
        signed = await world.report(number)
        forged = replace(signed, body={**signed.body, "scores": []})
        assert (await reported(world, forged))[0] == 400

    async def test_the_seats_of_the_epochs_own_charter_count(self, world: World) -> None:
        number = await worked_epoch(world)
        signed = await world.report(number)
        world.charter = charter(seats=(Seat(SECOND_VALIDATOR.identity, 1),))
        await world.start()
        assert (await reported(world, signed))[0] == 200


def lying_record() -> tuple[Record, bytes]:
    """A record whose receipt claims 40 completion units for an answer of one word."""
    from penstock.spec.units import Units

    body = b'{"choices":[{"text":"yes"}]}'
    order = make_order(order_id=order_id(1), stream=False, path="/v1/completions")
    units = Units(prompt=20, cached=0, completion=40, images=0, audio_ms=0)
    digest = hashlib.sha256(body).hexdigest()
    signed_order = sign("order", order, GATEWAY)
    receipt = make_receipt(
        order, units=units, response_digest=digest, order_digest=signed_digest(signed_order)
    )
    signed_receipt = sign("receipt", receipt, MINER)
    seen = make_countersign(order, signed_receipt)
    said = Record(
        order=signed_order,
        receipt=signed_receipt,
        checkpoint=None,
        countersign=sign("countersign", seen, GATEWAY),
    )
    return said, body


def verdict(body: bytes, key: ToyKey = VALIDATOR, **changes: Any) -> Signed:
    said = Verdict(
        validator=key.identity,
        epoch=1,
        miner=MINER.identity,
        order_id=order_id(1),
        transcript=base64.b64encode(body).decode(),
    )
    return sign("verdict", replace(said, **changes), key)


async def judged(world: World, signed: Signed) -> tuple[int, Any]:
    from penstock.spec.canon import to_plain

    return await world.call("POST", "/v1/verdicts", to_plain(signed))


class TestVerdicts:
    async def test_a_verdict_that_proves_itself_is_logged_once(self, world: World) -> None:
        said, body = lying_record()
        await world.take(record_event(said))
        assert await judged(world, verdict(body)) == (200, {"accepted": True})
        assert await judged(world, verdict(body, SECOND_VALIDATOR)) == (200, {"accepted": True})
        entries = await world.store.entries(0, count=9)
        assert [one.kind for one in entries].count(EntryKind.VERDICT) == 1

    async def test_a_verdict_with_another_transcript_has_no_effect(self, world: World) -> None:
        await world.take(record_event(record()))
        status, answer = await judged(world, verdict(b"another answer"))
        assert (status, answer["error"]["code"]) == (400, "unproven")

    async def test_a_verdict_on_an_unknown_order_is_refused(self, world: World) -> None:
        status, answer = await judged(world, verdict(b"answer"))
        assert (status, answer["error"]["code"]) == (404, "unknown_order")

    async def test_a_verdict_that_names_no_order_is_refused(self, world: World) -> None:
        assert (await judged(world, verdict(b"answer", order_id="x")))[0] == 400

    async def test_who_has_no_seat_passes_no_verdict(self, world: World) -> None:
        said, body = lying_record()
        await world.take(record_event(said))
        assert (await judged(world, verdict(body, ToyKey("stranger"))))[0] == 403

    async def test_a_forged_verdict_is_refused(self, world: World) -> None:
        said, body = lying_record()
        await world.take(record_event(said))
        forged = replace(verdict(body), signature="00")
        assert (await judged(world, forged))[1]["error"]["code"] == "unproven"
