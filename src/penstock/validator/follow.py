"""Following the log: each epoch is read once, checked whole, sampled, and kept in its short form."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.client.audit import check_row
from penstock.client.errors import Difference, NotPublished
from penstock.client.published import (
    Operator,
    Source,
    read_operator,
    read_outcome,
    read_segment_file,
)
from penstock.client.segments import Leaf, SegmentFile, SegmentReading, same
from penstock.client.window import accused_order, governing_charter, join_window, verdicts_of
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Verify
from penstock.spec.entries import Entry, EntryKind
from penstock.spec.log import Frontier
from penstock.spec.messages import Charter
from penstock.spec.notes import Checkpoint, VerifyRaw
from penstock.spec.params import Params, params_digest
from penstock.validator.evidence import Columns
from penstock.validator.recheck import Sample, sample_seed

ID_BYTES = 16
JUDGED_PER_TURN = 16
KEPT_KINDS = frozenset({EntryKind.CHARTER, EntryKind.ROLL, EntryKind.VERDICT})


@dataclass(frozen=True, slots=True)
class Held:
    """One epoch's entries, checked, in the form that scoring needs.

    `table` holds the rows (see `evidence.Columns`), `ids` a short hash of each record's id, `words`
    the charters, rolls and verdicts, `word_ids` the kinds and ids of all that is no record.
    """

    epoch: int
    start: Frontier
    end: Frontier
    previous: int
    checkpoint: Checkpoint
    records: int
    table: Any
    ids: Any
    words: tuple[Leaf, ...]
    word_ids: frozenset[tuple[str, str]]


@dataclass(slots=True)
class Follower:
    """Reads one operator's log as validator `identity`. Everything raises Difference, NotPublished,
    Unreachable; what was read before stays good.
    """

    source: Source
    params: Params
    log_key: str
    identity: str
    verify: Verify
    verify_raw: VerifyRaw
    metrics: Metrics
    on_record: Callable[[str], None]
    """Told the order id of each record that is read."""
    rechecked: int = 0
    _held: dict[int, Held] = field(default_factory=dict)
    _compared: set[int] = field(default_factory=set)
    _exhibits: dict[str, Entry] = field(default_factory=dict)

    async def operator(self) -> Operator:
        """Whose log it is, which must be the one the charter names."""
        operator = await read_operator(self.source)
        same("operator.json: log_key", operator.log_key, self.log_key)
        same("operator.json: network", operator.network, self.params.network)
        return operator

    async def window(self, epoch: int) -> list[Held]:
        """The window that ends with `epoch`, oldest first; what is older is let go."""
        operator = await self.operator()
        try:
            window = await join_window(epoch, self.params, read=self._reader(operator))
        except Difference:
            # Nothing that may be at fault is believed the next time without being read again.
            self._held.clear()
            self._compared.clear()
            raise
        for place, held in enumerate(window):
            if held.epoch not in self._compared:
                _check_logged_once(held, window[:place])
                self._compared.add(held.epoch)
        oldest = window[0].epoch
        self._held = {number: held for number, held in self._held.items() if number >= oldest}
        self._compared = {number for number in self._compared if number >= oldest}
        return window

    async def charter(self, window: Sequence[Held]) -> Charter:
        """The charter over the window: in it, or proven with an outcome that it joins on to."""
        operator = await self.operator()
        leaves = [leaf for held in window for leaf in held.words]
        if all(leaf.entry.kind is not EntryKind.CHARTER for leaf in leaves):
            leaves += await self._older_charters(window, operator)
        charter = governing_charter(
            leaves, size=window[-1].end.size, operator=operator, verify=self.verify
        )
        same("charter: params_digest", charter.params_digest, params_digest(self.params))
        return charter

    async def accused(self, window: Sequence[Held]) -> Callable[[str], Entry | None]:
        """Finds the record, within the window, that a verdict is about; "" and strangers are None."""
        words = (leaf for held in window for leaf in held.words)
        wanted = {accused_order(verdict) for verdict in verdicts_of(words)}
        found: dict[str, Entry] = {}
        for held in window:
            here = _named_in(held, wanted)
            unread = here - self._exhibits.keys()
            if unread:
                await self._read_exhibits(held.epoch, unread)
            found.update({name: self._exhibits[name] for name in here if name in self._exhibits})
        self._exhibits = dict(found)
        return found.get

    def _reader(self, operator: Operator) -> Callable[[int], Awaitable[Held]]:
        async def read(epoch: int) -> Held:
            held = self._held.get(epoch)
            if held is None:
                file = await read_segment_file(
                    self.source, epoch, operator=operator, verify_raw=self.verify_raw
                )
                held = self._held[epoch] = await self._take_in(file)
            return held

        return read

    async def _take_in(self, file: SegmentFile) -> Held:
        """Read every entry, judge a sample of the records again, keep the short form."""
        seed = sample_seed(file.checkpoint.root, self.identity, file.epoch)
        sample = Sample(seed, self.params.sample_ppm)
        columns, names, words = Columns(), [], []
        word_ids: set[tuple[str, str]] = set()
        reading = SegmentReading(file)
        for batch in reading:
            for leaf in batch:
                entry = leaf.entry
                if leaf.row is not None:
                    columns.add(leaf.row, f"epoch {file.epoch}: entry {leaf.seq}")
                    names.append(entry.entry_id)
                    sample.offer(leaf)
                    continue
                word_ids.add((entry.kind.value, entry.entry_id))
                if entry.kind in KEPT_KINDS:
                    words.append(leaf)
            # A large epoch takes a while, and health questions come meanwhile.
            await asyncio.sleep(0)
        same(f"epoch {file.epoch}: entries by id", file.count, len(word_ids) + len(set(names)))
        await self._recheck(file.epoch, sample.leaves())
        for name in names:
            self.on_record(name)
        self.metrics.count("validator_entries_read_total", file.count)
        return Held(
            epoch=file.epoch,
            start=file.start,
            end=reading.end,
            previous=reading.previous,
            checkpoint=file.checkpoint,
            records=len(names),
            table=columns.table(),
            ids=_short_ids(names),
            words=tuple(words),
            word_ids=frozenset(word_ids),
        )

    async def _recheck(self, epoch: int, leaves: Sequence[Leaf]) -> None:
        broken = 0
        for done, leaf in enumerate(leaves):
            where = f"epoch {epoch}: entry {leaf.seq}"
            found = check_row(leaf, params=self.params, verify=self.verify, where=where)
            broken += found.decisions_broken
            if done % JUDGED_PER_TURN == 0:
                await asyncio.sleep(0)
        self.rechecked += len(leaves)
        self.metrics.count("validator_records_rechecked_total", len(leaves))
        self.metrics.count("validator_decisions_broken_total", broken)

    async def _older_charters(self, window: Sequence[Held], operator: Operator) -> list[Leaf]:
        """From the newest outcome at or before the window: what it proves governed then, and all
        that came after its epoch stands in the window.
        """
        numbers = [held.epoch for held in reversed(window[:-1])]
        for epoch in (*numbers, window[0].previous):
            if epoch < 0:
                continue
            try:
                outcome = await read_outcome(
                    self.source, epoch, operator=operator, verify_raw=self.verify_raw
                )
            except NotPublished:
                continue
            return [leaf for leaf in outcome.leaves if leaf.entry.kind is EntryKind.CHARTER]
        return []

    async def _read_exhibits(self, epoch: int, wanted: set[str]) -> None:
        """Verdicts are rare: their records are read from the epoch's file once more."""
        operator = await self.operator()
        file = await read_segment_file(
            self.source, epoch, operator=operator, verify_raw=self.verify_raw
        )
        for batch in SegmentReading(file):
            for leaf in batch:
                if leaf.row is not None and leaf.entry.entry_id in wanted:
                    self._exhibits[leaf.entry.entry_id] = leaf.entry
            await asyncio.sleep(0)


def _short_id(name: str) -> bytes:
    """Collisions would have to be searched for among 2**64 ids."""
    return hashlib.sha256(name.encode()).digest()[:ID_BYTES]


def _short_ids(names: Iterable[str]) -> Any:
    import pyarrow as pa

    return pa.array([_short_id(name) for name in names], pa.binary(ID_BYTES))


def _named_in(held: Held, wanted: set[str]) -> set[str]:
    """Which of these order ids have a record in the epoch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = sorted(wanted)
    if not names or not held.records:
        return set()
    hits = pc.is_in(_short_ids(names), value_set=pa.chunked_array([held.ids]))
    return {name for name, is_here in zip(names, hits.to_pylist(), strict=True) if is_here}


def _check_logged_once(held: Held, older: Sequence[Held]) -> None:
    """An id is logged once in a window, so that no work counts twice. Raises Difference."""
    import pyarrow.compute as pc

    for other in older:
        doubles = held.word_ids & other.word_ids
        where = f"epoch {held.epoch}: an entry of epoch {other.epoch}"
        if doubles:
            raise Difference(where, f"{min(doubles)} again", "an id is logged once")
        if held.records and pc.any(pc.is_in(other.ids, value_set=held.ids)).as_py():
            raise Difference(where, "a record again", "an id is logged once")
