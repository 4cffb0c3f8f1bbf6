"""Keeping workers: who is started under which number, on which socket, and when the old ones go."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from penstock.gateway.config import GatewayConfig, as_worker, read_config
from penstock.gateway.errors import WorkerLost
from penstock.gateway.keeper import stop_ms
from penstock.gateway.workers import Workers
from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Scope
from penstock.sim.loop import VirtualLoop, run

DRAIN_MS = 5_000


class FakeChild:
    """A process that serves when told to, and drains for a while when asked to stop."""

    def __init__(self, number: int, *, drain_s: float, port: int | None) -> None:
        self.number = number
        self.pid = 1_000 + number
        self.status: int | None = None
        self.signals: list[signal.Signals] = []
        self.port = port
        self._drain_s = drain_s
        self._ended = asyncio.Event()

    async def ready(self) -> int | None:
        await asyncio.sleep(0.5)
        if self.port is None:
            self.end(1)
        return self.port

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def end(self, status: int) -> None:
        if self.status is None:
            self.status = status
            self._ended.set()

    def send(self, number: signal.Signals) -> None:
        self.signals.append(number)
        loop = asyncio.get_running_loop()
        if number == signal.SIGKILL:
            self.end(-9)
        else:
            loop.call_later(self._drain_s, self.end, 0)


@dataclass
class Yard:
    """Starts fakes and remembers them."""

    drain_s: float = 1.0
    started: list[tuple[int, int, bool]] = field(default_factory=list)
    children: list[FakeChild] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)

    async def launch(self, number: int, index: int, is_warm: bool) -> FakeChild:
        living = [one.number for one in self.children if one.status is None]
        assert number not in living, "one name, one process"
        self.started.append((number, index, is_warm))
        port = None if number in self.broken else 9_000 + len(self.started)
        child = FakeChild(number, drain_s=self.drain_s, port=port)
        self.children.append(child)
        return child

    def living(self) -> list[int]:
        return sorted(one.number for one in self.children if one.status is None)


Scenario = Callable[[Yard, Workers, Scope], Awaitable[None]]


def play(scenario: Scenario, *, count: int = 2, drain_s: float = 1.0) -> Yard:
    """Run it in virtual time; afterwards nobody may be left."""
    yard = Yard(drain_s)

    async def main() -> None:
        workers = Workers(count=count, launch=yard.launch, metrics=Metrics(), drain_ms=DRAIN_MS)
        async with Scope() as scope:
            await scenario(yard, workers, scope)
            await workers.stop()
            scope.cancel()
        assert yard.living() == []

    run(main(), VirtualLoop(horizon_ms=3_600_000))
    return yard


def test_all_are_started_together_and_ended_together() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        assert yard.started == [(1, 0, False), (2, 1, False)]
        assert len(workers.ports) == 2
        assert workers.metrics.value("gateway_workers") == 2

    yard = play(scenario)
    assert [one.signals for one in yard.children] == [[signal.SIGTERM]] * 2


def test_a_renewal_goes_round_by_the_free_name_and_never_has_too_few() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        assert await workers.renew(scope)
        assert yard.started[2:] == [(3, 0, True), (1, 1, True)]
        assert yard.living() == [1, 3]
        assert await workers.renew(scope)
        assert yard.started[4:] == [(2, 0, True), (3, 1, True)]
        assert workers.metrics.value("gateway_renewals_total", result="complete") == 2
        assert workers.metrics.value("gateway_worker_crashes_total") == 0

    play(scenario)


def test_the_old_one_is_asked_to_go_only_when_the_new_one_serves() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        renewing = scope.start("renew", workers.renew(scope))
        await asyncio.sleep(0.4)
        assert yard.living() == [1, 2, 3]
        assert yard.children[0].signals == []
        await asyncio.sleep(0.2)
        assert yard.children[0].signals == [signal.SIGTERM]
        assert await renewing

    play(scenario)


def test_one_that_does_not_come_up_changes_nothing() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        yard.broken = {3}
        assert not await workers.renew(scope)
        assert yard.living() == [1, 2]
        assert workers.metrics.value("gateway_renewals_total", result="failed") == 1
        assert len(workers.ports) == 2

    play(scenario)


def test_one_that_dies_comes_back_under_its_own_name_on_its_own_socket() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        yard.children[1].end(-11)
        await asyncio.sleep(0.05)
        assert len(workers.ports) == 1
        await asyncio.sleep(5)
        assert yard.started[2:] == [(2, 1, True)]
        assert len(workers.ports) == 2
        assert workers.metrics.value("gateway_worker_crashes_total") == 1

    play(scenario)


def test_one_that_dies_again_and_again_is_started_ever_more_rarely() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        yard.broken = {1}
        yard.children[0].end(1)
        await asyncio.sleep(60)
        assert 5 < len(yard.started) < 25
        assert yard.living() == [2]
        yard.broken = set()
        await asyncio.sleep(10)
        assert yard.living() == [1, 2]

    play(scenario)


def test_one_that_drains_for_too_long_is_killed() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        assert await workers.renew(scope)
        assert yard.children[0].signals == [signal.SIGTERM, signal.SIGKILL]
        assert yard.children[0].status == -9

    play(scenario, count=1, drain_s=60)


@pytest.mark.parametrize("moment_s", [0.2, 0.7, 1.2, 1.7, 2.2])
def test_a_stop_in_the_middle_of_a_renewal_ends_old_and_new(moment_s: float) -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        await workers.start(scope)
        renewing = scope.start("renew", workers.renew(scope))
        await asyncio.sleep(moment_s)
        workers.is_stopping = True
        renewing.cancel()
        await asyncio.wait({renewing})

    yard = play(scenario)
    assert all(signal.SIGKILL not in one.signals for one in yard.children), "all drained"


def test_a_first_one_that_does_not_come_up_is_told_by_its_number() -> None:
    async def scenario(yard: Yard, workers: Workers, scope: Scope) -> None:
        yard.broken = {2}
        with pytest.raises(ExceptionGroup) as caught:
            await workers.start(scope)
        (lost,) = caught.value.exceptions
        assert isinstance(lost, WorkerLost)
        assert (lost.number, lost.status) == (2, 1)

    play(scenario)


def config_of(**fields: object) -> GatewayConfig:
    given = {
        "name": "gw",
        "market_url": "http://m",
        "nats_url": "nats://n",
        "key_file": "/keys/gateway.json",
        "tag_secret_file": "/keys/tag",
    }
    return msgspec.convert({**given, **fields}, GatewayConfig)


def test_each_worker_has_a_name_and_a_key_of_its_own() -> None:
    config = config_of(workers=2)
    assert as_worker(config, 1) == config
    third = as_worker(config, 3)
    assert (third.name, third.key_file) == ("gw-3", "/keys/gateway-3.json")
    assert as_worker(config_of(key_file="gateway"), 2).key_file == "gateway-2"


def test_a_worker_has_time_for_all_its_own_deadlines_before_it_is_killed() -> None:
    config = config_of()
    deadlines = config.deadlines
    assert stop_ms(config) > deadlines.drain_ms + deadlines.seal_stop_ms + deadlines.flush_ms


@pytest.mark.parametrize(
    "fields", [{"workers": -1}, {"workers": 10_000}, {"tls_key_file": "/key.pem"}]
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(msgspec.json.encode(config_of()))
    assert read_config(path) == config_of()
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(config_of()), **fields}))
    with pytest.raises(msgspec.ValidationError):
        read_config(path)
