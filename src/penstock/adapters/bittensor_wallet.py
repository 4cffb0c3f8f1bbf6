"""A Bittensor wallet's hotkey as the owner of a miner: read from its key file, used once to sign.

The file is the JSON that the wallet's own tool writes (`~/.bittensor/wallets/NAME/hotkeys/HOTKEY`). Only
unencrypted hotkeys are read: there is nobody to type a password when a miner starts. The seed is used
for the delegation to the working key, then forgotten; nothing of it is kept or logged.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.adapters.errors import KeyFileInvalid
from penstock.adapters.secret_file import read_secret
from penstock.kit.keys import SEED_BYTES, Sr25519Key

WALLETS = Path("~/.bittensor/wallets")
PREFIX = "bittensor:"
FILE_BYTES_MAX = 65_536
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
ENCRYPTED = (b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")
"""How encrypted key files of the wallet's releases begin."""
HEX = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class WalletName:
    """`bittensor:WALLET/HOTKEY`."""

    wallet: str
    hotkey: str

    def path(self, wallets: Path = WALLETS) -> Path:
        """Its key file."""
        return wallets.expanduser() / self.wallet / "hotkeys" / self.hotkey


class WalletNameInvalid(ValueError):
    """It does not name a hotkey."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:100]!r} names no hotkey: write bittensor:WALLET/HOTKEY")


class HotkeyFile(msgspec.Struct):
    """What we read of the file; it may hold more."""

    secret_seed: str | None = msgspec.field(default=None, name="secretSeed")
    public_key: str | None = msgspec.field(default=None, name="publicKey")


def parse_wallet_name(text: str) -> WalletName:
    """Raises WalletNameInvalid; no name leads out of the wallets' folder."""
    wallet, slash, hotkey = text.removeprefix(PREFIX).partition("/")
    is_named = text.startswith(PREFIX) and slash
    if not is_named or NAME.fullmatch(wallet) is None or NAME.fullmatch(hotkey) is None:
        raise WalletNameInvalid(text)
    return WalletName(wallet, hotkey)


def read_hotkey(path: Path) -> Sr25519Key:
    """The hotkey in this file. Raises FileNotFoundError, FileExposed (others can read it), and
    KeyFileInvalid: encrypted, without its seed, or not what it says it is.
    """
    data = read_secret(path)
    if len(data) > FILE_BYTES_MAX:
        raise KeyFileInvalid(path, "it is too large for a key file")
    if data.startswith(ENCRYPTED):
        raise KeyFileInvalid(
            path,
            "the hotkey is encrypted, and a miner has nobody to type its password. Make an "
            "unencrypted hotkey for this miner (btcli wallet new-hotkey), keep the coldkey encrypted",
        )
    try:
        held = msgspec.json.decode(data, type=HotkeyFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # Not chained and not quoted: the text of the error could hold a part of the seed.
        raise KeyFileInvalid(
            path, f"it is not the JSON of a hotkey ({type(error).__name__})"
        ) from None
    seed = HEX.fullmatch(held.secret_seed or "")
    if seed is None:
        raise KeyFileInvalid(
            path,
            "it holds no secretSeed of 32 bytes: it may be a public part only, or one that was "
            "imported as a private key. Make a new hotkey (btcli wallet new-hotkey)",
        )
    key = Sr25519Key(bytes.fromhex(seed[1]))
    public = HEX.fullmatch(held.public_key or "")
    assert len(seed[1]) == 2 * SEED_BYTES, "the pattern takes no other length"
    if public is not None and f"{key.scheme}:{public[1].lower()}" != key.identity:
        raise KeyFileInvalid(path, "its seed does not give its public key")
    return key
