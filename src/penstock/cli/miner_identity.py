"""Whose miner it is: a key file of this home, another one, or a Bittensor hotkey that delegates to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.adapters.bittensor_wallet import (
    PREFIX,
    WALLETS,
    WalletNameInvalid,
    parse_wallet_name,
    read_hotkey,
)
from penstock.adapters.keyfile import load_or_create_key
from penstock.cli.errors import Stop
from penstock.cli.home import read_json, write_json
from penstock.cli.miner_home import MinerHome
from penstock.cli.world import ENTROPY
from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.canon import to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Delegation, Role, check_delegation, parse_signed, sign

DAY_MS = 86_400_000
DELEGATED_MS = 180 * DAY_MS
RENEW_MS = 30 * DAY_MS
"""A delegation that ends sooner is signed anew while the hotkey is at hand."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`owner` is the key's own identity, or that of the hotkey that delegated to it."""

    key: Ed25519Key
    key_file: Path
    owner: str
    delegation: dict[str, Any] | None


def open_identity(home: MinerHome, text: str, *, now_ms: int, wallets: Path = WALLETS) -> Identity:
    """`text` is "" (the home's own key), a key file, or bittensor:WALLET/HOTKEY.

    Raises Stop, FileExposed, KeyFileInvalid.
    """
    if not text.startswith(PREFIX):
        path = Path(text).expanduser().resolve() if text else home.key_file
        if text and not path.exists():
            raise Stop(
                f"there is no key in {path}", then="leave --identity out and one is made for you"
            )
        key = load_or_create_key(path, ENTROPY)
        return Identity(key, path, key.identity, None)
    key = load_or_create_key(home.key_file, ENTROPY)
    try:
        path = parse_wallet_name(text).path(wallets)
    except WalletNameInvalid as error:
        raise Stop(str(error)) from error
    held = _held(home, key.identity, now_ms=now_ms)
    try:
        hotkey = read_hotkey(path)
    except FileNotFoundError as error:
        if held is not None:  # the wallet may be kept elsewhere once it has signed
            return Identity(key, home.key_file, str(held["body"]["owner"]), held)
        raise Stop(
            f"there is no hotkey {text.removeprefix(PREFIX)}",
            why=f"{path} is not there",
            then="btcli wallet list (names), or leave --identity out",
        ) from error
    if held is None or held["body"]["owner"] != hotkey.identity:
        granted = Delegation(hotkey.identity, key.identity, Role.MINER, now_ms + DELEGATED_MS)
        held = to_plain(sign("delegation", granted, hotkey))
        write_json(home.delegation_file, held, mode=0o600)
    return Identity(key, home.key_file, hotkey.identity, held)


def _held(home: MinerHome, key: str, *, now_ms: int) -> dict[str, Any] | None:
    """The delegation of this home to this key, if it holds for a while yet."""
    value = read_json(home.delegation_file)
    if not value:
        return None
    try:
        signed = parse_signed(value)
        found = check_delegation(signed, role=Role.MINER, now_ms=now_ms + RENEW_MS, verify=verify)
    except SpecError:
        return None
    return value if found.key == key else None
