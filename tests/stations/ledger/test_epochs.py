"""Epochs: closed, published, reported on and settled, in order, whatever the disk does."""

import hashlib
import io
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from tests.makers import GATEWAY
from tests.stations.ledger.makers_ledger import (
    BIG_DISK,
    CHARGE,
    LOG_KEY,
    OPERATOR_KEY,
    ORIGIN,
    PARAMS,
    VALIDATOR,
    World,
    charter,
    either_verify,
    failed,
    order_id,
    record,
    record_event,
)

from penstock.client.audit import Auditor
from penstock.client.errors import NotPublished
from penstock.kit.keys import verify_raw
from penstock.spec.canon import from_plain, parse
from penstock.spec.entries import Close, EntryKind, parse_leaf
from penstock.spec.keys import Signed, open_signed, parse_signed, sign
from penstock.spec.log import Frontier, leaf_hash
from penstock.spec.messages import Charter, Seat, Settlement
from penstock.spec.notes import parse_note, verify_checkpoint


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
