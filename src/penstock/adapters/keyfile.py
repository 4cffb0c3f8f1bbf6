"""The working key of a station in a file: made on first use, readable by its owner only."""

import json
from pathlib import Path

import msgspec

from penstock.adapters.errors import KeyFileInvalid
from penstock.adapters.secret_file import load_or_create_secret
from penstock.kit.keys import SEED_BYTES, Ed25519Key
from penstock.kit.ports import Entropy


class KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    """What the file holds: `{"scheme": "ed25519", "seed": "<64 hex>"}`."""

    scheme: str
    seed: str


def load_or_create_key(path: Path, entropy: Entropy) -> Ed25519Key:
    """The key in `path`, made from `entropy` if there is no such file (two at once agree).

    Raises FileExposed (others can read it), KeyFileInvalid.
    """
    fresh = json.dumps({"scheme": Ed25519Key.scheme, "seed": entropy(SEED_BYTES).hex()})
    text = load_or_create_secret(path, fresh.encode() + b"\n")
    try:
        held = msgspec.json.decode(text, type=KeyFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # Not chained and not quoted: the text of the error could hold a part of the seed.
        why = f"it is not the JSON object it should be ({type(error).__name__})"
        raise KeyFileInvalid(path, why) from None
    if held.scheme != Ed25519Key.scheme:
        raise KeyFileInvalid(path, f"the scheme {held.scheme!r} is not {Ed25519Key.scheme!r}")
    try:
        seed = bytes.fromhex(held.seed)
    except ValueError:
        raise KeyFileInvalid(path, "the seed is not hexadecimal") from None
    if len(seed) != SEED_BYTES:
        raise KeyFileInvalid(path, f"the seed has {len(seed)} bytes instead of {SEED_BYTES}")
    return Ed25519Key(seed)
