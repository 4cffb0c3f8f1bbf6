"""How a market opens: an owner deploys chutes, the operator opens accounts, over the public routes."""

import asyncio
from dataclasses import replace

import msgspec

from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient
from penstock.sim.cast import CHAT, EMBEDDINGS, Payer
from penstock.sim.engine import KIND
from penstock.sim.ground import LEDGER_URL, MARKET_URL, Ground
from penstock.spec.accounts import AccountOpening
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Limits, Manifest, Modality
from penstock.spec.units import Price

DEADLINE_MS = 5_000
AGAIN_S = 1
# Odd numbers: a market in which every share comes out even hides whoever rounds wrongly.
PRICE = Price(
    request=0, prompt=50_123_457, cached=10_000_019, completion=200_654_321, images=0, audio_ms=0
)
_encode = msgspec.json.Encoder().encode


def manifests(owner: str) -> tuple[Manifest, ...]:
    """The two chutes of every world."""
    chat = Manifest(
        name=CHAT,
        owner=owner,
        modality=Modality.CHAT,
        engine=KIND,
        source="sim:words",
        model_digest="",
        limits=Limits(context_tokens_max=8_192, output_tokens_max=64, parallel_max=4),
        price_max=PRICE,
        hardware="cpu",
        instances_min=2,
        instances_max=16,
    )
    embeddings = replace(
        chat,
        name=EMBEDDINGS,
        modality=Modality.EMBEDDINGS,
        source="sim:vectors",
        instances_min=1,
        price_max=replace(PRICE, completion=0),
    )
    return chat, embeddings


class Opening:
    """Says what has to be said before anybody can ask anything, until it is heard."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._http = HttpClient(ground.network.at("office"))

    async def deploy(self) -> None:
        """Publish the chutes as their owner."""
        owner = self._ground.key("owner")
        for manifest in manifests(owner.identity):
            await self._post(f"{MARKET_URL}/v1/chutes", sign("manifest", manifest, owner))

    async def open_account(self, payer: Payer) -> None:
        """Give somebody a key and some money."""
        opening = AccountOpening(
            account=payer.account,
            key_hash=payer.key_hash,
            credit_nano=payer.credit_nano,
            opening_id=f"first-{payer.account}",
        )
        signed = sign("account", opening, self._ground.key("operator"))
        await self._post(f"{LEDGER_URL}/v1/accounts", signed)
        # Said twice, done once.
        await self._post(f"{LEDGER_URL}/v1/accounts", signed)

    async def close(self) -> None:
        """Done."""
        await self._http.close()

    async def _post(self, url: str, signed: Signed) -> None:
        body = _encode(to_plain(signed))
        while True:
            try:
                reply = await self._http.call("POST", url, body=body, deadline_ms=DEADLINE_MS)
            except WireError:
                await asyncio.sleep(AGAIN_S)
                continue
            assert reply.status == 200, f"{url} answered {reply.status} {reply.body[:300]!r}"
            return
