"""Judging epochs: every validator reports the law's scores, once, or says why it does not."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.client.published_log import (
    LIAR,
    MINERS,
    STRANGER,
    VALIDATORS,
    Alterations,
    add_lie,
    add_traffic,
)
from tests.makers import GATEWAY, decided, make_decision
from tests.stations.validator.world import DISK_BYTES_MAX, World

from penstock.sim.disk import MemoryFiles
from penstock.spec.entries import Row
from penstock.spec.keys import sign
from penstock.spec.messages import Report
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Record
from penstock.spec.routing import EXPLORING, is_exploring
from penstock.validator.errors import NotebookTorn
from penstock.validator.service import REFUSAL_POLLS, Validator
from penstock.validator.store import ACCEPTED, LATE, NOTEBOOK_FILE, PENDING, REFUSED

FIRST, SECOND, _ = VALIDATORS


def playing(
    scenario: Callable[[World], Awaitable[None]], *, alter: Alterations | None = None
) -> World:
    """Run the scenario in a fresh world whose log begins with a charter."""
    world = World(alter=alter)
    world.log.add_charter()
    world.run(lambda: scenario(world))
    return world


async def close_busy_epoch(world: World, *, lie: bool = False) -> int:
    add_traffic(world.log)
    if lie:
        add_lie(world.log)
    return await world.close_epoch()


async def poll(validator: Validator, times: int = 1) -> None:
    for _ in range(times):
        await validator.step()


def test_a_closed_epoch_is_reported_with_the_scores_of_the_law() -> None:
    async def scenario(world: World) -> None:
        for lie in (False, True, False):
            epoch = await close_busy_epoch(world, lie=lie)
            validator = world.validator()
            await poll(validator)
            law = await world.log.make_report(epoch, FIRST)
            assert world.reports[-1] == law
        zeroed = [one for one in world.report_bodies()[-1].scores if one.miner == LIAR.identity]
        assert [one.total_ppm for one in zeroed] == [0]

    playing(scenario)


def test_two_validators_with_different_probes_report_the_same_bytes() -> None:
    async def scenario(world: World) -> None:
        one = world.validator(FIRST, probes_max=9)
        other = world.validator(SECOND, probes_max=4)
        async with asyncio.TaskGroup() as group:
            rounds = [group.create_task(each.rounds.run()) for each in (one, other)]
            for _ in range(3):
                await asyncio.sleep(LOCAL.epoch_ms / 1000)
                await world.close_epoch()
                await poll(one)
                await poll(other)
            for task in rounds:
                task.cancel()
        assert one.rounds.counts != other.rounds.counts

    reports = playing(scenario).report_bodies()
    assert len(reports) == 6
    for mine, theirs in zip(reports[::2], reports[1::2], strict=True):
        assert mine.validator != theirs.validator
        assert replace(mine, validator="") == replace(theirs, validator="")
        assert mine.evidence_digest == theirs.evidence_digest
        assert any(score.total_ppm for score in mine.scores)


def test_a_report_is_sent_once_however_often_the_ledger_is_asked() -> None:
    async def scenario(world: World) -> None:
        epoch = await close_busy_epoch(world)
        validator = world.validator()
        await poll(validator, 5)
        assert len(world.reports) == 1
        assert [kept.state for kept in validator.notebook.reports] == [ACCEPTED]
        health = validator.health()
        assert (health["status"], health["problems"]) == ("ok", [])
        assert health["epochs"]["reported"] == epoch

    playing(scenario)


def test_after_a_restart_the_same_report_is_sent_and_no_other_one_is_signed() -> None:
    async def scenario(world: World) -> None:
        files = MemoryFiles(bytes_max=DISK_BYTES_MAX)
        await close_busy_epoch(world)
        world.manners.report_status = 503
        first_life = world.validator(files=files)
        await poll(first_life)
        assert "503" in first_life.health()["problems"][0]
        signed = first_life.notebook.reports[0].opened()
        world.manners.report_status = 200
        second_life = world.validator(files=files)
        await poll(second_life, 3)
        assert world.reports == [signed]

    playing(scenario)


def test_a_report_that_was_given_stands_even_if_the_log_now_gives_another() -> None:
    async def scenario(world: World) -> None:
        epoch = await close_busy_epoch(world)
        validator = world.validator()
        other = Report(FIRST.identity, epoch, "v1", 1, "0" * 64, "0" * 64, ())
        given = sign("report", other, FIRST)
        validator.notebook.keep_report(epoch, given)
        await poll(validator)
        assert world.reports == [given]
        health = validator.health()
        assert health["status"] == "degraded"
        assert f"epoch {epoch} gave other scores than before" in health["problems"]

    playing(scenario)


def test_a_refused_report_is_not_sent_again() -> None:
    async def scenario(world: World) -> None:
        await close_busy_epoch(world)
        world.manners.report_status = 403
        validator = world.validator()
        await poll(validator)
        world.manners.report_status = 200
        await poll(validator, 3)
        assert world.reports == []
        assert [kept.state for kept in validator.notebook.reports] == [REFUSED]

    playing(scenario)


def test_a_report_that_was_not_taken_before_the_settlement_is_late() -> None:
    async def scenario(world: World) -> None:
        epoch = await close_busy_epoch(world)
        world.manners.report_status = 503
        validator = world.validator()
        await poll(validator)
        assert [kept.state for kept in validator.notebook.reports] == [PENDING]
        world.manners.report_status, world.settled = 200, epoch
        await poll(validator)
        assert [kept.state for kept in validator.notebook.reports] == [LATE]
        assert world.reports == []

    playing(scenario)


def test_a_ledger_that_is_down_is_told_and_asked_again() -> None:
    async def scenario(world: World) -> None:
        await close_busy_epoch(world)
        world.manners.is_ledger_down = True
        validator = world.validator()
        await poll(validator)
        assert "503" in validator.health()["problems"][0]
        world.manners.is_ledger_down = False
        await poll(validator)
        assert validator.health()["status"] == "ok"
        assert len(world.reports) == 1

    playing(scenario)


def test_an_epoch_that_is_closed_but_not_published_yet_is_waited_for() -> None:
    async def scenario(world: World) -> None:
        await close_busy_epoch(world)
        world.manners.is_publishing = False
        validator = world.validator()
        await poll(validator)
        assert (validator.health()["status"], world.reports) == ("ok", [])
        world.manners.is_publishing = True
        await poll(validator)
        assert len(world.reports) == 1

    playing(scenario)


def test_every_unsettled_epoch_of_the_window_is_reported() -> None:
    async def scenario(world: World) -> None:
        epochs = [await close_busy_epoch(world) for _ in range(3)]
        world.settled = epochs[0]
        await poll(world.validator())
        assert [report.epoch for report in world.report_bodies()] == epochs[1:]

    playing(scenario)


@pytest.mark.parametrize(
    "name", ["work_units", "ns_per_unit", "miner", "chute", "success", "counts", "bucket"]
)
def test_a_row_that_is_not_its_records_is_refused_loudly(name: str) -> None:
    def alter(row: Row) -> Row:
        value = getattr(row, name)
        spoilt: Any = value + "x" if isinstance(value, str) else 1 - value if value < 2 else 7
        return replace(row, **{name: spoilt})

    async def scenario(world: World) -> None:
        epoch = await close_busy_epoch(world)
        validator = world.validator()
        await poll(validator)
        health = validator.health()
        assert health["status"] == "refusing"
        assert f"Epoch {epoch} does not hold" in health["problems"][0]
        assert name in health["problems"][0] or "out of range" in health["problems"][0]
        assert validator.metrics.value("validator_refusing") == 1
        assert validator.notebook.reports == ()

    assert playing(scenario, alter=Alterations(row=alter)).reports == []


def test_an_epoch_that_is_mended_is_reported_after_a_while() -> None:
    async def scenario(world: World) -> None:
        epoch = await close_busy_epoch(world)
        name = f"epochs/{epoch:08d}/segment.parquet"
        good = world.published[name]
        world.published = {**world.published, name: good[:-1]}
        validator = world.validator()
        await poll(validator)
        assert list(validator.refusals) == [epoch]
        world.published = {**world.published, name: good}
        await poll(validator, REFUSAL_POLLS + 1)
        assert (validator.refusals, len(world.reports)) == ({}, 1)
        assert validator.health()["status"] == "ok"

    playing(scenario)


def test_a_record_that_counts_in_two_epochs_is_refused() -> None:
    async def scenario(world: World) -> None:
        first = world.log.epoch
        await close_busy_epoch(world)
        world.log.epoch, second = first, world.log.epoch
        add_traffic(world.log)
        world.log.epoch = second
        await world.close_epoch()
        validator = world.validator()
        await poll(validator)
        assert "an id is logged once" in validator.refusals[second]

    assert playing(scenario).reports == []


def test_a_record_that_counts_twice_in_one_epoch_is_refused() -> None:
    async def scenario(world: World) -> None:
        epoch = await close_busy_epoch(world)
        validator = world.validator()
        await poll(validator)
        assert "entries by id" in validator.refusals[epoch]

    assert playing(scenario, alter=Alterations(records_twice=True)).reports == []


def test_a_log_under_another_key_than_the_charters_is_refused() -> None:
    async def scenario(world: World) -> None:
        epoch = await close_busy_epoch(world)
        validator = world.validator()
        validator.follower.log_key = "ed25519:" + "0" * 64
        await poll(validator)
        assert "operator.json: log_key" in validator.refusals[epoch]

    playing(scenario)


def test_a_validator_without_a_seat_says_so_and_reports_nothing() -> None:
    async def scenario(world: World) -> None:
        await close_busy_epoch(world)
        validator = world.validator(STRANGER)
        await poll(validator)
        assert "no seat" in validator.health()["problems"][0]

    assert playing(scenario).reports == []


def test_a_charter_that_left_the_window_is_found_in_an_outcome() -> None:
    """The window is 10 epochs long; the charter stands before it."""

    async def scenario(world: World) -> None:
        for _ in range(LOCAL.window_epochs):
            settled = await close_busy_epoch(world)
        await world.log.settle(settled)
        last = await close_busy_epoch(world)
        world.settled = settled
        await poll(world.validator())
        assert [report.epoch for report in world.report_bodies()] == [last]
        assert world.reports[0] == await world.log.make_report(last, FIRST)

    playing(scenario)


def test_a_lie_in_an_older_epoch_is_read_again_for_its_verdict() -> None:
    async def scenario(world: World) -> None:
        validator = world.validator()
        for lie in (True, False, False):
            epoch = await close_busy_epoch(world, lie=lie)
            await poll(validator)
            assert world.reports[-1] == await world.log.make_report(epoch, FIRST)
        assert len(world.reports) == 3

    playing(scenario)


def test_a_full_disk_keeps_a_report_back_until_it_can_be_remembered() -> None:
    async def scenario(world: World) -> None:
        await close_busy_epoch(world)
        files = MemoryFiles(bytes_max=10)
        validator = world.validator(files=files)
        await poll(validator)
        assert "full" in validator.health()["problems"][0]
        assert world.reports == []
        files.bytes_max = DISK_BYTES_MAX
        await poll(validator)
        assert len(world.reports) == 1

    playing(scenario)


def test_a_torn_notebook_stops_the_validator_before_it_could_report_twice() -> None:
    async def scenario(world: World) -> None:
        files = MemoryFiles(bytes_max=DISK_BYTES_MAX)
        files.write(NOTEBOOK_FILE, b'{"reports": [')
        with pytest.raises(NotebookTorn) as caught:
            world.validator(files=files)
        assert NOTEBOOK_FILE in str(caught.value)

    playing(scenario)


def test_every_record_of_a_small_epoch_is_judged_again() -> None:
    async def scenario(world: World) -> None:
        await close_busy_epoch(world)
        validator = world.validator()
        await poll(validator, 3)
        assert validator.follower.rechecked == 9
        assert validator.metrics.value("validator_decisions_broken_total") == 0

    playing(scenario)


def test_decisions_that_break_their_policy_are_counted_and_the_report_stands() -> None:
    keys = {key.identity: key for key in (*MINERS, LIAR)}
    broken = make_decision(policy=EXPLORING, seed=0)
    assert not is_exploring(broken.seed)

    def alter(record: Record) -> Record:
        if record.countersign is None:
            return record
        return decided(record, broken, gateway=GATEWAY, miner=keys[record.order.body["miner"]])

    async def scenario(world: World) -> None:
        await close_busy_epoch(world)
        validator = world.validator()
        await poll(validator)
        assert validator.metrics.value("validator_decisions_broken_total") == 9
        assert len(world.reports) == 1
        assert validator.metrics.value("validator_refusals_total") == 0

    playing(scenario, alter=Alterations(record=alter))


def test_the_window_is_read_once_and_what_is_older_is_let_go() -> None:
    async def scenario(world: World) -> None:
        validator = world.validator()
        for number in range(LOCAL.window_epochs + 3):
            epoch = await close_busy_epoch(world)
            if number % 4 == 0:
                await world.log.settle(epoch)
                world.published = world.log.published
            await poll(validator)
        assert validator.metrics.value("validator_refusals_total") == 0
        assert validator.follower.rechecked == 9 * (LOCAL.window_epochs + 3)
        assert len(validator.follower._held) == LOCAL.window_epochs

    playing(scenario)
