"""How many receipts a second the ledger takes in: real Postgres, four ed25519 checks a record.

    python bench/ledger_intake.py [--records 4000] [--profile]

One process and one core for the ledger (PostgreSQL has its own). Prints receipts/s of the whole way
from bus bytes to the committed batch, and what the judging alone takes.
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.makers import make_checkpoint, make_countersign, make_order, make_receipt
from tests.servers import free_port
from tests.stations.ledger.makers_ledger import World, charter, order_id

from penstock.adapters.child_process import ChildProcess
from penstock.adapters.embedded_postgres import PostgresServer
from penstock.adapters.postgres import Database, read_schema
from penstock.kit.keys import Ed25519Key, verify
from penstock.ledger.consumer import BATCH_MAX
from penstock.ledger.intake import read_event
from penstock.ledger.store import PostgresStore
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign, signed_digest
from penstock.spec.receipts import Record

GATEWAY, MINERS = Ed25519Key(b"\1" * 32), [Ed25519Key(bytes([n]) * 32) for n in range(2, 34)]


def event(number: int, lease_id: str) -> bytes:
    """A streamed record with a checkpoint: four signatures."""
    miner = MINERS[number % len(MINERS)]
    order = make_order(order_id=order_id(number), gateway=GATEWAY.identity, miner=miner.identity)
    signed_order = sign("order", order, GATEWAY)
    digest = signed_digest(signed_order)
    receipt = sign("receipt", make_receipt(order, order_digest=digest), miner)
    seen = replace(make_countersign(order, receipt), order_digest=digest)
    record = Record(
        order=signed_order,
        receipt=receipt,
        checkpoint=sign("checkpoint", make_checkpoint(order), miner),
        countersign=sign("countersign", seen, GATEWAY),
    )
    body = {"record": to_plain(record), "account": "ann", "lease_id": lease_id}
    return json.dumps(body).encode()


async def measure(database: Database, *, records: int, profile: bool) -> None:
    world = World(store=PostgresStore(database), charter=charter(gateways=(GATEWAY.identity,)))
    await world.start()
    await world.fund(900_000 * 10**9)
    lease = await world.lease(800_000 * 10**9, gateway=GATEWAY.identity)
    made = [event(number, lease["lease_id"]) for number in range(records)]
    world.ledger.verify = verify
    deliveries = [world.delivery("events.record.gw", data) for data in made]
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    started, busy = time.perf_counter(), time.process_time()
    for start in range(0, records, BATCH_MAX):
        await world.ledger.consumer.take(deliveries[start : start + BATCH_MAX])
    wall, cpu = time.perf_counter() - started, time.process_time() - busy
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    assert world.fate("posted") == records, "every record is paid by its lease"
    rules = world.ledger.rules()
    started = time.perf_counter()
    for data in made[:1000]:
        read_event("events.record.gw", data, rules)
    judging = (time.perf_counter() - started) / min(records, 1000)
    print(f"{records / wall:8.0f} receipts/s of wall time")
    print(f"{records / cpu:8.0f} receipts/s of this process's CPU")
    print(f"{judging * 1e6:8.0f} us to parse and judge one (four ed25519 checks)")
    print(f"{len(made[0]):8d} bytes an event")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--profile", action="store_true")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        server = PostgresServer(Path(home), free_port())
        await server.prepare()
        child = await ChildProcess.start(server.command)
        try:
            await server.wait_ready(deadline_ms=60_000)
            async with Database(server.url) as database:
                schema = read_schema("penstock.ledger.schema")
                await database.migrate("penstock.ledger", schema)
                await measure(database, records=wish.records, profile=wish.profile)
        finally:
            await child.terminate(deadline_ms=20_000)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    asyncio.run(main())
