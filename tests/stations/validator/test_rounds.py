"""Probing through the epochs: spread out, counted, bounded; lies become verdicts."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.client.published_log import MINERS, VALIDATORS
from tests.makers import ToyKey
from tests.stations.validator.world import World

from penstock.kit.tasks import Scope
from penstock.sim.disk import MemoryFiles
from penstock.spec.params import LOCAL
from penstock.validator.probe import Found
from penstock.validator.rounds import LATE_EPOCHS, Awaited
from penstock.validator.service import Validator

EPOCH_S = LOCAL.epoch_ms / 1000
PROBES_MAX = 8


def living(
    scenario: Callable[[World, Validator], Awaitable[None]],
    *,
    probes_max: int = PROBES_MAX,
    files: MemoryFiles | None = None,
    key: ToyKey = VALIDATORS[0],
) -> World:
    """A validator that lives through the scenario with both of its loops."""
    world = World()
    world.log.add_charter()

    async def main() -> None:
        validator = world.validator(key, probes_max=probes_max, files=files)
        async with Scope() as scope:
            validator.start(scope)
            await scenario(world, validator)
            scope.cancel()

    world.run(main)
    return world


async def epochs(world: World, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(EPOCH_S)
        await world.close_epoch()


def test_probes_are_spread_over_every_epoch_and_over_all_chutes() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        await epochs(world, 3)
        assert validator.rounds.counts[Found.GOOD] == 3 * PROBES_MAX

    world = living(scenario)
    assert len(world.asked) == 3 * PROBES_MAX
    models = [asked["model"] for _, asked in world.asked]
    assert [models.count(model) for model in sorted(set(models))] == [12, 12]


def test_a_life_of_probing_following_and_reporting_is_healthy() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        await epochs(world, 4)
        await asyncio.sleep(10)
        health = validator.health()
        assert (health["status"], health["problems"]) == ("ok", [])
        assert health["records"]["missing"] == 0
        assert health["probes"]["good"] >= 4 * PROBES_MAX

    world = living(scenario)
    assert [report.epoch - world.first_epoch for report in world.report_bodies()] == [0, 1, 2, 3]


def test_a_lie_becomes_a_verdict_once_its_record_is_logged_and_zeroes_the_miner() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.manners.units_claimed = 100
        await asyncio.sleep(EPOCH_S)
        assert world.verdicts == [], "the record is not logged yet"
        exhibits = len(validator.notebook.exhibits)
        assert exhibits > 0
        world.manners.units_claimed = 4
        await epochs(world, 1)
        await asyncio.sleep(5)
        assert len(world.verdicts) == exhibits
        assert validator.notebook.exhibits == ()
        await epochs(world, 1)
        await asyncio.sleep(5)
        assert validator.health()["verdicts"] == {"accepted": exhibits, "pending": 0}

    world = living(scenario)
    accused = {verdict.miner for verdict in world.verdicts}
    assert accused <= {key.identity for key in MINERS}
    scores = {score.miner: score.total_ppm for score in world.report_bodies()[-1].scores}
    assert [scores[miner] for miner in sorted(accused)] == [0] * len(accused)


def test_a_lie_whose_record_never_comes_is_let_go() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.manners.units_claimed, world.manners.loses_records = 100, True
        await epochs(world, 1)
        world.manners.units_claimed = 4
        await epochs(world, LATE_EPOCHS + 1)
        await asyncio.sleep(5)
        assert validator.notebook.exhibits == ()
        assert validator.accuser.states["late"] > 0

    assert living(scenario).verdicts == []


def test_records_that_the_log_lacks_are_missed() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.manners.loses_records = True
        await epochs(world, 1)
        world.manners.loses_records = False
        await epochs(world, LATE_EPOCHS)
        await asyncio.sleep(5)
        assert validator.health()["records"]["missing"] == PROBES_MAX

    living(scenario)


def test_an_empty_account_stops_the_round_and_is_told() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.manners.status = 402
        await epochs(world, 1)
        assert 1 <= validator.rounds.counts[Found.UNPAID] <= 2
        health = validator.health()
        assert health["status"] == "degraded"
        assert "402" in health["problems"][0]
        world.manners.status = 200
        await epochs(world, 1)
        assert validator.health()["problems"] == []
        assert validator.rounds.counts[Found.GOOD] == PROBES_MAX

    living(scenario)


def test_probes_that_fail_are_counted_and_no_fault_of_the_validator() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.manners.status = 503
        await epochs(world, 1)
        assert validator.rounds.counts[Found.REFUSED] == PROBES_MAX
        assert validator.health()["status"] == "ok"

    living(scenario)


def test_a_chute_that_nobody_serves_is_not_probed_until_somebody_does() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.manners.serving = 0
        await asyncio.sleep(EPOCH_S / 2)
        assert world.asked == []
        world.manners.serving = 1
        await asyncio.sleep(EPOCH_S / 2)
        assert len(world.asked) == PROBES_MAX

    living(scenario)


def test_a_market_that_is_away_is_waited_for() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.network.kill("market")
        await asyncio.sleep(2 * EPOCH_S)
        assert world.asked == []
        assert validator.rounds.counts[Found.FAILED] == 0

    living(scenario)


def test_a_validator_may_probe_nothing() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        await epochs(world, 2)

    assert living(scenario, probes_max=0).asked == []


def test_a_lie_that_cannot_be_kept_is_told() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        world.manners.units_claimed = 100
        await asyncio.sleep(EPOCH_S)
        assert validator.metrics.value("validator_exhibits_lost_total") > 0

    living(scenario, files=MemoryFiles(bytes_max=1))


def test_awaited_records_are_bounded_and_given_up_by_epoch() -> None:
    awaited = Awaited(awaited_max=2)
    for number, name in enumerate("abc"):
        awaited.expect(name, number)
    assert awaited.count == 2, "the oldest is forgotten"
    awaited.found("b")
    awaited.found("unknown")
    assert awaited.give_up(2 + LATE_EPOCHS - 1) == []
    assert awaited.give_up(2 + LATE_EPOCHS) == ["c"]
    assert (awaited.count, awaited.missing) == (0, 1)


def test_two_runs_of_one_seed_ask_the_same_and_another_validator_asks_otherwise() -> None:
    async def scenario(world: World, validator: Validator) -> None:
        await epochs(world, 1)

    once = living(scenario).asked
    assert once == living(scenario).asked
    assert once != living(scenario, key=VALIDATORS[1]).asked
