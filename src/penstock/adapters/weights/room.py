"""Room for a model before it is fetched: within the quota, and on the disk.

Whoever claims room writes the model's record, which counts in full from then on; so two who fetch at
once cannot both take the last gigabytes.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.adapters.weights.errors import DiskShort, QuotaReached
from penstock.adapters.weights.eviction import evictions, held_bytes
from penstock.adapters.weights.model import Model
from penstock.adapters.weights.store import WeightStore, model_lock
from penstock.kit.log import events

ROOM_LOCK = "room"
QUOTA_BYTES = 200 << 30
RESERVE_BYTES = 2 << 30

_log = events("weights")


@dataclass(frozen=True, slots=True)
class Bounds:
    """`reserve_bytes` of the disk are never used: the node's receipts need room too."""

    quota_bytes: int = QUOTA_BYTES
    reserve_bytes: int = RESERVE_BYTES


class Room:
    """Claims and frees room in one store. `free_bytes` asks the disk."""

    def __init__(
        self, store: WeightStore, bounds: Bounds, *, free_bytes: Callable[[Path], int]
    ) -> None:
        self._store = store
        self._bounds = bounds
        self._free_bytes = free_bytes

    def claim(self, model: Model, *, is_public: bool, holder: str) -> None:
        """Make room and write the record. Raises QuotaReached, DiskShort; then nothing was dropped.

        With a holder the model is pinned from now on. Call it with the model's lock held.
        """
        store = self._store
        with store.locks.at_once(ROOM_LOCK):
            self._make(model)
            if holder:
                store.pin(model.digest, holder)
            store.write_record(model, is_whole=False, is_public=is_public)

    def _make(self, model: Model) -> None:
        store, bounds = self._store, self._bounds
        kept = [one for one in store.kept() if one.digest != model.digest]
        known = {blob for one in kept for blob in one.blobs}
        added_bytes = sum(size for blob, size in model.blobs.items() if blob not in known)
        over_bytes = held_bytes(kept) + added_bytes - bounds.quota_bytes
        coming_bytes = sum(
            record.model.size_bytes - store.here_bytes(record.model)
            for record in store.records()
            if not record.is_whole
            and record.digest != model.digest
            and store.locks.is_held(model_lock(record.digest))
        )
        wanted_bytes = model.size_bytes - store.here_bytes(model) + coming_bytes
        free_bytes = self._free_bytes(store.root)
        short_bytes = wanted_bytes + bounds.reserve_bytes - free_bytes
        # What the new model shares with old ones must not leave with them.
        ours = model.blobs.keys()
        bound = [replace(one, is_pinned=True) if one.blobs.keys() & ours else one for one in kept]
        victims = evictions(bound, need_bytes=max(over_bytes, short_bytes))
        if victims is None:
            if over_bytes >= short_bytes:
                in_use = [one for one in bound if one.is_pinned]
                raise QuotaReached(added_bytes, bounds.quota_bytes, held_bytes(in_use))
            raise DiskShort(store.root, wanted_bytes + bounds.reserve_bytes, free_bytes)
        staying = [one for one in kept if one.digest not in victims]
        besides = {blob for one in staying for blob in one.blobs} | model.blobs.keys()
        for digest in victims:
            _log.info("weights.evicted", digest=digest, for_model=model.digest)
            store.drop(digest, besides=besides)


def disk_free_bytes(folder: Path) -> int:
    """What this user may still write on the folder's disk."""
    return shutil.disk_usage(folder).free
