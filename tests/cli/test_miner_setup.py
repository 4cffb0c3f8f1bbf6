"""What `penstock miner up` makes of its options: identity, configuration, and refusals in words."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.adapters.test_bittensor_wallet import IDENTITY as HOTKEY
from tests.adapters.test_bittensor_wallet import hotkey_file
from tests.stations.miner.world import CHARTER, HARDWARE

from penstock.adapters.errors import KeyFileInvalid
from penstock.cli.errors import Stop
from penstock.cli.miner_config import MinerWish, agent_config, share_ppm, tunnel_mode
from penstock.cli.miner_home import MinerHome
from penstock.cli.miner_identity import DAY_MS, DELEGATED_MS, open_identity
from penstock.cli.miner_market import Found, check_gateway, is_loopback
from penstock.cli.miner_test import chute_names
from penstock.cli.miner_up import make_wish
from penstock.kit.keys import verify
from penstock.miner.config import MinerConfig, RuntimeKind, TunnelMode, parse_config
from penstock.miner.errors import ConfigInvalid
from penstock.spec.keys import Role, check_delegation, parse_signed
from penstock.spec.params import LOCAL
from penstock.spec.units import PPM

NOW = 1_800_000_000_000
FOUND = Found(
    gateway_url="https://gateway.example",
    market_url="https://market.example",
    operator=CHARTER.operator,
    params=LOCAL,
    skew_ms=0,
    has_tunnels=True,
    ledger_url="https://ledger.example",
    charter=CHARTER,
)
WISH = MinerWish(gateway=FOUND.gateway_url)


@pytest.fixture
def home(tmp_path: Path) -> MinerHome:
    made = MinerHome.at(str(tmp_path / "m"))
    made.make()
    return made


def configured(home: MinerHome, wish: MinerWish = WISH, found: Found = FOUND) -> MinerConfig:
    identity = open_identity(home, wish.identity, now_ms=NOW)
    value = agent_config(home, wish, found, identity=identity, hardware=HARDWARE)
    return parse_config(msgspec.json.encode(value), place="test")


def test_a_home_and_its_key_are_for_their_owner_only(home: MinerHome) -> None:
    first = open_identity(home, "", now_ms=NOW)
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert first.key_file.stat().st_mode & 0o777 == 0o600
    assert first.owner == first.key.identity
    assert first.delegation is None
    assert open_identity(home, "", now_ms=NOW).owner == first.owner


def test_another_key_file_can_be_named_and_must_be_there(home: MinerHome, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    with pytest.raises(Stop, match="there is no key"):
        open_identity(home, str(path), now_ms=NOW)
    path.write_text(json.dumps({"scheme": "ed25519", "seed": "07" * 32}))
    path.chmod(0o600)
    assert open_identity(home, str(path), now_ms=NOW).key_file == path
    assert not home.key_file.exists()


def test_a_hotkey_delegates_to_a_key_of_this_home_once(home: MinerHome, tmp_path: Path) -> None:
    wallets = tmp_path / "wallets"
    path = hotkey_file(wallets / "main" / "hotkeys" / "miner")
    one = open_identity(home, "bittensor:main/miner", now_ms=NOW, wallets=wallets)
    assert one.owner == HOTKEY
    assert one.delegation is not None
    granted = check_delegation(
        parse_signed(one.delegation), role=Role.MINER, now_ms=NOW, verify=verify
    )
    assert (granted.owner, granted.key) == (HOTKEY, one.key.identity)
    assert granted.not_after_ms == NOW + DELEGATED_MS
    assert home.delegation_file.stat().st_mode & 0o777 == 0o600
    path.unlink()  # the wallet goes to a safe place: the delegation is enough
    again = open_identity(home, "bittensor:main/miner", now_ms=NOW + DAY_MS, wallets=wallets)
    assert again.delegation == one.delegation
    with pytest.raises(Stop, match="there is no hotkey"):
        open_identity(home, "bittensor:main/miner", now_ms=NOW + DELEGATED_MS, wallets=wallets)


def test_a_delegation_that_ends_soon_is_signed_anew(home: MinerHome, tmp_path: Path) -> None:
    wallets = tmp_path / "wallets"
    hotkey_file(wallets / "main" / "hotkeys" / "miner")
    text = "bittensor:main/miner"
    first = open_identity(home, text, now_ms=NOW, wallets=wallets)
    same = open_identity(home, text, now_ms=NOW + DAY_MS, wallets=wallets)
    later = open_identity(home, text, now_ms=NOW + DELEGATED_MS - DAY_MS, wallets=wallets)
    assert first.delegation == same.delegation != later.delegation


def test_an_encrypted_hotkey_is_refused_and_nothing_is_left(
    home: MinerHome, tmp_path: Path
) -> None:
    path = tmp_path / "main" / "hotkeys" / "miner"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"$NACL" + os.urandom(64))
    path.chmod(0o600)
    with pytest.raises(KeyFileInvalid, match="encrypted"):
        open_identity(home, "bittensor:main/miner", now_ms=NOW, wallets=tmp_path)
    assert not home.delegation_file.exists()


def test_names_of_wallets_that_lead_elsewhere_are_refused(home: MinerHome) -> None:
    with pytest.raises(Stop, match="names no hotkey"):
        open_identity(home, "bittensor:../../x/y", now_ms=NOW)


def test_a_damaged_delegation_is_not_used(home: MinerHome, tmp_path: Path) -> None:
    wallets = tmp_path / "wallets"
    hotkey_file(wallets / "main" / "hotkeys" / "miner")
    text = "bittensor:main/miner"
    first = open_identity(home, text, now_ms=NOW, wallets=wallets)
    home.delegation_file.write_text(home.delegation_file.read_text().replace("miner", "market"))
    second = open_identity(home, text, now_ms=NOW, wallets=wallets)
    assert first.delegation is not None
    assert second.delegation is not None
    assert second.delegation["body"] == first.delegation["body"]
    signed = parse_signed(second.delegation)
    check_delegation(signed, role=Role.MINER, now_ms=NOW, verify=verify)


def test_the_configuration_says_what_was_asked_for(home: MinerHome) -> None:
    wish = replace(
        WISH,
        price="80",
        chutes=("tiny-chat", "minilm"),
        power_usd_per_kwh=0.25,
        power_watts=90,
        rent_usd_per_hour=1.5,
    )
    config = configured(home, wish)
    assert config.chutes == ("tiny-chat", "minilm")
    assert not config.auto
    assert (config.price_share_ppm, config.follow_target) == (800_000, False)
    assert config.costs.power_nano_per_kwh == 250_000_000
    assert config.costs.power_declared_mw == 90_000
    assert config.costs.rent_nano_per_hour == 1_500_000_000
    assert config.operator == FOUND.operator


def test_engines_in_containers_need_an_image_and_get_the_one_that_is_named(
    home: MinerHome,
) -> None:
    with pytest.raises(ConfigInvalid, match="images"):
        configured(home, replace(WISH, runtime="docker"))
    config = configured(home, replace(WISH, runtime="docker", image="p@sha256:1"))
    assert config.runtime is RuntimeKind.DOCKER
    assert config.image("llamacpp") == "p@sha256:1"


def test_automatic_is_automatic(home: MinerHome) -> None:
    config = configured(home)
    assert config.auto
    assert config.chutes == ()
    assert (config.price_share_ppm, config.follow_target) == (PPM, True)
    assert config.engine_threads == 1


@pytest.mark.parametrize("price", ["", "-1", "101", "1.5", "cheap", "1e9", "²", "0x10"])
def test_a_price_is_auto_or_percent(price: str) -> None:
    with pytest.raises(Stop, match="is no price"):
        share_ppm(price)


@pytest.mark.parametrize(
    ("endpoint", "has_tunnels", "gateway", "mode"),
    [
        ("", True, "https://gateway.example", TunnelMode.ONLY),
        ("http://me:1", True, "https://gateway.example", TunnelMode.BOTH),
        ("http://me:1", False, "https://gateway.example", TunnelMode.OFF),
        ("", True, "http://127.0.0.1:8400", TunnelMode.OFF),
        ("", False, "https://gateway.example", TunnelMode.OFF),
    ],
)
def test_how_gateways_reach_it_follows_from_what_there_is(
    home: MinerHome, endpoint: str, has_tunnels: bool, gateway: str, mode: TunnelMode
) -> None:
    found = replace(FOUND, gateway_url=gateway, has_tunnels=has_tunnels)
    wish = replace(WISH, endpoint=endpoint)
    assert tunnel_mode(wish, found) == mode.value
    assert configured(home, wish, found).tunnel.mode is mode


@pytest.mark.parametrize(
    "url", ["", "gateway.example", "ftp://x", "http://", "http://user:secret@gateway.example"]
)
def test_a_gateways_url_is_one(url: str) -> None:
    with pytest.raises(Stop, match="no gateway's URL"):
        check_gateway(url)


def test_the_url_that_clients_use_is_understood() -> None:
    assert check_gateway("https://g.example/v1") == "https://g.example"
    assert check_gateway("http://127.0.0.1:8400/") == "http://127.0.0.1:8400"
    assert is_loopback("http://localhost:1")
    assert not is_loopback("http://10.0.0.1:1")


def test_chutes_are_named_with_commas() -> None:
    assert chute_names("auto") == ()
    assert chute_names(" a, b ,a,") == ("a", "b")
    with pytest.raises(Stop, match="names nothing"):
        chute_names(" , ")


def told(**options: Any) -> dict[str, Any]:
    return {"chutes": None, "gateway": None, "price": None, **options}


def test_an_up_without_options_goes_on_as_the_last_one(home: MinerHome) -> None:
    first = make_wish(home, told(gateway="https://g.example/v1", price="70", chutes="a,b"))
    assert (first.gateway, first.chutes) == ("https://g.example", ("a", "b"))
    home.wish_file.write_text(json.dumps(first.plain()))
    assert make_wish(home, told()) == first
    assert make_wish(home, told(chutes="auto", price="auto")) == replace(
        first, chutes=(), price="auto"
    )


def test_a_wish_that_cannot_be_read_says_which_file(home: MinerHome) -> None:
    home.wish_file.write_text('{"gateway": "http://x", "port": "a door"}')
    with pytest.raises(Stop, match=r"up\.json"):
        make_wish(home, told())


def test_an_own_placement_is_tried_before_anything_starts(home: MinerHome, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    with pytest.raises(Stop, match="cannot be used"):
        make_wish(home, told(placement=str(path)))
    path.write_text("def choose(situation):\n    return None\n")
    path.chmod(0o600)
    assert make_wish(home, told(placement=str(path))).placement == str(path)
