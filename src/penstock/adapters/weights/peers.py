"""Other miners: how we say who asks, and how we know who may ask us."""

from base64 import urlsafe_b64encode
from collections.abc import Callable

import msgspec

from penstock.adapters.weights.courier import Headers
from penstock.adapters.weights.share import ASK_HEADER
from penstock.kit.errors import WireError
from penstock.kit.log import events
from penstock.kit.ports import Clock, Sign
from penstock.kit.wire.client import HttpClient
from penstock.spec.canon import encode
from penstock.spec.keys import sign
from penstock.spec.weights import ASK_KIND, WeightsAsk

ROLL_MS = 60_000
"""So long the market's list of miners is believed."""
ROLL_BYTES_MAX = 8 << 20
ROLL_DEADLINE_MS = 5_000

_log = events("weights")


class Listed(msgspec.Struct, frozen=True):
    """One miner of the market's `GET /v1/miners`: the key that signs, and its owner."""

    miner: str


class Roll(msgspec.Struct, frozen=True):
    """The body of `GET /v1/miners`."""

    miners: list[Listed]


def signed_ask(key: Sign, clock: Clock) -> Callable[[str, str], Headers]:
    """(authority of a peer, digest) -> the header that says who asks."""

    def ask(host: str, sha256: str) -> Headers:
        question = WeightsAsk(key.identity, host, sha256, clock.now_ms())
        signed = sign(ASK_KIND, question, key)
        return ((ASK_HEADER, urlsafe_b64encode(encode(signed)).decode("ascii")),)

    return ask


class ListedMiners:
    """Who has an instance on the market's board now. A market that is away changes nothing."""

    def __init__(self, client: HttpClient, market_url: str, clock: Clock) -> None:
        self._client = client
        self._url = f"{market_url.rstrip('/')}/v1/miners"
        self._clock = clock
        self._known: frozenset[str] = frozenset()
        self._asked_ms: int | None = None

    async def is_member(self, identity: str) -> bool:
        """Is this identity on the board?"""
        now_ms = self._clock.now_ms()
        if self._asked_ms is None or now_ms - self._asked_ms >= ROLL_MS:
            self._asked_ms = now_ms
            await self._renew()
        return identity in self._known

    async def _renew(self) -> None:
        try:
            reply = await self._client.call(
                "GET", self._url, deadline_ms=ROLL_DEADLINE_MS, body_bytes_max=ROLL_BYTES_MAX
            )
            roll = msgspec.json.decode(reply.body, type=Roll)
        except (WireError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("weights.roll_failed", reason=str(error))
            return
        self._known = frozenset(one.miner for one in roll.miners)
