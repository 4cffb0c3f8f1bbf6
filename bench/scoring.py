"""Scoring a window of many receipts: Parquet columns to evidence (DuckDB) to scores, one thread.

`law` is the same evidence by the slow, obvious rule, on as many rows as it does in a few seconds.
`check` is what a validator does first, once per entry: hash the leaf into the log, parse it, and
compare its columns. The rows are drawn from a seed; both ways must give the same evidence.
"""

import asyncio
import io
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench.figures import Figure
from tests.client.memory_log import DictSource
from tests.client.published_log import EPOCHS, PublishedLog, add_traffic, auditor, presence
from tests.makers import ToyKey

from penstock.client.published import read_segment_file
from penstock.client.segments import SegmentReading
from penstock.kit.keys import verify_raw
from penstock.spec.entries import Row
from penstock.spec.evidence import evidence_digest, gather
from penstock.spec.messages import Roll
from penstock.spec.params import MAINNET
from penstock.spec.scoring import score
from penstock.validator.evidence import gather_tables

MILLION = 1_000_000
SIZES, SIZES_QUICK = (MILLION, 10 * MILLION), (100_000,)
LAW_ROWS, LAW_ROWS_QUICK = 300_000, 20_000
CHECKED_ROUNDS, CHECKED_ROUNDS_QUICK = 120, 10
EPOCHS_OF_WINDOW = 168
MINERS, CHUTES, CHUTES_OF_A_MINER = 300, 60, 8
COLUMNS = ("miner", "chute", "bucket", "work_units", "ns_per_unit", "counts", "success")
KEYS = [ToyKey(f"miner-{number}") for number in range(MINERS)]


def measure(*, quick: bool) -> list[Figure]:
    """CPU seconds and rows a CPU second of each way, and the memory at its highest."""
    figures = []
    for rows in SIZES_QUICK if quick else SIZES:
        figures += _window(rows)
    figures += _law(LAW_ROWS_QUICK if quick else LAW_ROWS)
    figures += _check(CHECKED_ROUNDS_QUICK if quick else CHECKED_ROUNDS)
    return figures


def _window(rows: int) -> list[Figure]:
    files = [_parquet(rows // EPOCHS_OF_WINDOW, seed) for seed in range(EPOCHS_OF_WINDOW)]
    count = rows // EPOCHS_OF_WINDOW * EPOCHS_OF_WINDOW
    target = f"window of {rows // 1000} k receipts"
    tables, read_s = _timed(lambda: [_read(data) for data in files])
    evidence, gather_s = _timed(lambda: gather_tables(tables, _rolls(), failed=[]))
    _, score_s = _timed(lambda: (score(evidence, MAINNET), evidence_digest(evidence)))
    held_mib = sum(table.nbytes for table in tables) / (1 << 20)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole_s = read_s + gather_s + score_s
    return [
        Figure(target, "read", "CPU s", read_s),
        Figure(target, "gather", "CPU s", gather_s),
        Figure(target, "score", "CPU s", score_s),
        Figure(target, "whole", "CPU s", whole_s),
        Figure(target, "rate", "receipts/CPU s", count / whole_s),
        Figure(target, "held", "MiB", held_mib),
        Figure(target, "peak", "MiB", peak_mib),
    ]


def _law(rows: int) -> list[Figure]:
    table = _read(_parquet(rows, 0))
    listed = [
        _row(values) for values in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
    ]
    law, law_s = _timed(lambda: gather(listed, _rolls(), failed=[]))
    twin, twin_s = _timed(lambda: gather_tables([table], _rolls(), failed=[]))
    assert twin == law, "the twin must equal the law"
    target = f"the law, {rows // 1000} k receipts"
    return [
        Figure(target, "gather", "CPU s", law_s),
        Figure(target, "rate", "receipts/CPU s", rows / law_s),
        Figure(target, "twin is faster by", "times", law_s / twin_s),
    ]


def _check(rounds: int) -> list[Figure]:
    """One published segment, read as a validator reads it."""
    file = asyncio.run(_segment_file(rounds))
    leaves, check_s = _timed(lambda: sum(len(batch) for batch in SegmentReading(file)))
    target = f"check of a segment of {leaves} entries"
    return [
        Figure(target, "read", "CPU s", check_s),
        Figure(target, "rate", "receipts/CPU s", leaves / check_s),
    ]


async def _segment_file(rounds: int) -> Any:
    log = PublishedLog()
    log.add_charter()
    for number in range(rounds):
        add_traffic(log, tag=f"{number}-")
    await log.close()
    source = DictSource(log.published)
    operator, _ = await auditor(source).operator()
    return await read_segment_file(source, EPOCHS[0], operator=operator, verify_raw=verify_raw)


def _parquet(rows: int, seed: int) -> bytes:
    """An epoch's columns as a ledger publishes them: a few large miners, many small ones."""
    rng = np.random.default_rng(seed)
    miners = np.minimum(rng.zipf(1.3, rows) - 1, MINERS - 1)
    chutes = (miners * 7 + rng.integers(0, CHUTES_OF_A_MINER, rows)) % CHUTES
    is_success = rng.random(rows) < 0.97
    units = np.where(is_success, rng.integers(1, 1 << 14, rows), 0)
    buckets = np.where(units > 0, np.floor(np.log2(np.maximum(units, 1))) + 1, 0)
    names = pa.array([key.identity for key in KEYS])
    ids = pa.array([f"sha256:{number:064x}" for number in range(CHUTES)])
    table = pa.table(
        {
            "miner": names.take(pa.array(miners)),
            "chute": ids.take(pa.array(chutes)),
            "bucket": pa.array(buckets.astype(np.int64)),
            "work_units": pa.array(units),
            "ns_per_unit": pa.array(np.where(is_success, rng.integers(1, 1 << 24, rows), 0)),
            "counts": pa.array(np.ones(rows, np.int64)),
            "success": pa.array(is_success.astype(np.int64)),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _read(data: bytes) -> pa.Table:
    """The columns in the form that a validator holds."""
    table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(COLUMNS), use_threads=False)
    small = {"bucket": pa.int8(), "counts": pa.int8(), "success": pa.int8()}
    columns = {
        name: table[name].cast(small[name])
        if name in small
        else table[name].dictionary_encode()
        if name in {"miner", "chute"}
        else table[name]
        for name in COLUMNS
    }
    return pa.table(columns)


def _row(values: tuple[Any, ...]) -> Row:
    said: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
    unread: dict[str, Any] = {
        "order_id": "",
        "instance": "",
        "outcome": "",
        "prompt": 0,
        "cached": 0,
    }
    unread |= {"completion": 0, "charge_nano": 0, "earned_nano": 0, "ttft_us": 0, "total_us": 0}
    return Row(**unread, **said)


def _rolls() -> list[Roll]:
    beats = tuple(presence(key, f"sha256:{0:064x}") for key in KEYS)
    return [Roll(epoch, beats, ()) for epoch in range(2)]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """CPU seconds, all threads: everything here runs on one, and others may be busy beside it."""
    began = time.process_time()
    done = work()
    return done, time.process_time() - began
