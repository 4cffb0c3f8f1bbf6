"""Who asks for files and batches: the account behind a key, also when it has no money left.

Whoever has spent everything must still get at the results that were paid for.
"""

from dataclasses import dataclass

import msgspec

from penstock.gateway.admit import key_hash_of, secret_of
from penstock.gateway.batches_desk import Host
from penstock.gateway.errors import BadKey, BooksBehind, InsufficientFunds
from penstock.gateway.files import shelf_of
from penstock.kit.errors import WireError
from penstock.kit.wire.http import Request

BALANCE_BYTES_MAX = 65_536


class BalanceAnswer(msgspec.Struct):
    """Of the ledger's answer only whose key it was."""

    account: str


@dataclass(frozen=True, slots=True)
class Owner:
    """An account, by the key that spoke for it. The key itself is kept nowhere."""

    account: str
    shelf: str
    key_hash: str


async def owner_of(gateway: Host, request: Request) -> Owner:
    """Raises BadKey, RateLimited, BooksBehind."""
    secret = secret_of(request)
    try:
        visitor = gateway.admission.visitor(request)
        key = await gateway.admission.key_of(secret, visitor)
    except InsufficientFunds:
        account = await _ask_ledger(gateway, secret)
    else:
        gateway.admission.check_rate(key)
        account = key.payer.account
    return Owner(account=account, shelf=shelf_of(account), key_hash=key_hash_of(secret))


async def _ask_ledger(gateway: Host, secret: str) -> str:
    try:
        reply = await gateway.http.call(
            "GET",
            f"{gateway.ledger_url}/v1/balance",
            headers=(("authorization", f"Bearer {secret}"),),
            deadline_ms=gateway.deadlines.ask_ms,
            body_bytes_max=BALANCE_BYTES_MAX,
        )
        if reply.status == BadKey.status:
            raise BadKey(given=True)
        return msgspec.json.decode(reply.body, type=BalanceAnswer).account
    except (WireError, ValueError) as error:  # the latter: no URL, or no such JSON
        raise BooksBehind(what="The ledger does not answer.") from error
