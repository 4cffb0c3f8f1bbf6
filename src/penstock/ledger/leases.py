"""Leases: money of one account that one gateway may spend without asking for each request.

A lease is a hold on the books under the same id. What a gateway cannot use it gives back by closing
the lease; what a lost gateway leaves behind comes back when the lease has expired and the grace for
its last records is over.
"""

from dataclasses import dataclass, replace

import msgspec

from penstock.ledger.errors import Rejected
from penstock.ledger.policy import Draft
from penstock.ledger.state import Lease, Wanted
from penstock.spec.accounts import is_key_hash
from penstock.spec.books import Extend, Hold, payer_account
from penstock.spec.canon import INT_MAX

LEASE_ID_BYTES = 16
LEASE_PARTS = 4
"""Without a need for more a lease takes at most one such part of what is free: the account's other
gateways and keys must find something too."""


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    gateway: str
    key_hash: str
    need_nano: int
    lease_id: str = ""


_read = msgspec.json.Decoder(_Question).decode


@dataclass(frozen=True, slots=True)
class LeaseQuestion:
    """A gateway asks for at least `need_nano` more for the key with this hash.

    `lease_id` is the lease to extend, or empty. A need of zero only puts off the expiry.
    """

    gateway: str
    key_hash: str
    lease_id: str
    need_nano: int


@dataclass(frozen=True, slots=True)
class Granted:
    """`granted_nano` is all ever granted under this lease id."""

    account: str
    lease_id: str
    granted_nano: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class NotGranted:
    """Too little is free on the account. Nothing was held."""

    available_nano: int


def read_question(data: bytes) -> LeaseQuestion:
    """A question from the bus. Raises Rejected."""
    try:
        said = _read(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected("malformed", str(error)[:200]) from error
    if not is_key_hash(said.key_hash):
        raise Rejected("unknown_key")
    if not 0 <= said.need_nano <= INT_MAX:
        raise Rejected("malformed", "need_nano is out of range")
    return LeaseQuestion(
        gateway=said.gateway,
        key_hash=said.key_hash,
        lease_id=said.lease_id,
        need_nano=said.need_nano,
    )


def wanted_for(question: LeaseQuestion, account: str) -> Wanted:
    """What `grant` needs to see."""
    return Wanted(
        accounts=(payer_account(account),),
        leases=(question.lease_id,) if question.lease_id else (),
    )


def grant(
    draft: Draft,
    question: LeaseQuestion,
    *,
    account: str,
    now_ms: int,
    new_lease_id: str,
) -> Granted | NotGranted:
    """Hold the need, or `lease_amount` or a part of what is free (the smaller) if that is more.

    A lease that is closed, unknown, another gateway's or another account's is not extended: the
    answer names a new one, and the gateway goes on with that.
    """
    params = draft.params
    free_nano = draft.books.balance(payer_account(account)).free_nano
    if free_nano < question.need_nano:
        return NotGranted(available_nano=free_nano)
    usual_nano = min(params.lease_amount_nano, -(-free_nano // LEASE_PARTS))
    amount_nano = max(question.need_nano, usual_nano)
    expires_ms = now_ms + params.lease_ttl_ms
    lease = _extendable(draft, question, account)
    if lease is not None:
        if not question.need_nano:
            lease = replace(lease, expires_ms=expires_ms)
        else:
            posting = f"extend/{lease.lease_id}/{lease.grants}"
            draft.post(Extend(id=posting, hold=lease.lease_id, amount_nano=amount_nano))
            lease = replace(
                lease,
                granted_nano=lease.granted_nano + amount_nano,
                grants=lease.grants + 1,
                expires_ms=expires_ms,
            )
    elif not amount_nano:
        return NotGranted(available_nano=0)
    else:
        lease = Lease(
            lease_id=new_lease_id,
            gateway=question.gateway,
            account=account,
            granted_nano=amount_nano,
            grants=1,
            opened_ms=now_ms,
            expires_ms=expires_ms,
            is_open=True,
        )
        held = payer_account(account)
        draft.post(Hold(id=lease.lease_id, account=held, amount_nano=amount_nano))
    draft.set_lease(lease)
    return Granted(
        account=account,
        lease_id=lease.lease_id,
        granted_nano=lease.granted_nano,
        expires_ms=lease.expires_ms,
    )


def _extendable(draft: Draft, question: LeaseQuestion, account: str) -> Lease | None:
    lease = draft.lease(question.lease_id) if question.lease_id else None
    if lease is None or not lease.is_open:
        return None
    return lease if (lease.gateway, lease.account) == (question.gateway, account) else None


def expired_before_ms(*, now_ms: int, quiet_ms: int, grace_ms: int) -> int:
    """Leases that expired at or before this moment are released.

    The grace is for records on their way. It counts only up to the moment when all that gateways
    had said was taken in: a ledger that lags behind releases nothing under their feet.
    """
    return min(now_ms, quiet_ms) - grace_ms
