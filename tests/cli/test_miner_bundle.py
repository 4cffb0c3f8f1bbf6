"""A support bundle holds what helps and no secret: planted ones are looked for in all of its bytes."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties import in_full
from tests.stations.miner.world import HARDWARE

from penstock.adapters.keyfile import load_or_create_key
from penstock.cli.errors import Stop
from penstock.cli.miner_bundle import GONE, LOG_TAIL_BYTES, redacted, redacted_value, write_bundle
from penstock.cli.miner_checks import Examined
from penstock.cli.miner_home import MinerHome
from penstock.kit.hardware import Gpu
from penstock.miner.preflight import Finding, Mark

SEED = "5eed" * 16
PLANTED = {
    "seed": SEED,
    "prefixed seed": "0x" + SEED,
    "hub token": "hf_abcdefghijklmnopqrstuvwxyz012345",
    "api key": "sk-penstock-0123456789abcdef0123456789abcdef",
    "password in a URL": "hunter2hunter2",
    "bearer": "eyJhbGciOiJIUzI1NiJ9.payload.signature",
    "signed URL": "X-Amz-Signature=deadbeefcafe",
    "public address": "203.0.113.77",
    "v6 address": "2001:db8:85a3::8a2e:370:7334",
    "v6 in full": "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "network card": "00:1b:44:11:3a:b7",
    "phrase": "abandon ability able about above absent",
    "environment": "secret-of-the-engine",
    "user": "/home/alice/models",
}
LINES = f"""
engine: key={SEED} loaded
engine: token: {PLANTED["hub token"]}
fetch https://bob:{PLANTED["password in a URL"]}@mirror.example/sha256/ab
fetch https://hub.example/file?{PLANTED["signed URL"]}&X=1
asked with Authorization: Bearer {PLANTED["bearer"]}
asked with {PLANTED["api key"]}
dialled {PLANTED["public address"]}:8443 and [{PLANTED["v6 address"]}]:443 from {PLANTED["network card"]}
also {PLANTED["v6 in full"]} {PLANTED["prefixed seed"]}
secretPhrase="{PLANTED["phrase"]}"
opened {PLANTED["user"]}/x.gguf at 127.0.0.1:42041
-----BEGIN PRIVATE KEY-----
{SEED}
-----END PRIVATE KEY-----
INFO miner instance.ready instance=miner-1-1f5dde16
"""


@pytest.fixture
def home(tmp_path: Path) -> MinerHome:
    made = MinerHome.at(str(tmp_path / "m"))
    made.make()
    load_or_create_key(made.key_file, lambda _count: bytes.fromhex(SEED))
    config = {
        "name": "miner",
        "market_url": f"https://bob:{PLANTED['password in a URL']}@market.example",
        "engine_env": {"HF_TOKEN": PLANTED["environment"], "PATH": "/usr/bin"},
        "key_file": PLANTED["user"],
        "delegation": {"body": {"owner": "x"}, "signature": "ab" * 64},
        "weights": {"hub_token_file": PLANTED["user"], "quota_bytes": 5},
        "endpoint": f"http://{PLANTED['public address']}:9000",
    }
    made.config_file.write_text(json.dumps(config))
    made.wish_file.write_text(json.dumps({"gateway": f"http://{PLANTED['public address']}"}))
    made.log_file.write_text(LINES)
    (made.path / "engines" / "a").mkdir(parents=True)
    (made.path / "engines" / "a" / "worker.log").write_text(LINES)
    return made


def examined() -> Examined:
    card = Gpu(model="NVIDIA H100", uuid="GPU-5e41a1", memory_bytes=1, driver="570")
    finding = Finding("reach", Mark.OK, f"gateways dial http://{PLANTED['public address']}:9000")
    hardware = HARDWARE.__class__(
        kind="nvidia-h100", model="x", cores=2, memory_bytes=1, gpus=(card,), device="d" * 64
    )
    return Examined((finding,), hardware, None)


def texts(path: Path) -> dict[str, str]:
    with tarfile.open(path) as bundle:
        found = {}
        for one in bundle.getmembers():
            file = bundle.extractfile(one)
            assert file is not None
            found[one.name] = file.read().decode()
        return found


def test_no_planted_secret_is_in_the_bundle(home: MinerHome, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tgz"
    write_bundle(path, home, examined())
    found = texts(path)
    assert set(found) == {
        f"penstock-support/{name}"
        for name in (
            *("findings.json", "hardware.json", "versions.json", "config.json", "up.json"),
            *("logs/agent.log", "logs/engines_a_worker.log"),
        )
    }
    whole = "\n".join(found.values())
    for name, secret in PLANTED.items():
        assert secret not in whole, name
    for unique in ("GPU-5e41a1", "d" * 64, "alice", "hunter2", "bob"):
        assert unique not in whole, unique


def test_what_helps_is_in_it(home: MinerHome, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tgz"
    write_bundle(path, home, examined())
    found = texts(path)
    log = found["penstock-support/logs/agent.log"]
    assert "instance.ready instance=miner-1-1f5dde16" in log
    assert "127.0.0.1:42041" in log, "what is said of this very machine helps"
    assert "mirror.example" in log
    config = json.loads(found["penstock-support/config.json"])
    assert config["name"] == "miner"
    assert config["weights"]["quota_bytes"] == 5
    assert config["engine_env"] == {"HF_TOKEN": GONE, "PATH": GONE}
    assert "python" in json.loads(found["penstock-support/versions.json"])
    assert json.loads(found["penstock-support/hardware.json"])["gpus"][0]["driver"] == "570"


def test_only_its_owner_can_read_it(home: MinerHome, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tgz"
    path.write_bytes(b"an older one")
    path.chmod(0o644)
    write_bundle(path, home, examined())
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_long_log_is_cut_at_its_head(home: MinerHome, tmp_path: Path) -> None:
    home.log_file.write_text("first\n" + "x" * 100 + "\n" * (LOG_TAIL_BYTES + 10) + "last\n")
    write_bundle(tmp_path / "b.tgz", home, examined())
    log = texts(tmp_path / "b.tgz")["penstock-support/logs/agent.log"]
    assert "first" not in log
    assert log.endswith("last\n")


def test_a_home_without_anything_gives_a_bundle_too(tmp_path: Path) -> None:
    empty = MinerHome.at(str(tmp_path / "none"))
    write_bundle(tmp_path / "b.tgz", empty, examined())
    assert "penstock-support/findings.json" in texts(tmp_path / "b.tgz")


def test_a_place_that_cannot_be_written_is_said(home: MinerHome, tmp_path: Path) -> None:
    with pytest.raises(Stop, match="cannot write"):
        write_bundle(tmp_path / "none" / "b.tgz", home, examined())


@pytest.mark.parametrize(
    "text",
    [
        "identity ed25519:1f5dde167e35e7cb4e300807ac71ecfdc8e8838d87456f7ec192196e36f6509f",
        "order o-17 took 12 ms at 0.0.0.0:80",
        "release 1.2.3 of llama.cpp b4567",
        "tokens/s 17.5, prompt_tokens=21",
        "http://localhost:8400/v1/models",
    ],
)
def test_what_is_public_stays_readable(text: str) -> None:
    kept = redacted(text)
    assert text.split(maxsplit=1)[0] in kept
    assert kept.count("redacted") == 0, kept


@settings(max_examples=in_full(300))
@given(st.binary(min_size=32, max_size=64), st.text(max_size=20), st.text(max_size=20))
def test_a_key_in_hex_never_gets_through(key: bytes, before: str, after: str) -> None:
    assert key.hex() not in redacted(f"{before} {key.hex()} {after}")


def test_fields_are_redacted_by_their_names_at_any_depth() -> None:
    value = {"a": [{"hub_token": "t", "api_key": "k", "n": 1}], "password": "", "seed": None}
    assert redacted_value(value) == {
        "a": [{"hub_token": GONE, "api_key": GONE, "n": 1}],
        "password": "",
        "seed": None,
    }
    assert os.sep in str(redacted_value("/usr/bin"))
