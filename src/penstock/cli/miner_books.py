"""A miner's earnings by the ledger's public log: read epoch by epoch, proven, and kept once read.

Every epoch's segment is checked against the log's signed checkpoint before a number of it is believed.
What is proven never changes, so it is kept in the home and read from there the next time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from penstock.client.errors import NotPublished
from penstock.client.published import (
    Operator,
    Source,
    read_operator,
    read_outcome,
    read_segment_file,
)
from penstock.client.segments import SegmentReading
from penstock.kit.keys import verify_raw
from penstock.spec.canon import from_plain
from penstock.spec.entries import Close, EntryKind
from penstock.spec.messages import Settlement
from penstock.spec.params import FeeSplit
from penstock.spec.pricing import split_charge

EPOCHS_MAX = 2_000
CHUTES_MAX = 4_096


class ChuteBooks(msgspec.Struct, frozen=True):
    """One chute in one epoch."""

    chute: str
    orders: int = 0
    gross_nano: int = 0
    own_nano: int = 0


class EpochBooks(msgspec.Struct, frozen=True):
    """One epoch. `payout_nano` is None until it is settled."""

    epoch: int
    closed_ms: int
    chutes: tuple[ChuteBooks, ...]
    payout_nano: int | None


@dataclass(frozen=True, slots=True)
class Books:
    """Reads for one identity. `folder` keeps what was read of settled epochs."""

    source: Source
    identity: str
    fees: FeeSplit
    folder: Path

    async def read(
        self, newest: int, *, since_ms: int, told: Callable[[int, int], None]
    ) -> list[EpochBooks]:
        """Closed epochs from `newest` back to this time, newest first; at most EPOCHS_MAX.

        Raises Difference, Unreachable.
        """
        operator = await read_operator(self.source)
        found: list[EpochBooks] = []
        for number, epoch in enumerate(range(newest, max(newest - EPOCHS_MAX, -1), -1)):
            told(number, epoch)
            books = self._kept(epoch)
            if books is None:
                books = await self._read(epoch, operator)
            if books is None:
                continue
            if books.closed_ms < since_ms:
                break
            found.append(books)
        return found

    async def _read(self, epoch: int, operator: Operator) -> EpochBooks | None:
        """None where this epoch was not published (the market was away)."""
        try:
            file = await read_segment_file(
                self.source, epoch, operator=operator, verify_raw=verify_raw
            )
        except NotPublished:
            return None
        closed_ms, chutes = await asyncio.to_thread(self._sum, SegmentReading(file))
        try:
            outcome = await read_outcome(
                self.source, epoch, operator=operator, verify_raw=verify_raw
            )
        except NotPublished:
            return EpochBooks(epoch, closed_ms, chutes, None)
        payout = 0
        for leaf in outcome.leaves:
            if leaf.entry.kind is EntryKind.SETTLEMENT:
                settlement = from_plain(Settlement, leaf.entry.body["body"])
                payout += sum(
                    one.amount_nano for one in settlement.payouts if one.identity == self.identity
                )
        books = EpochBooks(epoch, closed_ms, chutes, payout)
        self._keep(books)
        return books

    def _sum(self, reading: SegmentReading) -> tuple[int, tuple[ChuteBooks, ...]]:
        """(when the epoch was closed, this miner's sums by chute). Raises Difference."""
        sums: dict[str, list[int]] = {}
        closed_ms = 0
        for batch in reading:
            for leaf in batch:
                if leaf.entry.kind is EntryKind.CLOSE:
                    closed_ms = from_plain(Close, leaf.entry.body).at_ms
                row = leaf.row
                if row is None or row.miner != self.identity or not row.charge_nano:
                    continue
                if row.chute in sums or len(sums) < CHUTES_MAX:
                    one = sums.setdefault(row.chute, [0, 0, 0])
                    one[0] += 1
                    one[1] += row.charge_nano
                    one[2] += split_charge(row.earned_nano, self.fees).miner_nano
        return closed_ms, tuple(
            ChuteBooks(chute, *numbers) for chute, numbers in sorted(sums.items())
        )

    def _path(self, epoch: int) -> Path:
        return self.folder / self.identity.replace(":", "-") / f"{epoch:08d}.json"

    def _kept(self, epoch: int) -> EpochBooks | None:
        try:
            return msgspec.json.decode(self._path(epoch).read_bytes(), type=EpochBooks)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _keep(self, books: EpochBooks) -> None:
        path = self._path(books.epoch)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(books))
            fresh.replace(path)
        except OSError:
            return  # it is read again the next time


def totals(books: list[EpochBooks]) -> dict[str, Any]:
    """All epochs together, and each chute."""
    chutes: dict[str, list[int]] = {}
    for epoch in books:
        for one in epoch.chutes:
            sums = chutes.setdefault(one.chute, [0, 0, 0])
            sums[0] += one.orders
            sums[1] += one.gross_nano
            sums[2] += one.own_nano
    gross = sum(one[1] for one in chutes.values())
    own = sum(one[2] for one in chutes.values())
    return {
        "epochs": len(books),
        "orders": sum(one[0] for one in chutes.values()),
        "gross_nano": gross,
        "fees_nano": gross - own,
        "own_nano": own,
        "payout_nano": sum(one.payout_nano or 0 for one in books),
        "unsettled_epochs": sum(one.payout_nano is None for one in books),
        "chutes": [
            {"chute": chute, "orders": one[0], "gross_nano": one[1], "own_nano": one[2]}
            for chute, one in sorted(chutes.items(), key=lambda item: -item[1][1])
        ],
    }
