"""Epochs: closed, published, reported on and settled, in order, whatever the disk does."""

import base64
import hashlib
import io
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.makers import GATEWAY, MINER, ToyKey, make_countersign, make_order, make_receipt
from tests.stations.ledger.makers_ledger import (
    BIG_DISK,
    CHARGE,
    LOG_KEY,
    OPERATOR_KEY,
    ORIGIN,
    PARAMS,
    SECOND_VALIDATOR,
    VALIDATOR,
    World,
    charter,
    either_verify,
    failed,
    order_id,
    posted_sum,
    record,
    record_event,
    score,
)

from penstock.client.audit import Auditor
from penstock.client.errors import NotPublished
from penstock.kit.keys import verify_raw
from penstock.spec.canon import from_plain, parse
from penstock.spec.entries import Close, EntryKind, parse_leaf
from penstock.spec.evidence import evidence_digest, gather
from penstock.spec.keys import Signed, open_signed, parse_signed, sign, signed_digest
from penstock.spec.log import Frontier, check_inclusion, leaf_hash
from penstock.spec.messages import Charter, Report, Seat, Settlement, Verdict
from penstock.spec.notes import parse_note, verify_checkpoint
from penstock.spec.receipts import Record
from penstock.spec.scoring import score as score_all

OTHER_MINER = "toy:" + "2" * 16


@pytest.fixture
async def world() -> World:
    return await World().start()


class FileSource:
    """The client's source over the ledger's files."""

    def __init__(self, world: World) -> None:
        self.files = world.files

    async def get(self, name: str) -> bytes:
        try:
            return self.files.read(name)
        except FileNotFoundError:
            raise NotPublished(name=name) from None


def auditor(world: World) -> Auditor:
    return Auditor(source=FileSource(world), verify=either_verify, verify_raw=verify_raw)


async def worked_epoch(world: World, count: int = 5) -> int:
    """An epoch with paid work in it, closed and published."""
    lease = await world.leased()
    await world.take(*(record_event(record(n), lease_id=lease) for n in range(count)))
    return await world.end_epoch()


async def honest_report(world: World, epoch: int, key: ToyKey) -> Signed:
    """What a validator that can count says."""
    segments = await auditor(world).window(epoch)
    rows = [leaf.row for one in segments for leaf in one.leaves if leaf.row is not None]
    evidence = gather(rows, [], failed=[])
    scores = score_all(evidence, PARAMS)
    digest = evidence_digest(evidence)
    return await world.report(epoch, key, scores=scores, evidence_digest=digest)


async def settlement(world: World, epoch: int) -> Settlement:
    logged = await world.store.entry((EntryKind.SETTLEMENT, f"settlement/{epoch}"))
    assert logged is not None
    signed = parse_signed(parse_leaf(logged.leaf).body)
    assert signed.signer == LOG_KEY.identity
    return open_signed(Settlement, signed, kind="settlement", verify=either_verify)


class TestClosing:
    async def test_an_epoch_closes_at_its_end_and_not_before_the_grace(self, world: World) -> None:
        number = (await world.ledger.epochs())["epoch"]
        end_ms = (number + 1) * PARAMS.epoch_ms + PARAMS.close_grace_ms
        await world.step(end_ms - world.clock.at_ms - 1)
        assert (await world.ledger.epochs())["closed"] == -1
        await world.step(1)
        about = await world.ledger.epochs()
        assert (about["closed"], about["epoch"]) == (number, number + 1)

    async def test_a_close_names_its_epoch_and_the_one_before(self, world: World) -> None:
        first = await world.end_epoch()
        second = await world.end_epoch()
        closes = []
        for number in (first, second):
            logged = await world.store.entry((EntryKind.CLOSE, f"close/{number}"))
            assert logged is not None
            closes.append(from_plain(Close, parse_leaf(logged.leaf).body))
        assert [one.epoch for one in closes] == [first, second]
        assert [one.previous for one in closes] == [-1, first]

    async def test_epochs_in_which_the_ledger_was_down_are_left_out(self, world: World) -> None:
        first = await world.end_epoch()
        world.clock.pass_ms(5 * PARAMS.epoch_ms)
        await world.start()
        await world.step()
        await world.step()
        about = await world.ledger.epochs()
        assert about["closed"] == first + 1
        assert about["epoch"] == first + 6
        last = await world.end_epoch()
        logged = await world.store.entry((EntryKind.CLOSE, f"close/{last}"))
        assert logged is not None
        assert from_plain(Close, parse_leaf(logged.leaf).body).previous == first + 1

    async def test_a_late_record_counts_in_the_epoch_that_is_open(self, world: World) -> None:
        first = await world.end_epoch()
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        logged = await world.store.entry((EntryKind.RECORD, order_id(1)))
        assert logged is not None
        assert logged.epoch == first + 1


class TestCharter:
    async def test_the_first_entry_is_the_charter(self, world: World) -> None:
        [logged] = await world.store.entries(0, count=9)
        assert (logged.kind, logged.seq) == (EntryKind.CHARTER, 0)

    async def test_a_restart_under_the_same_charter_logs_nothing(self, world: World) -> None:
        await world.start()
        assert (await world.ledger.epochs())["log_size"] == 1

    async def test_another_charter_is_appended_and_a_return_to_the_first_too(
        self, world: World
    ) -> None:
        first = world.charter
        world.charter = charter(seats=(Seat(VALIDATOR.identity, 3),))
        await world.start()
        world.charter = first
        await world.start()
        await world.start()
        entries = await world.store.entries(0, count=9)
        assert [one.entry_id for one in entries] == ["charter/0", "charter/1", "charter/2"]

    @pytest.mark.parametrize(
        "bad",
        [
            charter(ledger=GATEWAY.identity),
            charter(network="mainnet"),
            charter(params_digest="00"),
            sign("charter", from_plain(Charter, charter().body), GATEWAY),
            replace(charter(), signature="00"),
        ],
    )
    async def test_a_ledger_does_not_start_under_a_charter_that_does_not_hold(
        self, bad: Signed
    ) -> None:
        from penstock.spec.errors import SpecError

        with pytest.raises(SpecError):
            await World(charter=bad).start()


class TestPublishing:
    async def test_a_segment_holds_every_entry_with_the_rows_of_records(self, world: World) -> None:
        lease = await world.leased()
        await world.take(
            record_event(record(1), lease_id=lease), record_event(failed(2), lease_id=lease)
        )
        number = await world.end_epoch()
        data = world.files.read(f"epochs/{number:08d}/segment.parquet")
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        assert [row["kind"] for row in rows] == ["charter", "record", "record", "close"]
        assert [row["seq"] for row in rows] == [0, 1, 2, 3]
        assert [row["outcome"] for row in rows] == [None, "complete", "miner_failed", None]
        assert rows[1]["charge_nano"] == CHARGE
        assert rows[1]["entry_id"] == order_id(1)
        assert parse_leaf(rows[1]["leaf"]).entry_id == order_id(1)

    async def test_the_checkpoint_of_an_epoch_is_the_root_over_its_leaves(
        self, world: World
    ) -> None:
        await worked_epoch(world)
        number = await world.end_epoch()
        about = world.file(f"epochs/{number:08d}/epoch.json")
        start = about["frontier"]
        frontier = Frontier(start["size"], tuple(bytes.fromhex(one) for one in start["roots"]))
        assert start["size"] == about["first_seq"] > 0
        data = world.files.read(f"epochs/{number:08d}/segment.parquet")
        assert hashlib.sha256(data).hexdigest() == about["segment_sha256"]
        for row in pq.read_table(io.BytesIO(data)).to_pylist():
            frontier = frontier.append(leaf_hash(row["leaf"]))
        checkpoint = verify_checkpoint(
            parse_note(about["checkpoint"].encode()),
            ORIGIN,
            public_key=LOG_KEY.public_key,
            verify_raw=verify_raw,
        )
        assert (checkpoint.size, checkpoint.root) == (frontier.size, frontier.root())

    async def test_the_same_log_gives_the_same_bytes(self, world: World) -> None:
        number = await worked_epoch(world)
        name = f"epochs/{number:08d}/segment.parquet"
        before = world.files.read(name)
        state = await world.store.epoch(number)
        assert state is not None
        await world.ledger.upkeep._publisher.publish(state)
        assert world.files.read(name) == before

    async def test_json_files_are_canonical(self, world: World) -> None:
        number = await worked_epoch(world)
        for name in ("operator.json", f"epochs/{number:08d}/epoch.json"):
            assert parse(world.files.read(name))

    async def test_operator_json_says_whose_log_it_is(self, world: World) -> None:
        await world.step()
        assert world.file("operator.json") == {
            "origin": ORIGIN,
            "log_key": LOG_KEY.identity,
            "operator": OPERATOR_KEY.identity,
            "network": "local",
        }

    async def test_a_segment_larger_than_one_page_is_whole(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        number = await worked_epoch(world, count=9)
        state = await world.store.epoch(number)
        assert state is not None
        before = world.files.read(f"epochs/{number:08d}/segment.parquet")
        rows = pq.read_table(io.BytesIO(before)).to_pylist()
        monkeypatch.setattr("penstock.ledger.publisher.ENTRIES_PAGE_MAX", 2)
        monkeypatch.setattr("penstock.ledger.publisher.ROW_GROUP_ROWS", 4)
        await world.ledger.upkeep._publisher.publish(state)
        after = world.files.read(f"epochs/{number:08d}/segment.parquet")
        assert pq.read_table(io.BytesIO(after)).to_pylist() == rows


class TestDiskFull:
    async def test_intake_goes_on_and_everything_is_published_in_order_when_there_is_room(
        self, world: World
    ) -> None:
        await world.step()
        world.files.bytes_max = 0
        lease = await world.leased()
        closed = []
        for number in range(3):
            await world.take(record_event(record(number), lease_id=lease))
            closed.append(await world.end_epoch())
        status, health = await world.get("/health")
        assert (status, health["status"]) == (200, "degraded")
        assert "3 closed epochs" in health["problems"][0]
        assert (await world.ledger.epochs())["closed"] == closed[-1]
        assert (await world.everyone())["miner"] > 0
        assert world.ledger.metrics.value("ledger_disk_full") == 1
        assert world.ledger.metrics.value("ledger_epochs_unpublished") == 3

        world.files.bytes_max = BIG_DISK
        await world.step()
        assert (await world.get("/health"))[1] == {"status": "ok", "problems": []}
        segments = await auditor(world).window(closed[-1])
        assert [one.epoch for one in segments] == closed

    async def test_a_disk_that_fills_up_in_the_middle_publishes_the_epoch_again_whole(
        self, world: World
    ) -> None:
        await world.step()
        lease = await world.leased()
        await world.take(record_event(record(), lease_id=lease))
        world.files.bytes_max = world.files.bytes_used + 9_000
        number = await world.end_epoch()
        world.files.bytes_max = BIG_DISK
        await world.step()
        assert len(await auditor(world).window(number)) == 1

    async def test_a_restart_resumes_what_was_not_published(self, world: World) -> None:
        world.files.bytes_max = 0
        number = await worked_epoch(world)
        assert world.files.names("") == []
        world.files.bytes_max = BIG_DISK
        await world.start()
        await world.step()
        assert len(await auditor(world).window(number)) == 1

    async def test_validators_have_their_time_after_the_files_are_there(self, world: World) -> None:
        world.files.bytes_max = 0
        number = await worked_epoch(world)
        await world.step(PARAMS.report_deadline_ms * 2)
        world.files.bytes_max = BIG_DISK
        await world.step()
        assert (await world.ledger.epochs())["settled"] == -1
        await world.ledger.take_report(await world.report(number))
        await world.step(PARAMS.report_deadline_ms)
        assert (await settlement(world, number)).weights

    async def test_an_outcome_that_found_no_room_is_written_later(self, world: World) -> None:
        number = await worked_epoch(world)
        world.files.bytes_max = 0
        await world.step(PARAMS.report_deadline_ms)
        assert (await world.ledger.epochs())["settled"] == number
        before = await world.everyone()
        world.files.bytes_max = BIG_DISK
        await world.start()
        await world.step()
        assert world.file(f"epochs/{number:08d}/outcome.json")["epoch"] == number
        assert await world.everyone() == before


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


class TestSettlement:
    async def test_an_epoch_is_settled_as_soon_as_all_seats_reported(self, world: World) -> None:
        number = await worked_epoch(world)
        for key in (VALIDATOR, SECOND_VALIDATOR):
            assert (await world.ledger.epochs())["settled"] == -1
            await world.ledger.take_report(await world.report(number, key))
            await world.step()
        assert (await world.ledger.epochs())["settled"] == number

    async def test_the_pool_is_paid_out_by_the_weights_to_the_last_unit(self, world: World) -> None:
        number = await worked_epoch(world)
        before = await world.everyone()
        scores = (score(MINER.identity, 600_000), score(OTHER_MINER, 300_000))
        for key in (VALIDATOR, SECOND_VALIDATOR):
            await world.ledger.take_report(await world.report(number, key, scores=scores))
        await world.step()
        said = await settlement(world, number)
        assert said.pool_nano == before["pool"] > 0
        paid = {one.identity: one.amount_nano for one in said.payouts}
        assert sum(paid.values()) + said.reserve_nano == said.pool_nano
        assert paid[MINER.identity] == 2 * paid[OTHER_MINER] > 0
        after = await world.everyone()
        assert after["pool"] == 0
        assert after["reserve"] == said.reserve_nano
        assert after["miner"] == before["miner"] + paid[MINER.identity]
        assert await world.posted(f"miner/{OTHER_MINER}") == paid[OTHER_MINER]

    async def test_without_any_report_everything_goes_to_the_reserve(self, world: World) -> None:
        number = await worked_epoch(world)
        before = await world.everyone()
        await world.step(PARAMS.report_deadline_ms - 1)
        assert (await world.ledger.epochs())["settled"] == -1
        await world.step(1)
        said = await settlement(world, number)
        assert (said.weights, said.payouts, said.reports) == ((), (), ())
        after = await world.everyone()
        assert (after["reserve"], after["pool"]) == (before["pool"], 0)
        assert posted_sum(after) == 0

    async def test_one_report_of_two_is_settled_at_the_deadline(self, world: World) -> None:
        number = await worked_epoch(world)
        signed = await world.report(number)
        await world.ledger.take_report(signed)
        await world.step(PARAMS.report_deadline_ms)
        assert (await settlement(world, number)).reports == (signed_digest(signed),)

    async def test_the_pool_of_the_next_epoch_is_not_paid_out(self, world: World) -> None:
        await worked_epoch(world)
        lease = (await world.lease())["lease_id"]
        await world.take(record_event(record(50), lease_id=lease))
        before = (await world.everyone())["pool"]
        await world.step(PARAMS.report_deadline_ms)
        after = (await world.everyone())["pool"]
        assert 0 < after < before

    async def test_epochs_are_settled_in_their_order(self, world: World) -> None:
        first = await worked_epoch(world)
        world.files.bytes_max = 0
        second = await world.end_epoch()
        world.files.bytes_max = BIG_DISK
        await world.step()
        await world.step(PARAMS.report_deadline_ms)
        seqs = []
        for number in (first, second):
            logged = await world.store.entry((EntryKind.SETTLEMENT, f"settlement/{number}"))
            assert logged is not None
            seqs.append(logged.seq)
        assert seqs == sorted(seqs)

    async def test_an_epoch_is_settled_once_over_any_number_of_steps_and_restarts(
        self, world: World
    ) -> None:
        await worked_epoch(world)
        await world.step(PARAMS.report_deadline_ms)
        before = await world.everyone()
        for _ in range(3):
            await world.start()
            await world.step()
        assert await world.everyone() == before

    async def test_the_outcome_proves_charter_reports_and_settlement(self, world: World) -> None:
        number = await worked_epoch(world)
        for key in (VALIDATOR, SECOND_VALIDATOR):
            await world.ledger.take_report(await world.report(number, key))
        await world.step()
        outcome = world.file(f"epochs/{number:08d}/outcome.json")
        checkpoint = verify_checkpoint(
            parse_note(outcome["checkpoint"].encode()),
            ORIGIN,
            public_key=LOG_KEY.public_key,
            verify_raw=verify_raw,
        )
        kinds = []
        for one in outcome["entries"]:
            leaf = base64.b64decode(one["leaf"])
            kinds.append(parse_leaf(leaf).kind.value)
            check_inclusion(
                leaf_hash(leaf),
                one["seq"],
                size=checkpoint.size,
                proof=[bytes.fromhex(sibling) for sibling in one["proof"]],
                expected=checkpoint.root,
            )
        assert kinds == ["charter", "report", "report", "settlement"]

    async def test_a_stranger_recomputes_the_epoch_from_the_files_alone(self, world: World) -> None:
        number = await worked_epoch(world)
        for key in (VALIDATOR, SECOND_VALIDATOR):
            await world.ledger.take_report(await honest_report(world, number, key))
        await world.step()
        await world.take(record_event(record(60)))
        second = await world.end_epoch()
        for key in (VALIDATOR, SECOND_VALIDATOR):
            await world.ledger.take_report(await honest_report(world, second, key))
        await world.step()
        for epoch in (number, second):
            audit = await auditor(world).audit(epoch)
            assert audit.reports == 2
            assert audit.settlement == await settlement(world, epoch)
        assert audit.records == 6
        assert audit.settlement.payouts


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
