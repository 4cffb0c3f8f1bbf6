"""What files and batches need of their gateway, and what all batches that run here share."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.gateway.admit import Admission
from penstock.gateway.batches_record import Records
from penstock.gateway.batches_spare import Spare
from penstock.gateway.config import BatchBounds, Bounds, Deadlines, StoreBounds
from penstock.gateway.demand import Demand
from penstock.gateway.directory import Directory
from penstock.gateway.files import Files
from penstock.gateway.inside import Terms
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Entropy
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response


class Host(Protocol):
    """A gateway, from its back room; `service.Gateway` is one."""

    name: str
    clock: Clock
    http: HttpClient
    ledger_url: str
    aliases: Mapping[str, str]
    deadlines: Deadlines
    bounds: Bounds
    store_bounds: StoreBounds
    batch_bounds: BatchBounds
    metrics: Metrics
    admission: Admission
    directory: Directory
    demand: Demand

    @property
    def entropy(self) -> Entropy:
        """Chance, for ids."""
        ...

    async def answer(self, request: Request, *, terms: Terms | None = None) -> Response:
        """The whole answer to a request from inside."""
        ...


@dataclass(slots=True)
class Desk:
    """`name` is the holder that this gateway signs as."""

    gateway: Host
    name: str
    records: Records
    files: Files
    spare: Spare
    slots: asyncio.Semaphore
