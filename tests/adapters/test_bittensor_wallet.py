"""A Bittensor hotkey as an owner: what is read, what is refused, and that no word holds the seed."""

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.bittensor_wallet import (
    WalletName,
    WalletNameInvalid,
    parse_wallet_name,
    read_hotkey,
)
from penstock.adapters.errors import FileExposed, KeyFileInvalid
from penstock.kit.keys import Sr25519Key, verify

SEED = bytes(range(1, 33))
IDENTITY = Sr25519Key(SEED).identity
PUBLIC = "0x" + IDENTITY.partition(":")[2]


def hotkey_file(path: Path, **changes: Any) -> Path:
    """As the wallet's own tool writes it, with changes; None leaves a field out."""
    held = {
        "accountId": PUBLIC,
        "publicKey": PUBLIC,
        "privateKey": "0x" + "ab" * 64,
        "secretPhrase": "twelve words that nobody should ever see in a log of ours",
        "secretSeed": "0x" + SEED.hex(),
        "ss58Address": "5Fake",
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: one for name, one in held.items() if one is not None}))
    path.chmod(0o600)
    return path


def test_a_hotkey_signs_as_its_public_key(tmp_path: Path) -> None:
    key = read_hotkey(hotkey_file(tmp_path / "miner"))
    assert key.identity == IDENTITY
    digest = bytes(32)
    assert verify(IDENTITY, digest, key.sign(digest))


def test_a_file_without_prefixes_and_public_key_is_read_too(tmp_path: Path) -> None:
    path = hotkey_file(tmp_path / "miner", secretSeed=SEED.hex(), publicKey=None)
    assert read_hotkey(path).identity == IDENTITY


@pytest.mark.parametrize("head", ["$NACL", "$ANSIBLE_VAULT;1.1;AES256\n", "gAAAAABk"])
def test_an_encrypted_hotkey_is_refused_with_what_to_do(tmp_path: Path, head: str) -> None:
    path = tmp_path / "miner"
    path.write_bytes(head.encode() + b"\x00\xff" * 64)
    path.chmod(0o600)
    with pytest.raises(KeyFileInvalid, match="unencrypted hotkey"):
        read_hotkey(path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"secretSeed": None}, "no secretSeed"),
        ({"secretSeed": "0x1234"}, "no secretSeed"),
        ({"secretSeed": "0x" + "zz" * 32}, "no secretSeed"),
        ({"secretSeed": 7}, "not the JSON of a hotkey"),
        ({"publicKey": "0x" + "11" * 32}, "does not give its public key"),
    ],
)
def test_what_cannot_be_used_is_refused_and_no_secret_is_told(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    path = hotkey_file(tmp_path / "miner", **changes)
    with pytest.raises(KeyFileInvalid, match=why) as caught:
        read_hotkey(path)
    told = f"{caught.value}{caught.value!r}{caught.value.__cause__}"
    assert SEED.hex() not in told
    assert "twelve words" not in told


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b"x" * 70_000])
def test_bytes_that_are_no_hotkey_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "miner"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(KeyFileInvalid):
        read_hotkey(path)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = hotkey_file(tmp_path / "miner")
    path.chmod(0o644)
    with pytest.raises(FileExposed):
        read_hotkey(path)


def test_a_name_leads_to_the_wallets_folder(tmp_path: Path) -> None:
    name = parse_wallet_name("bittensor:main/miner_1")
    assert name == WalletName("main", "miner_1")
    assert name.path(tmp_path) == tmp_path / "main" / "hotkeys" / "miner_1"


@pytest.mark.parametrize(
    "text",
    [
        "bittensor:",
        "bittensor:main",
        "bittensor:main/",
        "bittensor:/miner",
        "bittensor:../../etc/passwd",
        "bittensor:main/../secret",
        "bittensor:.hidden/x",
        "bittensor:a/b/c",
        "main/miner",
        "bittensor:a\n/b",
        "bittensor:" + "a" * 65 + "/b",
    ],
)
def test_no_name_leads_out_of_the_wallets_folder(text: str) -> None:
    with pytest.raises(WalletNameInvalid, match="bittensor:WALLET/HOTKEY"):
        parse_wallet_name(text)
