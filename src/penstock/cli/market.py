"""The running market of a home: servers, stations, first acts, and the state that others read."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from penstock.adapters.embedded_nats import NatsServer
from penstock.adapters.embedded_postgres import PostgresServer
from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.cli.api import Refused
from penstock.cli.bootstrap import (
    are_serving,
    deploy_chutes,
    is_healthy,
    open_accounts,
    served,
)
from penstock.cli.errors import Stop
from penstock.cli.plan import (
    BUILTIN_CHUTES,
    EXTRA_CHUTES,
    MINER_CHUTES,
    Plan,
    station_command,
    write_configs,
)
from penstock.cli.supervisor import FirstStartFailed, Process, Supervisor
from penstock.kit.clock import SystemClock
from penstock.kit.errors import WireError
from penstock.kit.tasks import Scope

SERVERS_LEVEL, STATIONS_LEVEL = 0, 1
STOP_ORDER = {"gateway": 3, "validator": 3, "miner": 2, "market": 1, "ledger": 1}
"""Who asks ends before who answers: streams end while their miners serve, and miners withdraw their
offers and claim while market and ledger listen. The servers (0) end last."""
ASK_READY_MS = 1_000
SERVED_DEADLINE_MS = 120_000
CHECK_EVERY_MS = 100

Told = Callable[[str, int, int], None]
"""(step, done, of): progress for the one who waits."""


@dataclass
class Market:
    """Runs a plan until told to stop. `told` is called at each step of the way up."""

    plan: Plan
    told: Told
    supervisor: Supervisor = field(init=False)
    problem: str = ""
    ready: bool = False
    _servers: list[Process] = field(default_factory=list)
    _database_url: str = ""
    _nats_url: str = ""

    def __post_init__(self) -> None:
        self._servers = self._make_servers()
        stations = [self._station(name) for name in self.plan.stations]
        self.supervisor = Supervisor(
            [*self._servers, *stations], on_change=self.write_state, clock=SystemClock()
        )

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Come up, stay until SIGINT or SIGTERM, go down. Raises Stop when it cannot come up."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            async with Scope() as scope:
                coming = scope.start("come up", self._come_up(scope))
                stopping = scope.start("stop asked", stop.wait())
                await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    coming.result()
                    self.ready = True
                    self.write_state()
                    on_ready()
                    await stop.wait()
                self.supervisor.stopping = True
                scope.cancel()
        except* FirstStartFailed as group:
            raise self._failed(group) from None
        except* Stop as group:
            raise _first(group, Stop) from None
        except* (FileExposed, KeyFileInvalid) as group:
            # A file of the user's: the entry tells it in words.
            raise _first(group, Exception) from None
        finally:
            self.ready = False
            self.told("stopping", 0, 1)
            await self.supervisor.stop()
            self.plan.home.state_file.unlink(missing_ok=True)

    def write_state(self) -> None:
        """What `status`, `down` and scripts read."""
        self.plan.home.write_state(
            {
                "ready": self.ready,
                "supervisor_pid": os.getpid(),
                "gateway_url": self.plan.url("gateway"),
                "urls": self.plan.urls(),
                "stations": [process.row() for process in self.supervisor.processes],
                "problem": self.problem,
            }
        )

    async def _come_up(self, scope: Scope) -> None:
        total = len(self.supervisor.processes) + 2
        self.told("starting the servers and stations", 0, total)
        write_configs(self.plan, database_url=self._database_url, nats_url=self._nats_url)
        progress = scope.start("progress", self._report_progress(total))
        await self.supervisor.start(scope)
        progress.cancel()
        self.told("opening accounts", total - 2, total)
        await self._until("accounts", lambda: open_accounts(self.plan))
        self.told("deploying the first chutes", total - 1, total)
        await self._until("chutes", lambda: deploy_chutes(self.plan))
        await self._wait_served(total)
        self.told("ready", total, total)

    async def _report_progress(self, total: int) -> None:
        while True:
            ready = sum(process.state == "ready" for process in self.supervisor.processes)
            waiting = [one.name for one in self.supervisor.processes if one.state == "starting"]
            self.told(f"starting {', '.join(waiting[:4])}" if waiting else "starting", ready, total)
            await asyncio.sleep(CHECK_EVERY_MS / 1000)

    async def _until(self, what: str, act: Callable[[], Awaitable[object]]) -> None:
        """Try until a station that just started takes it. Raises Stop."""
        last = ""
        try:
            async with asyncio.timeout(SERVED_DEADLINE_MS / 1000):
                while True:
                    try:
                        await act()
                    except WireError as error:
                        last = str(error)
                    except Refused as error:
                        if error.status < 500:
                            raise Stop(f"{what}: refused", why=error.message) from error
                        last = error.message
                    else:
                        return
                    await asyncio.sleep(CHECK_EVERY_MS / 1000)
        except TimeoutError as error:
            raise Stop(
                f"{what}: no success in time", why=last, then=f"penstock logs{self.plan.home.flag}"
            ) from error

    async def _wait_served(self, total: int) -> None:
        """Every first chute that a miner was started for has an instance. Raises Stop."""
        miners = MINER_CHUTES[: len(self.plan.miners)]
        sure = [name for name in BUILTIN_CHUTES if name not in EXTRA_CHUTES]
        wanted = {name: sum(name in one for one in miners) for name in sure}
        try:
            async with asyncio.timeout(SERVED_DEADLINE_MS / 1000):
                while True:
                    now = await served(self.plan)
                    # Offers of a former life may stand on the board until they expire, so the
                    # miners are asked as well.
                    if all(now.get(name, 0) >= count for name, count in wanted.items()) and (
                        await are_serving(self.plan, self.plan.miners[: len(miners)])
                    ):
                        return
                    lacking = [name for name, count in wanted.items() if now.get(name, 0) < count]
                    self.told(f"loading {', '.join(lacking) or 'engines'}", total - 1, total)
                    await asyncio.sleep(CHECK_EVERY_MS / 1000)
        except TimeoutError as error:
            raise Stop(
                "no miner serves in time", then=f"penstock logs miner-1{self.plan.home.flag}"
            ) from error

    def _make_servers(self) -> list[Process]:
        """The embedded servers, unless the user brought their own by URL."""
        home, wish, ports = self.plan.home, self.plan.wish, self.plan.ports
        servers = []
        self._database_url, self._nats_url = wish.database_url, wish.nats_url
        if not wish.database_url:
            postgres = PostgresServer(home.path, ports["postgres"])
            self._database_url = postgres.url
            servers.append(_server("postgres", postgres))
        if not wish.nats_url:
            nats = NatsServer(home.path, ports["nats"])
            self._nats_url = nats.url
            servers.append(_server("nats", nats))
        return servers

    def _station(self, name: str) -> Process:
        return Process(
            name=name,
            level=STATIONS_LEVEL,
            command=lambda: station_command(self.plan, name),
            is_ready=lambda: is_healthy(self.plan.url(name)),
            stop_order=STOP_ORDER[name.partition("-")[0]],
        )

    def _failed(self, group: BaseExceptionGroup[FirstStartFailed]) -> Stop:
        error = _first(group, FirstStartFailed)
        return Stop(
            f"{error.name} did not start",
            why=error.reason,
            then=f"penstock logs {error.name}{self.plan.home.flag}",
        )


def _server(name: str, server: PostgresServer | NatsServer) -> Process:
    async def is_ready() -> bool:
        from penstock.adapters.errors import NotReady

        try:
            await server.wait_ready(deadline_ms=ASK_READY_MS)
        except NotReady:
            return False
        return True

    return Process(
        name=name,
        level=SERVERS_LEVEL,
        command=lambda: server.command,
        is_ready=is_ready,
        prepare=server.prepare,
    )


def _first(group: BaseExceptionGroup[Any], kind: type[Any]) -> Any:
    """The first error of a kind in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error, kind)
        if isinstance(error, kind):
            return error
    return group.exceptions[0]
