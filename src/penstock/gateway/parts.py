"""What a request on its way needs of its gateway: the parts that all requests share."""

from typing import Protocol

from penstock.gateway.admit import Admission
from penstock.gateway.attempts import Line
from penstock.gateway.closing import Closing
from penstock.gateway.config import Bounds, Deadlines
from penstock.gateway.demand import Demand
from penstock.gateway.hedging import Hedges
from penstock.gateway.leases import Leases
from penstock.gateway.orders import Orders
from penstock.gateway.plan import Planner
from penstock.gateway.records import Recorder
from penstock.gateway.sealer import Sealer
from penstock.gateway.sessions import Sessions
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock
from penstock.kit.tasks import Errands
from penstock.kit.telemetry import Tracer


class Swept(Protocol):
    """Something with deadlines."""

    def sweep(self, now_us: int) -> None:
        """Look at them; four times a second."""
        ...


class Parts(Protocol):
    """A gateway, from inside; `service.Gateway` is one."""

    clock: Clock
    deadlines: Deadlines
    bounds: Bounds
    metrics: Metrics
    tracer: Tracer | None
    passages: dict[Swept, None]
    admission: Admission
    leases: Leases
    planner: Planner
    orders: Orders
    sessions: Sessions
    recorder: Recorder
    sealer: Sealer
    demand: Demand
    closing: Closing
    hedges: Hedges
    line: Line
    errands: Errands
