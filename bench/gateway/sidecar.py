r"""The miner's key for the mock upstream: `python -m bench.gateway.sidecar SOCKET`.

The mock is C and knows SHA-256 and HMAC; what takes a signature it asks for here, over one line:
`TOKEN KIND LENGTH\n` and so many bytes, answered by `TOKEN STATUS LENGTH\n` and so many bytes. All
that a miner checks is checked: a seal or a session that does not hold is answered 400 and logged.
"""

import asyncio
import json
import os
import signal
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import uvloop
from bench.gateway.cast import GATEWAY, MINER

from penstock.kit.clock import SystemClock
from penstock.kit.handshake import is_same, new_exchange, seals_mac, session_key
from penstock.kit.keys import verify
from penstock.spec.canon import canonical, digest, to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import open_signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.params import LOCAL
from penstock.spec.seals import seal_digest, seal_root
from penstock.spec.sessions import ANSWER_KIND, SessionAnswer, check_session_offer

SIGN, OPEN, SESSION, SEALS = "g", "o", "s", "l"
UNKNOWN = "-"


class Refused(Exception):
    """What the gateway said does not hold."""


class Sidecar:
    """The miner, as far as keys go."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._keys: dict[str, bytes] = {}
        self.refused = 0

    def answer(self, kind: str, payload: bytes) -> bytes:
        """What the mock is told. Raises Refused."""
        try:
            if kind == SIGN:
                return self._sign(payload)
            if kind == OPEN:
                return self._open(payload)
            if kind == SESSION:
                return self._agree(payload)
            assert kind == SEALS, f"the mock asks for {kind!r}"
            return self._seal(payload)
        except (SpecError, ValueError, KeyError, TypeError) as error:
            raise Refused(f"{kind}: {error}") from error

    def _sign(self, payload: bytes) -> bytes:
        r"""A digest in hex: its signature. Or `header KIND\n` and a message: the header's value."""
        first, newline, body = payload.partition(b"\n")
        if not newline:
            return MINER.sign(bytes.fromhex(payload.decode())).encode()
        kind = first.decode().removeprefix("header ")
        plain = json.loads(body)
        signed = {
            "kind": kind,
            "body": plain,
            "signer": MINER.identity,
            "signature": MINER.sign(digest(kind, plain)),
        }
        return urlsafe_b64encode(canonical(signed)).rstrip(b"=")

    def _open(self, header: bytes) -> bytes:
        """The canonical body of a signed order."""
        signed = parse_signed(json.loads(urlsafe_b64decode(header + b"=" * (-len(header) % 4))))
        order = open_signed(Order, signed, kind="order", verify=verify)
        if (order.miner, order.gateway) != (MINER.identity, signed.signer):
            raise Refused("an order to another miner")
        return canonical(signed.body)

    def _agree(self, body: bytes) -> bytes:
        r"""`ID KEY\n` for the mock, then the answer for the gateway."""
        signed = parse_signed(json.loads(body))
        offer = check_session_offer(
            signed,
            miner=MINER.identity,
            now_ms=self._clock.now_ms(),
            skew_max_ms=LOCAL.clock_skew_max_ms,
            verify=verify,
        )
        exchange = new_exchange(os.urandom)
        answer = SessionAnswer(
            session_id=offer.session_id,
            offer_digest=signed_digest(signed),
            miner=MINER.identity,
            exchange_key=exchange.public_hex,
            expires_ms=offer.expires_ms,
        )
        said = sign(ANSWER_KIND, answer, MINER)
        key = session_key(
            exchange,
            offer.exchange_key,
            offer_digest=answer.offer_digest,
            answer_digest=signed_digest(said),
        )
        self._keys[offer.session_id] = key
        return b"%b %b\n" % (offer.session_id.encode(), key.hex().encode()) + _json(to_plain(said))

    def _seal(self, payload: bytes) -> bytes:
        """The digests of the receipts asked for (the mock knows them), then the request."""
        first, _, body = payload.partition(b"\n")
        asked = json.loads(body)
        mac = asked.pop("mac")
        key = self._keys[asked["session_id"]]
        if not is_same(mac, seals_mac(key, canonical(asked))):
            raise Refused("seals: the MAC does not hold")
        orders = asked["orders"]
        if orders is not None:
            self._check_orders(orders)
        told = zip(asked["receipts"], first.decode().split(","), strict=False)
        digests = {order_id: hexed for order_id, hexed in told if hexed}
        known = {one: bytes.fromhex(hexed) for one, hexed in digests.items() if hexed != UNKNOWN}
        answer: dict[str, Any] = {
            "orders_known": 0 if orders is None else len(orders["digests"]),
            "receipts": _sealed(known) if known else None,
            "unknown": [one for one in asked["receipts"] if one not in known],
        }
        return _json(answer)

    def _check_orders(self, orders: dict[str, Any]) -> None:
        digests = [bytes.fromhex(one) for one in orders["digests"]]
        covered = seal_digest(seal_root(digests), len(digests))
        if not verify(GATEWAY.identity, covered, orders["root_signature"]):
            raise Refused("seals: the gateway's signature does not hold")


def _sealed(digests: dict[str, bytes]) -> dict[str, Any]:
    leaves = list(digests.values())
    signature = MINER.sign(seal_digest(seal_root(leaves), len(leaves)))
    return {"order_ids": list(digests), "root_signature": signature}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def serve(path: str) -> None:
    """Serve until SIGTERM; the socket is there when it is ready."""
    sidecar = Sidecar()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            token, kind, length = line.decode().split()
            payload = await reader.readexactly(int(length))
            try:
                status, answer = 200, sidecar.answer(kind, payload)
            except Refused as error:
                print("refused:", error, flush=True)
                status, answer = 400, _json({"error": {"code": "refused", "message": str(error)}})
            writer.write(f"{token} {status} {len(answer)}\n".encode() + answer)
        writer.close()

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with await asyncio.start_unix_server(talk, path, limit=1 << 22):
        await stopped.wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
