"""Identities, signed envelopes, delegations: what fits and what is refused."""

from dataclasses import replace

import pytest
from tests.makers import MINER, OWNER, ToyKey, toy_verify

from penstock.spec.canon import to_plain
from penstock.spec.errors import BadIdentity, BadSignature, Expired, NotCanonical
from penstock.spec.keys import (
    Delegation,
    Role,
    Signed,
    check_delegation,
    check_identity,
    open_signed,
    parse_signed,
    sign,
    sign_and_digest,
    signed_digest,
)

DELEGATION = Delegation(OWNER.identity, MINER.identity, Role.MINER, 1_000)


def signed(delegation: Delegation = DELEGATION, key: ToyKey = OWNER) -> Signed:
    return sign("delegation", delegation, key)


@pytest.mark.parametrize(
    "identity",
    [
        "ed25519:" + "a" * 64,
        "sr25519:" + "0" * 64,
        "eip155:" + "f" * 40,
        "toy:" + "1" * 16,
    ],
)
def test_an_identity_is_a_scheme_and_a_key_of_its_length(identity: str) -> None:
    check_identity(identity)


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "ed25519",
        "ed25519:",
        "ed25519:" + "A" * 64,
        "ed25519:" + "a" * 63,
        "rsa:" + "a" * 64,
        "toy:" + "g" * 16,
    ],
)
def test_other_strings_are_not_identities(identity: str) -> None:
    with pytest.raises(BadIdentity):
        check_identity(identity)


def test_a_signed_message_opens_to_what_was_signed() -> None:
    assert open_signed(Delegation, signed(), kind="delegation", verify=toy_verify) == DELEGATION


def test_signing_tells_the_digest_that_others_refer_to() -> None:
    message, digest = sign_and_digest("delegation", DELEGATION, OWNER)
    assert message == signed()
    assert digest == signed_digest(message)


def test_a_signature_for_one_kind_never_fits_another() -> None:
    as_offer = replace(signed(), kind="offer")
    with pytest.raises(BadSignature):
        open_signed(Delegation, as_offer, kind="delegation", verify=toy_verify)
    with pytest.raises(BadSignature):
        open_signed(Delegation, as_offer, kind="offer", verify=toy_verify)


def test_a_changed_body_is_refused() -> None:
    message = signed()
    changed = replace(message, body={**message.body, "not_after_ms": 2_000})
    with pytest.raises(BadSignature):
        open_signed(Delegation, changed, kind="delegation", verify=toy_verify)


def test_a_signer_that_is_no_identity_is_refused() -> None:
    with pytest.raises(BadIdentity):
        open_signed(
            Delegation, replace(signed(), signer="me"), kind="delegation", verify=toy_verify
        )


def test_a_message_with_another_shape_is_refused_though_signed() -> None:
    message = signed()
    with pytest.raises(NotCanonical):
        open_signed(Signed, message, kind="delegation", verify=toy_verify)


def test_the_digest_names_the_body_and_not_the_signature() -> None:
    assert signed_digest(signed()) == signed_digest(replace(signed(), signature="00"))
    assert signed_digest(signed()) != signed_digest(signed(replace(DELEGATION, not_after_ms=1)))


def test_plain_values_parse_to_the_signed_message() -> None:
    assert parse_signed(to_plain(signed())) == signed()


@pytest.mark.parametrize(
    "change",
    [{"kind": 1}, {"body": []}, {"signer": None}, {"signature": b""}, {"more": 1}],
)
def test_other_plain_values_do_not(change: dict[str, object]) -> None:
    with pytest.raises(NotCanonical):
        parse_signed({**to_plain(signed()), **change})
    with pytest.raises(NotCanonical):
        parse_signed(None)


def test_a_delegation_holds_until_its_last_millisecond() -> None:
    assert (
        check_delegation(signed(), role=Role.MINER, now_ms=1_000, verify=toy_verify) == DELEGATION
    )
    with pytest.raises(Expired):
        check_delegation(signed(), role=Role.MINER, now_ms=1_001, verify=toy_verify)


def test_a_delegation_is_for_one_role() -> None:
    with pytest.raises(BadSignature):
        check_delegation(signed(), role=Role.GATEWAY, now_ms=0, verify=toy_verify)


def test_only_the_owner_delegates() -> None:
    with pytest.raises(BadSignature):
        check_delegation(signed(key=MINER), role=Role.MINER, now_ms=0, verify=toy_verify)


def test_a_delegation_to_something_that_is_no_key_is_refused() -> None:
    with pytest.raises(BadIdentity):
        check_delegation(
            signed(replace(DELEGATION, key="x")), role=Role.MINER, now_ms=0, verify=toy_verify
        )
