"""Where a worker stands among the processes of its gateway, and what it does because of it."""

import asyncio
from dataclasses import dataclass

from penstock.gateway.directory import Directory
from penstock.gateway.keeper import LOOPBACK, METRICS_HEADERS, METRICS_PATH, exported
from penstock.gateway.service import Gateway
from penstock.kit.wire.http import Request, Response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

GATHER_MS = 2_000
KNOWN_DEADLINE_MS = 3_000
KNOWN_STEP_MS = 100
EMPTY_MS = 500
WARM_EMPTY_MS = 3_000
"""So long may a board be silent before the market counts as empty; at the very first start it is."""


@dataclass(frozen=True, slots=True)
class Post:
    """A worker's number, the socket it inherits, and the keeper's port. `is_warm`: it takes the place
    of one that knew the market, so it must know it too before it serves.
    """

    number: int = 0
    fd: int = -1
    keeper_port: int = 0
    is_warm: bool = False


ALONE = Post()
"""A gateway of one process has no keeper."""


async def know_market(directory: Directory, post: Post) -> None:
    """Wait until the board has told what there is: then it says nothing for a while. Who serves before
    says of models that are there that they are not, and no client asks again after that. Those that
    must dial us have done so too.
    """
    empty_ms = WARM_EMPTY_MS if post.is_warm else EMPTY_MS
    known = (0, 0)
    for waited_ms in range(0, KNOWN_DEADLINE_MS, KNOWN_STEP_MS):
        now = (len(directory.names()), directory.instances_count)
        is_told = all(now) and not directory.reachable.missing
        if now == known and (is_told or waited_ms >= empty_ms):
            return
        known = now
        await asyncio.sleep(KNOWN_STEP_MS / 1000)


async def show_inside(gateway: Gateway, post: Post) -> Server | None:
    """A worker's own metrics on a port of this machine, for the keeper; and the keeper's sum for who
    asks at the common port, where the kernel chooses who answers.
    """
    if not post.number:
        return None

    async def own(_: Request) -> Response:
        return Response(200, gateway.metrics.render(), METRICS_HEADERS)

    async def gather() -> bytes:
        return await exported(gateway.http, post.keeper_port, deadline_ms=GATHER_MS)

    gateway.gather = gather
    routes = Routes()
    routes.add("GET", METRICS_PATH, own)
    server = Server(Sockets(), routes, entropy=gateway.entropy)
    await server.start(LOOPBACK, 0)
    return server
