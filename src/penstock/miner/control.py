"""The agent's control surface: JSON over HTTP on a Unix socket that only its own user can open.

| question | answer |
|---|---|
| `GET /v1/status`, `GET /v1/frame` | how it is; all of it (frames.py) |
| `GET /v1/earnings?hours=N` | sums and chutes, by own receipts |
| `POST /v1/drain` | withdraw, finish what runs, then end the agent |
| `GET`, `POST`, `DELETE /v1/maintenance` | the planned absence |

It lies beside the miner's port, never on it: gateways cannot reach it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.kit.log import events
from penstock.kit.ports import DiskFull, Entropy, Network
from penstock.kit.tasks import Scope, crash_recorder
from penstock.kit.wire.http import Request, Response, Stream, json_response
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.problem import Refusal, problem
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.miner.frames import LOOK_MS, WEEK_HOURS, Watch, sum_seen
from penstock.miner.maintenance import Maintenance, MaintenanceRefused, Window
from penstock.miner.payouts import Payouts

SOCKET_FILE = "agent.sock"
LIMITS = ServerLimits(
    intake=IntakeLimits(body_bytes_max=65_536),
    connections_max=32,
    bodies_bytes_max=1 << 20,
    idle_deadline_ms=30_000,
)
SAVE_EVERY_MS = 60_000
REST_MS = 10_000
"""Between two looks while nobody asks for frames."""
CLOSE_MS = 1_000
HOURS_MAX = 31 * 24

_log = events("control")


class PlanBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/maintenance`. Times are Unix ms of the market; `after_ms` counts from now."""

    length_ms: int
    at_ms: int | None = None
    after_ms: int = 0


@dataclass(slots=True)
class Control:
    """Serves commands, and keeps the watch's looks coming. `stop` ends the agent when it is set."""

    watch: Watch
    maintenance: Maintenance
    payouts: Payouts
    stop: asyncio.Event
    network: Network
    entropy: Entropy
    server: Server = field(init=False)
    _is_disk_full: bool = False
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody asked for a frame."""

    def __post_init__(self) -> None:
        self.server = Server(self.network, build_routes(self), entropy=self.entropy, limits=LIMITS)

    async def run(self) -> None:
        """Serve until cancelled. Raises PortTaken when another agent has this home, OSError."""
        self.watch.earnings.open()
        await self.server.start(SOCKET_FILE, 0)
        try:
            async with Scope() as scope:
                report = crash_recorder(self.watch.miner.metrics)
                scope.supervise("looks", self._look, on_event=report)
                scope.supervise("payouts", self.payouts.run, on_event=report)
        finally:
            self.watch.recount()
            self._save()
            await self.server.close(CLOSE_MS)

    async def _look(self) -> None:
        """Every LOOK_MS while somebody watches, else rarely: drivers are slow to ask."""
        saved_s = asyncio.get_running_loop().time()
        while True:
            self.watched.clear()
            self.watch.look(await self.watch.read())
            now_s = asyncio.get_running_loop().time()
            if (now_s - saved_s) * 1000 >= SAVE_EVERY_MS:
                saved_s = now_s
                self._save()
            await asyncio.sleep(LOOK_MS / 1000)
            try:
                async with asyncio.timeout((REST_MS - LOOK_MS) / 1000):
                    await self.watched.wait()
            except TimeoutError:
                pass  # Nobody watches.

    def _save(self) -> None:
        try:
            self.watch.earnings.save()
        except DiskFull:
            if not self._is_disk_full:
                _log.error(
                    "earnings.disk_full", remedy="free space on the disk of the miner's home"
                )
            self._is_disk_full = True
        else:
            self._is_disk_full = False


def build_routes(control: Control) -> Routes:
    """Every question that a command may ask."""
    routes = Routes()
    for method, path, handler in (
        ("GET", "/v1/status", _status),
        ("GET", "/v1/frame", _frame),
        ("GET", "/v1/earnings", _earnings),
        ("POST", "/v1/drain", _drain),
        ("GET", "/v1/maintenance", _maintenance),
        ("POST", "/v1/maintenance", _plan),
        ("DELETE", "/v1/maintenance", _cancel),
    ):
        routes.add(method, path, _bound(handler, control))
    return routes


Page = Callable[[Control, Request], Response]


def _bound(page: Page, control: Control) -> Callable[[Request], Awaitable[Response | Stream]]:
    async def answer(request: Request) -> Response | Stream:
        return page(control, request)

    return answer


def _status(control: Control, _: Request) -> Response:
    health = control.watch.miner.health()
    frame = control.watch.frame()
    kept = ("pid", "name", "owner", "market_url", "endpoint", "maintenance", "problems")
    return json_response(200, health | {key: frame[key] for key in kept})


def _frame(control: Control, _: Request) -> Response:
    control.watched.set()
    return json_response(200, control.watch.frame())


def _earnings(control: Control, request: Request) -> Response:
    text = request.query_value("hours") or str(WEEK_HOURS)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= HOURS_MAX):
        raise _refused(
            request, 400, code="bad_hours", message=f"hours is a number from 1 to {HOURS_MAX}"
        )
    control.watch.recount()
    now_ms = control.watch.miner.parts.time.now_ms()
    earnings, hours = control.watch.earnings, int(text)
    chutes = earnings.by_chute(hours, now_ms=now_ms)
    return json_response(
        200,
        {
            "hours": hours,
            "sum": sum_seen(earnings.sum(hours, now_ms=now_ms)),
            "chutes": [
                {"name": name, "orders": orders, "gross_nano": gross}
                for name, (orders, gross) in chutes.items()
            ],
            "waiting_claims": len(control.watch.miner.parts.outbox),
            "settled_epoch": earnings.settled,
        },
    )


def _drain(control: Control, _: Request) -> Response:
    running = len(control.watch.miner.parts.front.jobs)
    control.stop.set()
    _log.info("agent.drain_asked", running=running)
    return json_response(202, {"draining": True, "running": running})


def _maintenance(control: Control, _: Request) -> Response:
    return json_response(200, {"maintenance": control.watch.frame()["maintenance"]})


def _plan(control: Control, request: Request) -> Response:
    try:
        body = msgspec.json.decode(request.body, type=PlanBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(request, 400, code="bad_plan", message=str(error)[:200]) from error
    now_ms = control.watch.miner.parts.time.now_ms()
    from_ms = now_ms + body.after_ms if body.at_ms is None else body.at_ms
    window = Window(from_ms, from_ms + body.length_ms)
    return _planned(control, request, window)


def _cancel(control: Control, request: Request) -> Response:
    return _planned(control, request, None)


def _planned(control: Control, request: Request, window: Window | None) -> Response:
    now_ms = control.watch.miner.parts.time.now_ms()
    try:
        control.maintenance.plan(window, now_ms=now_ms)
    except MaintenanceRefused as error:
        raise _refused(request, 400, code="bad_plan", message=error.reason) from error
    except DiskFull as error:
        raise _refused(
            request, 507, code="disk_full", message="the disk of the miner's home is full"
        ) from error
    _log.info(
        "maintenance.planned",
        from_ms=0 if window is None else window.from_ms,
        until_ms=0 if window is None else window.until_ms,
    )
    return _maintenance(control, request)


def _refused(request: Request, status: int, *, code: str, message: str) -> Any:
    return Refusal(problem(status, code, message, request_id=request.request_id))
