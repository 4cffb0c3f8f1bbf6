"""The cache of one miner, put together: `open_weights` is all that a station's `app.py` needs."""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.secret_file import read_secret
from penstock.adapters.weights.courier import Courier, Deadlines
from penstock.adapters.weights.errors import ReferenceInvalid
from penstock.adapters.weights.fetch import Places, Weights
from penstock.adapters.weights.hub import PUBLIC_HUB
from penstock.adapters.weights.network import authority_of
from penstock.adapters.weights.patience import Patience
from penstock.adapters.weights.reference import check_url
from penstock.adapters.weights.room import (
    QUOTA_BYTES,
    RESERVE_BYTES,
    Bounds,
    Room,
    disk_free_bytes,
)
from penstock.adapters.weights.sources import AskHeaders
from penstock.adapters.weights.store import WeightStore
from penstock.kit.ports import Clock

TOKEN = re.compile(r"[A-Za-z0-9._-]{1,512}")


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    """Read once, from the miner's configuration. What is named here may be a private address.

    `mirrors` keep files as `URL/sha256/HEX`; `peers` are miners to ask when all else fails.
    """

    quota_bytes: int = QUOTA_BYTES
    reserve_bytes: int = RESERVE_BYTES
    hub_endpoint: str = PUBLIC_HUB
    hub_token_file: str = ""
    mirrors: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()


def open_weights(
    root: Path,
    settings: WeightsSettings,
    *,
    clock: Clock,
    ask: AskHeaders | None = None,
    tls_context: ssl.SSLContext | None = None,
) -> Weights:
    """The cache below `root`, which is made if it is not there.

    Raises ReferenceInvalid for a URL that is none, FileExposed or OSError for the token's file.
    """
    own = (settings.hub_endpoint, *settings.mirrors, *settings.peers)
    for url in own:
        check_url(url, url)
    token = ""
    if settings.hub_token_file:
        token = read_secret(Path(settings.hub_token_file)).decode("ascii", "replace").strip()
        if TOKEN.fullmatch(token) is None:
            raise ReferenceInvalid(settings.hub_token_file, "the file holds no token")
    store = WeightStore(root, clock)
    bounds = Bounds(settings.quota_bytes, settings.reserve_bytes)
    return Weights(
        store,
        Room(store, bounds, free_bytes=disk_free_bytes),
        courier=Courier(
            frozenset(authority_of(url) for url in own if url != PUBLIC_HUB),
            Deadlines(),
            tls_context=tls_context,
        ),
        clock=clock,
        places=Places(settings.hub_endpoint, token, settings.mirrors, settings.peers, ask),
        patience=Patience(),
    )
