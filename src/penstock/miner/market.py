"""The market and the ledger as a miner calls them: JSON over HTTP, errors as classes."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from penstock.kit.errors import WireError
from penstock.kit.wire.client import Reply
from penstock.kit.wire.http import JSON_HEADERS
from penstock.miner.errors import PeerDown, PeerRefused
from penstock.miner.store import Claim, claim_line
from penstock.miner.timing import MarketTime
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed

CLAIMS_MAX = 256
"""The ledger takes this many at once."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Call(Protocol):
    """What is needed of `kit.wire.client.HttpClient` here."""

    async def call(
        self,
        method: str,
        url: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
        deadline_ms: int,
        body_bytes_max: int | None = None,
    ) -> Reply:
        """One request and its whole reply. Raises WireError."""
        ...


@dataclass(slots=True)
class Market:
    """The market at `url`. Every method raises PeerDown or PeerRefused."""

    client: Call
    url: str
    time: MarketTime
    deadline_ms: int

    async def info(self) -> dict[str, Any]:
        """`/v1/info`: charter, delegations, the ledger's address. Sets the time."""
        return self._timed(await self._ask("GET", "/v1/info"))

    async def targets(self) -> dict[str, Any]:
        """`/v1/targets`: what is wanted, what there is, and who the miners are."""
        return (await self._ask("GET", "/v1/targets"))[0]

    async def miners(self) -> dict[str, Any]:
        """`/v1/miners`: who serves what."""
        return (await self._ask("GET", "/v1/miners"))[0]

    async def offer(self, offer: Signed, delegation: dict[str, Any] | None) -> None:
        """Post or renew an offer. Sets the time."""
        body = _encode({"offer": to_plain(offer), "delegation": delegation})
        self._timed(await self._ask("POST", "/v1/offers", body))

    async def withdraw(self, offer: Signed) -> None:
        """Take an offer back; the signed offer with no room is the proof."""
        name = offer.body["instance"]
        await self._ask("DELETE", f"/v1/offers/{name}", _encode(to_plain(offer)))

    async def _ask(self, method: str, path: str, body: bytes = b"") -> tuple[dict[str, Any], int]:
        """(the answer, when the question was sent in monotonic microseconds)."""
        sent_us = self.time.mono_us()
        url = self.url.rstrip("/") + path
        answer = await ask(
            self.client, "market", (method, url), body=body, deadline_ms=self.deadline_ms
        )
        return answer, sent_us

    def _timed(self, answered: tuple[dict[str, Any], int]) -> dict[str, Any]:
        answer, sent_us = answered
        now_ms = answer.get("now_ms")
        if type(now_ms) is int:
            self.time.learn(now_ms, sent_us=sent_us)
        return answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the ledger says of one claim. `is_settled`: it need not be asked again."""

    order_id: str
    state: str

    @property
    def is_settled(self) -> bool:
        """Posted, accepted and rejected are final; `waiting` and anything new are not."""
        return self.state in {"posted", "accepted", "rejected"}


async def claim(
    client: Call, ledger_url: str, claims: list[Claim], *, deadline_ms: int
) -> list[Verdict]:
    """Ask the ledger about up to CLAIMS_MAX claims. Raises PeerDown, PeerRefused."""
    assert len(claims) <= CLAIMS_MAX, "the ledger takes no more at once"
    body = b'{"claims":[%b]}' % b",".join(claim_line(one) for one in claims)
    url = ledger_url.rstrip("/") + "/v1/claims"
    answer = await ask(client, "ledger", ("POST", url), body=body, deadline_ms=deadline_ms)
    said = answer.get("claims")
    return [
        Verdict(order_id=one["order_id"], state=one["state"])
        for one in (said if isinstance(said, list) else [])
        if isinstance(one, dict)
        and isinstance(one.get("order_id"), str)
        and isinstance(one.get("state"), str)
    ]


async def ask(
    client: Call, peer: str, request: tuple[str, str], *, body: bytes, deadline_ms: int
) -> dict[str, Any]:
    """One question (method, URL) to a peer. Raises PeerDown, PeerRefused."""
    method, url = request
    headers = JSON_HEADERS if body else ()
    try:
        reply = await client.call(method, url, headers=headers, body=body, deadline_ms=deadline_ms)
        answer = _decode(reply.body or b"{}")
    except WireError as error:
        raise PeerDown(peer=peer, reason=str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerDown(peer=peer, reason=f"it answers no JSON: {error}") from error
    if 200 <= reply.status < 300:
        return answer
    if reply.status >= 500:
        raise PeerDown(peer=peer, reason=f"it answers {reply.status}")
    said = answer.get("error")
    fields = said if isinstance(said, dict) else {}
    raise PeerRefused(
        peer=peer,
        status=reply.status,
        code=str(fields.get("code", "")),
        message=str(fields.get("message", "")),
    )
