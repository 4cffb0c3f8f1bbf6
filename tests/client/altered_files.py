"""Published files with one place changed, and everything around it made to fit."""

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.client.memory_log import DictSource
from tests.client.published_log import LAST, Alterations, auditor, make_log

from penstock.client.errors import Difference
from penstock.spec.canon import canonical, parse


def edited(
    files: dict[str, bytes], name: str, change: Callable[[dict[str, Any]], None]
) -> dict[str, bytes]:
    """The same files with one JSON file changed, spelled canonically again."""
    value = parse(files[name])
    change(value)
    return {**files, name: canonical(value)}


def with_segment(files: dict[str, bytes], epoch: int, data: bytes) -> dict[str, bytes]:
    """The same files with another segment, its digest made to fit."""
    folder = f"epochs/{epoch:08d}"
    digest = hashlib.sha256(data).hexdigest()
    changed = {**files, f"{folder}/segment.parquet": data}
    return edited(
        changed, f"{folder}/epoch.json", lambda about: about.update(segment_sha256=digest)
    )


def with_table(
    files: dict[str, bytes], epoch: int, change: Callable[[pa.Table], pa.Table]
) -> dict[str, bytes]:
    """The same files with an epoch's table changed, its digest and count made to fit."""
    table = change(pq.read_table(pa.BufferReader(files[f"epochs/{epoch:08d}/segment.parquet"])))
    sink = io.BytesIO()
    pq.write_table(table, sink, store_schema=False)
    return with_segment(files, epoch, sink.getvalue())


def with_column(
    files: dict[str, bytes], epoch: int, name: str, change: Callable[[list[Any]], None]
) -> dict[str, bytes]:
    """The same files with the values of one column changed in place."""

    def alter(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        change(values)
        column = pa.array(values, type=table.schema.field(name).type)
        place = table.column_names.index(name)
        return table.set_column(place, table.schema.field(name), column)

    return with_table(files, epoch, alter)


async def difference(files: dict[str, bytes]) -> Difference:
    """What an audit says of these files."""
    with pytest.raises(Difference) as caught:
        await auditor(DictSource(files)).audit(LAST)
    return caught.value


async def difference_in(alter: Alterations) -> Difference:
    return await difference((await make_log(alter)).published)
