"""Keys: identities, signed envelopes and delegations, with real ed25519 signatures."""

from typing import Any

from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.canon import to_plain
from penstock.spec.keys import (
    Delegation,
    Role,
    check_delegation,
    check_identity,
    parse_signed,
    sign,
    signed_digest,
)

OWNER, WORKER = Ed25519Key(b"o" * 32), Ed25519Key(b"w" * 32)
DELEGATION = Delegation(OWNER.identity, WORKER.identity, Role.MINER, not_after_ms=1_000)
SIGNED = to_plain(sign("delegation", DELEGATION, OWNER))


def run_check_identity(given: str) -> str:
    check_identity(given)
    return given


def run_check_delegation(given: Any) -> Any:
    signed = parse_signed(given["signed"])
    role = Role(given["role"])
    return to_plain(check_delegation(signed, role=role, now_ms=given["now_ms"], verify=verify))


def run_signed_digest(given: Any) -> str:
    return signed_digest(parse_signed(given))


def shown(signed: Any = SIGNED, role: Role = Role.MINER, now_ms: int = 1_000) -> Any:
    return {"signed": signed, "role": role.value, "now_ms": now_ms}


def changed(**body: Any) -> Any:
    return {**SIGNED, "body": {**SIGNED["body"], **body}}


FUNCTIONS = {
    "check_identity": (
        run_check_identity,
        {
            "ed25519": OWNER.identity,
            "eip155": "eip155:" + "ab" * 20,
            "sr25519": "sr25519:" + "01" * 32,
            "upper_case_is_refused": OWNER.identity.upper(),
            "short_is_refused": OWNER.identity[:-1],
            "another_scheme_is_refused": "rsa:" + "00" * 32,
            "no_hex_is_refused": "ed25519:" + "g" * 64,
        },
    ),
    "check_delegation": (
        run_check_delegation,
        {
            "in_its_last_millisecond": shown(),
            "expired": shown(now_ms=1_001),
            "for_another_role": shown(role=Role.GATEWAY),
            "changed_body": shown(changed(not_after_ms=2_000)),
            "not_by_the_owner": shown(to_plain(sign("delegation", DELEGATION, WORKER))),
            "another_kind": shown({**SIGNED, "kind": "order"}),
            "a_field_too_many": shown(
                {**SIGNED, "signature_of": 1},
            ),
        },
    ),
    "signed_digest": (run_signed_digest, {"delegation": SIGNED, "not_signed": SIGNED["body"]}),
}
