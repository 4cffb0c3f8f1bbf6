"""How fast the ledger takes records in: real PostgreSQL, real NATS, real ed25519.

Records are signed word by word (four checks each), or sealed: order, receipt and countersignature of
64 orders at a time under one signature each, as gateways and miners do it within a session.

| target | what runs |
|---|---|
| judge | parsing and judging alone, with the signature checks and without them |
| judge, sealed | the same of sealed records; also as if none shared its root with another |
| memory, batch N | judged, posted and logged in the simulator's store |
| postgres, batch N | the same in PostgreSQL, one transaction a batch; also of sealed records |
| bus | the consumer's own loop: from NATS JetStream to the committed batch and its acknowledgement |

CPU is from /proc, per process: the ledger is this one.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from bench.cpu import cpu_ms
from bench.figures import Figure
from tests.makers import make_checkpoint, make_countersign, make_order, make_receipt, seal
from tests.servers import RunningServer, free_port
from tests.stations.ledger.makers_ledger import PARAMS, World, charter, order_id

from penstock.adapters.embedded_nats import NatsServer
from penstock.adapters.embedded_postgres import PostgresServer
from penstock.adapters.nats import NatsBus
from penstock.adapters.postgres import Database, read_schema
from penstock.kit.keys import Ed25519Key, verify, verify_single
from penstock.kit.ports import Bus, Verify
from penstock.ledger.intake import Rules, read_event
from penstock.ledger.ports import Store
from penstock.ledger.store import PostgresStore
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import sign, signed_digest
from penstock.spec.messages import Charter
from penstock.spec.receipts import Record
from penstock.spec.seals import SEAL_LEAVES_MAX, sealed_verify

GATEWAY = Ed25519Key(b"\1" * 32)
MINERS = [Ed25519Key(bytes([number]) * 32) for number in range(2, 34)]
CREDIT_NANO = 900_000 * 10**9
SUBJECT = "events.record.gw"
BATCHES = ((1, 200), (16, 1_000), (128, 3_000))
"""Batch sizes, and how many records each is measured with."""
BUS_RECORDS = 2_000
QUICK_SHARE = 20
POSTED_DEADLINE_S = 120
PUBLISHERS = 50


def measure(*, quick: bool) -> list[Figure]:
    """All rows."""
    return asyncio.run(_measure(QUICK_SHARE if quick else 1))


async def _measure(share: int) -> list[Figure]:
    made = Made()
    sealed = Made(first=1_000_000, is_sealed=True)
    figures = judging(made.take(2_000 // share))
    figures += judging_sealed(sealed.take(2_048 // share))
    world, lease_id = await _world(MemoryLedgerStore())
    for size, count in BATCHES:
        events = made.take(max(size, count // share), lease_id)
        figures += await batches(world, events, target="memory", size=size, postgres=0)
    async with _servers() as (postgres, nats), Database(postgres.url) as database:
        await database.migrate("penstock.ledger", read_schema("penstock.ledger.schema"))
        async with NatsBus(nats.url, name="bench-ledger") as bus:
            world, lease_id = await _world(PostgresStore(database), bus)
            for size, count in BATCHES:
                events = made.take(max(size, count // share), lease_id)
                figures += await batches(
                    world, events, target="postgres", size=size, postgres=postgres.pid
                )
            size, count = BATCHES[-1]
            events = sealed.take(max(size, count // share), lease_id)
            figures += await batches(
                world, events, target="postgres, sealed", size=size, postgres=postgres.pid
            )
            events = made.take(BUS_RECORDS // share, lease_id)
            figures += await over_the_bus(world, events, bus, postgres=postgres.pid, nats=nats.pid)
    return figures


class Made:
    """Records of one order each: streamed with a checkpoint and four signatures, or sealed."""

    def __init__(self, *, first: int = 0, is_sealed: bool = False) -> None:
        self._next = first
        self._is_sealed = is_sealed

    def take(self, count: int, lease_id: str = "l-" + "0" * 32) -> list[bytes]:
        """So many more, as the gateway puts them on the bus."""
        first, self._next = self._next, self._next + count
        numbers = range(first, self._next)
        if not self._is_sealed:
            return [event(single(one, MINERS[one % len(MINERS)]), lease_id) for one in numbers]
        records: list[Record] = []
        for start in range(0, count, SEAL_LEAVES_MAX):
            miner = MINERS[start % len(MINERS)]
            batch = [single(one, miner) for one in numbers[start : start + SEAL_LEAVES_MAX]]
            records += under_seals(batch, miner)
        return [event(one, lease_id) for one in records]


def under_seals(records: list[Record], miner: Ed25519Key) -> list[Record]:
    """The same records without checkpoints, their words under three seals."""
    orders = seal(GATEWAY, *(one.order for one in records))
    receipts = seal(miner, *(one.receipt for one in records if one.receipt))
    seen = seal(GATEWAY, *(one.countersign for one in records if one.countersign))
    return [Record(*words) for words in zip(orders, receipts, repeat(None), seen, strict=False)]


def event(record: Record, lease_id: str) -> bytes:
    """A record as the gateway puts it on the bus."""
    body = {"record": to_plain(record), "account": "ann", "lease_id": lease_id}
    return json.dumps(body).encode()


def single(number: int, miner: Ed25519Key) -> Record:
    """The record of one order, each word signed by itself."""
    order = make_order(order_id=order_id(number), gateway=GATEWAY.identity, miner=miner.identity)
    signed_order = sign("order", order, GATEWAY)
    digest = signed_digest(signed_order)
    receipt = sign("receipt", make_receipt(order, order_digest=digest), miner)
    seen = replace(make_countersign(order, receipt), order_digest=digest)
    return Record(
        order=signed_order,
        receipt=receipt,
        checkpoint=sign("checkpoint", make_checkpoint(order), miner),
        countersign=sign("countersign", seen, GATEWAY),
    )


def judging(events: list[bytes]) -> list[Figure]:
    """Parsing and judging, with and without the cryptography."""
    rows = []
    for target, check in (("judge", verify), ("judge, signatures believed", _believe)):
        spent = _judge_us(events, check)
        rows.append(Figure(target, "ledger CPU", "us/record", spent))
        rows.append(Figure(target, "records", "1/s", 1_000_000 / spent))
    rows.append(Figure("judge", "event size", "bytes", len(events[0])))
    return rows


def judging_sealed(events: list[bytes]) -> list[Figure]:
    """Sealed records: as they come, and as if each were the only one known of its batch."""
    rows = []
    alone = sealed_verify(verify_single)
    for target, check in (("judge, sealed", verify), ("judge, sealed, each alone", alone)):
        spent = _judge_us(events, check)
        rows.append(Figure(target, "ledger CPU", "us/record", spent))
        rows.append(Figure(target, "records", "1/s", 1_000_000 / spent))
    rows.append(Figure("judge, sealed", "event size", "bytes", len(events[0])))
    return rows


def _judge_us(events: list[bytes], check: Verify) -> float:
    """CPU microseconds of this process per record."""
    said = from_plain(Charter, charter(gateways=(GATEWAY.identity,)).body)
    rules = Rules(charter=said, params=PARAMS, verify=check)
    before = time.process_time()
    for data in events:
        read_event(SUBJECT, data, rules)
    return (time.process_time() - before) * 1_000_000 / len(events)


def _believe(identity: str, digest: bytes, signature: str) -> bool:
    return bool(identity and digest and signature)


async def batches(
    world: World, events: list[bytes], *, target: str, size: int, postgres: int
) -> list[Figure]:
    """Take the events in, so many at a time, in batches as large as asked for."""
    deliveries = [world.delivery(SUBJECT, data) for data in events]
    posted = world.fate("posted")
    meter = Meter(len(events), {"postgres": postgres})
    for start in range(0, len(events), size):
        await world.ledger.consumer.take(deliveries[start : start + size])
    figures = meter.figures(f"{target}, batch {size}")
    assert world.fate("posted") - posted == len(events), "every record is paid by its lease"
    return figures


async def over_the_bus(
    world: World, events: list[bytes], bus: Bus, *, postgres: int, nats: int
) -> list[Figure]:
    """Publish all, then let the ledger's own loop take them in until all are posted."""
    posted = world.fate("posted") + len(events)
    queue = list(enumerate(events))

    async def publish() -> None:
        while queue:
            number, data = queue.pop()
            await bus.publish(SUBJECT, data, event_id=f"bench-{number}")

    meter = Meter(len(events), {"nats": nats})
    async with asyncio.TaskGroup() as group:
        for _ in range(PUBLISHERS):
            group.create_task(publish())
    figures = meter.figures("bus, publishing")
    meter = Meter(len(events), {"postgres": postgres, "nats": nats})
    taking = asyncio.create_task(world.ledger.consumer.run())
    async with asyncio.timeout(POSTED_DEADLINE_S):
        while world.fate("posted") < posted:  # noqa: ASYNC110 - the ledger has no such event
            await asyncio.sleep(0.005)
    figures += meter.figures("bus, taking in")
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    return figures


class Meter:
    """Wall time and CPU from its making on. A process id of 0 is a process that is not there."""

    def __init__(self, count: int, pids: dict[str, int]) -> None:
        self._count = count
        self._pids = {"ledger": os.getpid()} | {name: pid for name, pid in pids.items() if pid}
        self._before = {name: self._cpu_ms(name) for name in self._pids}
        self._started = time.perf_counter()

    def figures(self, target: str) -> list[Figure]:
        """Rates since then."""
        wall_s = time.perf_counter() - self._started
        used = {name: self._cpu_ms(name) - self._before[name] for name in self._pids}
        spent = [
            Figure(target, f"{name} CPU", "us/record", ms * 1000 / self._count)
            for name, ms in used.items()
        ]
        return [Figure(target, "records", "1/s", self._count / wall_s), *spent]

    def _cpu_ms(self, name: str) -> float:
        return cpu_ms(self._pids[name], with_children=name == "postgres")


async def _world(store: Store, bus: Bus | None = None) -> tuple[World, str]:
    """A ledger with a rich account and a lease on it."""
    world = World(store=store, charter=charter(gateways=(GATEWAY.identity,)))
    if bus is not None:
        world.bus = bus  # type: ignore[assignment]  # the field is narrower than the port it needs
    await world.start()
    await world.fund(CREDIT_NANO)
    lease = await world.lease(CREDIT_NANO // 2, gateway=GATEWAY.identity)
    world.ledger.verify = verify  # the opening was signed by a toy key; records are by real ones
    return world, str(lease["lease_id"])


@asynccontextmanager
async def _servers() -> AsyncIterator[tuple[RunningServer, RunningServer]]:
    """A PostgreSQL and a NATS of our own in a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        servers = [
            RunningServer(PostgresServer(folder / "postgres", free_port())),
            RunningServer(NatsServer(folder / "nats", free_port())),
        ]
        running: list[RunningServer] = []
        try:
            for server in servers:
                await server.start()
                running.append(server)
            yield servers[0], servers[1]
        finally:
            for server in running:
                await server.stop()
