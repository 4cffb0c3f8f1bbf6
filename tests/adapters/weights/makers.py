"""Caches for tests: small quotas, short rests, a disk that is as large as the test says."""

from collections.abc import Callable
from pathlib import Path

from tests.adapters.weights.hub_server import REPO, Hub, sha

from penstock.adapters.weights.courier import Courier, Deadlines
from penstock.adapters.weights.fetch import Places, Weights
from penstock.adapters.weights.network import authority_of
from penstock.adapters.weights.patience import Patience
from penstock.adapters.weights.room import Bounds, Room
from penstock.adapters.weights.store import WeightStore
from penstock.kit.clock import SystemClock
from penstock.kit.ports import Clock
from penstock.spec.weights import WeightFile, listing_digest

QUOTA_BYTES = 64 << 20
PLENTY_BYTES = 1 << 40
QUICK = Patience(tries_max=3, rest_ms=1, rest_ms_max=2)
SHORT = Deadlines(head_ms=20_000, idle_ms=20_000, stall_ms=20_000)


class SetClock:
    """A clock that stands where a test puts it."""

    def __init__(self, ms: int = 1_000_000) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms

    def mono_us(self) -> int:
        return self.ms * 1000


def make_weights(
    root: Path,
    places: Places | None = None,
    *,
    trusted: tuple[str, ...] = (),
    bounds: Bounds | None = None,
    deadlines: Deadlines = SHORT,
    free_bytes: Callable[[Path], int] = lambda _: PLENTY_BYTES,
) -> Weights:
    clock: Clock = SystemClock()
    store = WeightStore(root, clock)
    limits = bounds if bounds is not None else Bounds(QUOTA_BYTES, 0)
    return Weights(
        store,
        Room(store, limits, free_bytes=free_bytes),
        courier=Courier(frozenset(authority_of(url) for url in trusted), deadlines),
        clock=clock,
        places=places if places is not None else Places(),
        patience=QUICK,
    )


def weights_of(root: Path, hub: Hub, **others: object) -> Weights:
    """A cache whose hub is this one."""
    places = Places(hub=hub.url)
    return make_weights(root, places, trusted=(hub.url,), **others)  # type: ignore[arg-type]  # as make_weights takes them


def folder_digest(files: dict[str, bytes]) -> str:
    """What names a folder of these files."""
    return listing_digest([WeightFile(name, sha(data), len(data)) for name, data in files.items()])


def hub_file(name: str) -> str:
    return f"hf:{REPO}@main/{name}"
