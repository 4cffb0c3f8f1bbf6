"""Seals: roots, what is signed, the texts of a batch, and every way to misspell one."""

import hashlib
from typing import Any

from penstock.kit.keys import Ed25519Key, verify_single
from penstock.spec.seals import seal_digest, seal_root, seal_signatures, sealed_verify

SIGNER, OTHER = Ed25519Key(b"s" * 32), Ed25519Key(b"t" * 32)


def digests(size: int) -> list[bytes]:
    return [hashlib.sha256(bytes([number])).digest() for number in range(size)]


def seals(size: int) -> tuple[str, ...]:
    leaves = digests(size)
    return seal_signatures(leaves, SIGNER.sign(seal_digest(seal_root(leaves), size)))


def run_seal_root(given: Any) -> str:
    return seal_root([bytes.fromhex(one) for one in given["digests"]]).hex()


def run_seal_digest(given: Any) -> str:
    return seal_digest(bytes.fromhex(given["root"]), given["size"]).hex()


def run_seal_signatures(given: Any) -> list[str]:
    leaves = [bytes.fromhex(one) for one in given["digests"]]
    return list(seal_signatures(leaves, given["root_signature"]))


def run_verify(given: Any) -> bool:
    digest = bytes.fromhex(given["digest"])
    return sealed_verify(verify_single)(given["identity"], digest, given["signature"])


def batch(size: int) -> Any:
    return {"digests": [one.hex() for one in digests(size)]}


def shown(size: int, index: int, /, **changes: str) -> Any:
    """A seal of one message; `changes` replace parts of its text, or what it is held against."""
    head, said, place, path, signature = seals(size)[index].split(".", 4)
    given = {"identity": SIGNER.identity, "digest": digests(size)[index].hex()}
    parts = {"size": said, "index": place, "path": path, "signature": signature}
    parts.update({name: text for name, text in changes.items() if name in parts})
    given.update({name: text for name, text in changes.items() if name in given})
    return {**given, "signature": ".".join([head, *parts.values()])}


PATH = seals(3)[0].split(".", 4)[3]

FUNCTIONS = {
    "seal_root": (run_seal_root, {f"of_{size}": batch(size) for size in (1, 2, 3, 5, 64)}),
    "seal_digest": (
        run_seal_digest,
        {f"of_{size}": {"root": seal_root(digests(size)).hex(), "size": size} for size in (1, 3)},
    ),
    "seal_signatures": (
        run_seal_signatures,
        {f"of_{size}": {**batch(size), "root_signature": "ab" * 64} for size in (1, 2, 3, 7)},
    ),
    "verify": (
        run_verify,
        {
            "alone": shown(1, 0),
            "first_of_3": shown(3, 0),
            "last_of_3": shown(3, 2),
            "last_of_64": shown(64, 63),
            "of_another_message": shown(3, 0, digest=digests(4)[3].hex()),
            "of_another_signer": shown(3, 0, identity=OTHER.identity),
            "in_another_place": shown(3, 0, index="1"),
            "of_another_size": shown(3, 0, size="4"),
            "beyond_its_size": shown(3, 0, index="3"),
            "of_none": shown(1, 0, size="0"),
            "of_too_many": shown(64, 63, size="65"),
            "with_a_leading_zero": shown(3, 0, index="00"),
            "with_a_longer_path": shown(3, 0, path=PATH + PATH),
            "with_a_shorter_path": shown(3, 0, path=PATH[:43]),
            "with_a_padded_path": shown(3, 0, path=PATH + "=="),
            "with_other_spare_bits": shown(3, 0, path=PATH[:-1] + chr(ord(PATH[-1]) + 1)),
            "with_a_seal_as_signature": shown(3, 0, signature=seals(3)[0]),
            "with_junk_behind": shown(3, 0, signature=seals(3)[0].split(".", 4)[4] + "00"),
        },
    ),
}
