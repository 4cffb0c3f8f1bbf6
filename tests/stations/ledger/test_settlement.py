"""An epoch is settled once, in order, to the last unit, and a stranger recomputes it."""

import base64

import pytest
from tests.makers import MINER, ToyKey
from tests.stations.ledger.makers_ledger import (
    BIG_DISK,
    LOG_KEY,
    ORIGIN,
    PARAMS,
    SECOND_VALIDATOR,
    VALIDATOR,
    World,
    posted_sum,
    record,
    record_event,
    score,
)
from tests.stations.ledger.test_epochs import auditor, settlement, worked_epoch

from penstock.kit.keys import verify_raw
from penstock.spec.entries import EntryKind, parse_leaf
from penstock.spec.evidence import evidence_digest, gather
from penstock.spec.keys import Signed, signed_digest
from penstock.spec.log import check_inclusion, leaf_hash
from penstock.spec.notes import parse_note, verify_checkpoint
from penstock.spec.scoring import score as score_all

OTHER_MINER = "toy:" + "2" * 16


@pytest.fixture
async def world() -> World:
    return await World().start()


async def honest_report(world: World, epoch: int, key: ToyKey) -> Signed:
    """What a validator that can count says."""
    segments = await auditor(world).window(epoch)
    rows = [leaf.row for one in segments for leaf in one.leaves if leaf.row is not None]
    evidence = gather(rows, [], failed=[])
    scores = score_all(evidence, PARAMS)
    digest = evidence_digest(evidence)
    return await world.report(epoch, key, scores=scores, evidence_digest=digest)


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
