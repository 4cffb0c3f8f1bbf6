"""The fast twin of `spec.evidence.gather`: the same sums over millions of rows, by DuckDB.

`gather` is the law and this must equal it in every bit: sums are exact (128 bits), and DuckDB's
discrete quantile at one half is the lower median. Rolls and verdicts are few; the law sums them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.client.errors import Difference
from penstock.spec.entries import BUCKET_MAX, Row
from penstock.spec.evidence import Evidence, Median, Served, Work, sum_rolls
from penstock.spec.messages import Roll

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
}

WORKS = """
    SELECT miner, chute, bucket, count(*), sum(work_units),
           quantile_disc(ns_per_unit, 0.5) FILTER (WHERE ns_per_unit > 0)
    FROM work_rows WHERE work_units > 0 GROUP BY miner, chute, bucket
"""
MEDIANS = """
    SELECT chute, quantile_disc(ns_per_unit, 0.5)
    FROM work_rows WHERE work_units > 0 AND ns_per_unit > 0 GROUP BY chute
"""
SERVED = """
    SELECT miner, count(*), sum(success) FROM work_rows WHERE counts > 0 GROUP BY miner
"""


@dataclass(slots=True)
class Columns:
    """Rows on their way into a table; what scoring does not read is left behind."""

    miner: list[str] = field(default_factory=list)
    chute: list[str] = field(default_factory=list)
    bucket: list[int] = field(default_factory=list)
    work_units: list[int] = field(default_factory=list)
    ns_per_unit: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    success: list[int] = field(default_factory=list)

    def add(self, row: Row, where: str) -> None:
        """Raises Difference for numbers that no honest row has."""
        bits = {0, 1}
        wellformed = (
            row.counts in bits
            and row.success in bits
            and 0 <= row.bucket <= BUCKET_MAX
            and row.work_units >= 0
            and row.ns_per_unit >= 0
        )
        if not wellformed:
            raise Difference(where, "a row out of range", "counts, bits and buckets")
        self.miner.append(row.miner)
        self.chute.append(row.chute)
        self.bucket.append(row.bucket)
        self.work_units.append(row.work_units)
        self.ns_per_unit.append(row.ns_per_unit)
        self.counts.append(row.counts)
        self.success.append(row.success)

    def table(self) -> Any:
        """An Arrow table of about 30 bytes a row."""
        import pyarrow as pa

        return pa.table(
            {
                "miner": pa.array(self.miner, pa.string()).dictionary_encode(),
                "chute": pa.array(self.chute, pa.string()).dictionary_encode(),
                "bucket": pa.array(self.bucket, pa.int8()),
                "work_units": pa.array(self.work_units, pa.int64()),
                "ns_per_unit": pa.array(self.ns_per_unit, pa.int64()),
                "counts": pa.array(self.counts, pa.int8()),
                "success": pa.array(self.success, pa.int8()),
            }
        )


def gather_tables(
    tables: Sequence[Any], rolls: Iterable[Roll], *, failed: Iterable[str]
) -> Evidence:
    """Evidence of a window from the tables of its epochs, equal to the law's."""
    import duckdb
    import pyarrow as pa

    rows = pa.concat_tables(tables).unify_dictionaries()
    with duckdb.connect(":memory:", config=CONFIG) as session:
        session.register("work_rows", rows)
        works = session.execute(WORKS).fetchall()
        medians = session.execute(MEDIANS).fetchall()
        served = session.execute(SERVED).fetchall()
    presences, bounties = sum_rolls(rolls)
    return Evidence(
        works=tuple(
            Work(miner, chute, bucket, requests, int(units), median or 0)
            for miner, chute, bucket, requests, units, median in sorted(
                works, key=lambda work: work[:3]
            )
        ),
        medians=tuple(Median(chute, ns_per_unit) for chute, ns_per_unit in sorted(medians)),
        served=tuple(
            Served(miner, attempts, int(successes)) for miner, attempts, successes in sorted(served)
        ),
        presences=presences,
        bounties=bounties,
        failed=tuple(sorted(set(failed))),
    )
