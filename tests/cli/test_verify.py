"""verify from the outside: receipts and epochs, honest and tampered, with words and exit codes."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.stations import Stations, invoke
from tests.client.altered_files import edited
from tests.client.published_log import (
    FIRST_EPOCH_FILE,
    LAST,
    LOG_KEY,
    ORIGIN,
    PublishedLog,
    make_log,
)

from penstock.client.client import AsyncClient
from penstock.client.testing import FakeMarket
from penstock.spec.canon import canonical, parse, to_plain
from penstock.spec.entries import EntryKind

OTHER_KEY = "ed25519:" + "ab" * 32
FIRST_SEGMENT = FIRST_EPOCH_FILE.replace("epoch.json", "segment.parquet")


@functools.cache
def published() -> dict[str, bytes]:
    """A small market's files. Its people sign with toy keys, which no real verifier accepts."""
    return asyncio.run(make_log()).published


@functools.cache
def receipt_text() -> str:
    """A receipt document with real keys, logged in a log of three records."""

    async def make() -> str:
        market = FakeMarket({"m": "Water turns the wheel."})
        log = PublishedLog()
        async with AsyncClient("http://fake", "sk-x", market) as client:
            for _ in range(3):
                await client.chat("m", "Hi")
        for order_id, record in market.receipts.items():
            log.append(EntryKind.RECORD, order_id, to_plain(record))
        logged = log.log.entries_[1]
        proven = await log.notary.prove((logged.seq,), log.log.frontier)
        return json.dumps(
            {
                "record": parse(logged.leaf)["body"],
                "seq": logged.seq,
                "checkpoint": proven.checkpoint,
                "size": proven.size,
                "proof": [sibling.hex() for sibling in proven.proofs[0]],
            }
        )

    return asyncio.run(make())


def receipt(**changes: Any) -> str:
    return json.dumps({**json.loads(receipt_text()), **changes})


def folder(home: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = home / "public" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return home


def operator_file(**changes: Any) -> bytes:
    return canonical({**parse(published()["operator.json"]), **changes})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose operator is known."""
    return folder(tmp_path / "home", {"operator.json": operator_file()})


def check(home: Path, document: str, *arguments: str, options: tuple[str, ...] = ()) -> Any:
    """`penstock verify receipt` with the document on standard input."""
    return invoke(
        "verify", "--home", str(home), *options, "receipt", "-", *arguments, input=document
    )


def test_a_receipt_in_the_log_is_valid_with_who_signed_it(home: Path) -> None:
    result = check(home, receipt())
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "valid"
    assert any(line.startswith("signed    receipt by ed25519:") for line in lines)
    assert lines[-1] == f"log       entry 1 of 3 in {ORIGIN}, checkpoint signed"


def test_json_says_what_was_checked(home: Path, tmp_path: Path) -> None:
    found = json.loads(check(home, receipt(), "--json").stdout)
    assert (found["verdict"], found["outcome"]) == ("valid", "complete")
    assert (found["logged"], found["seq"], found["log_size"]) == (True, 1, 3)
    assert found["log_checked"] is True
    assert 0 < found["charge_nano"] <= found["charge_max"]
    unknown = json.loads(check(tmp_path / "nowhere", receipt(), "--json").stdout)
    assert unknown["log_checked"] is False


def test_without_a_home_the_logs_key_is_unknown_and_this_is_said(tmp_path: Path) -> None:
    result = check(tmp_path / "nowhere", receipt())
    assert result.exit_code == 0
    assert "log key unknown: use --operator URL" in result.stdout


def test_a_receipt_that_is_not_logged_yet_says_to_come_again(home: Path) -> None:
    record = json.loads(receipt_text())["record"]
    result = check(home, json.dumps({"record": record, "seq": -1}))
    assert result.exit_code == 0
    assert "not logged yet" in result.stdout


def test_the_receipt_may_be_a_file(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(receipt())
    assert invoke("verify", "--home", str(home), "receipt", str(path)).exit_code == 0
    missing = invoke("verify", "--home", str(home), "receipt", str(tmp_path / "none.json"))
    assert missing.exit_code == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 2},
        {"size": 4},
        {"proof": []},
        {"proof": ["00" * 32]},
        {"checkpoint": ""},
        {"checkpoint": "[bold]\x1b[2J"},
        {"record": {}},
    ],
)
def test_a_receipt_that_does_not_hold_is_invalid_with_its_reason(
    home: Path, changes: dict[str, Any]
) -> None:
    result = check(home, receipt(**changes))
    assert result.exit_code == 1
    assert result.stderr.startswith("invalid: ")
    assert "\x1b" not in result.output
    assert result.stdout == ""
    found = json.loads(check(home, receipt(**changes), "--json").stdout)
    assert found["verdict"] == "invalid"
    assert found["reason"]


def test_a_charge_that_was_changed_is_invalid(home: Path) -> None:
    document = json.loads(receipt_text())
    document["record"]["countersign"]["body"]["charge_nano"] += 1
    assert check(home, json.dumps(document)).exit_code == 1


def test_a_receipt_in_the_log_of_another_operator_is_invalid(tmp_path: Path) -> None:
    other = folder(tmp_path, {"operator.json": operator_file(log_key=OTHER_KEY)})
    assert check(other, receipt()).exit_code == 1
    renamed = folder(tmp_path, {"operator.json": operator_file(origin="elsewhere")})
    assert check(renamed, receipt()).exit_code == 1


def test_a_log_key_given_by_hand_must_be_the_operators(home: Path) -> None:
    assert check(home, receipt(), options=("--log-key", LOG_KEY.identity)).exit_code == 0
    result = check(home, receipt(), options=("--log-key", OTHER_KEY))
    assert result.exit_code == 1
    assert "another key" in result.stderr
    assert LOG_KEY.identity in result.stderr


def test_an_operator_of_an_unknown_network_is_told(tmp_path: Path) -> None:
    strange = folder(tmp_path, {"operator.json": operator_file(network="mars")})
    result = check(strange, receipt())
    assert result.exit_code == 1
    assert "'mars' is unknown here" in result.stderr


def test_the_operator_may_be_asked_over_http(stations: Stations, tmp_path: Path) -> None:
    stations.answers["GET", "/files/operator.json"] = operator_file()
    result = check(tmp_path, receipt(), options=("--operator", stations.url))
    assert result.exit_code == 0
    assert "checkpoint signed" in result.stdout


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "ftp://x", "http://[::1"])
def test_an_operator_that_cannot_be_reached_has_its_own_exit_code(tmp_path: Path, url: str) -> None:
    result = check(tmp_path, receipt(), options=("--operator", url))
    assert result.exit_code == 4
    assert "does not answer" in result.stderr


def test_an_operator_without_files_has_published_nothing(
    stations: Stations, tmp_path: Path
) -> None:
    result = check(tmp_path, receipt(), options=("--operator", stations.url))
    assert result.exit_code == 4
    assert "operator.json is not published" in result.stderr


def test_a_failing_ledger_is_no_difference(stations: Stations, tmp_path: Path) -> None:
    stations.says("/files/operator.json", {"error": {}}, status=500)
    result = check(tmp_path, receipt(), options=("--operator", stations.url))
    assert result.exit_code == 4
    assert "status 500" in result.stderr


@pytest.mark.parametrize("text", ["", "{", "\x00", '"\\ud800"', "[" * 100_000])
def test_what_is_no_json_is_told(home: Path, text: str) -> None:
    result = check(home, text)
    assert result.exit_code == 1
    assert "invalid" in result.stderr or "not JSON" in result.stderr


def audit(home: Path, epoch: int = LAST, *options: str) -> Any:
    return invoke("verify", "--epoch", str(epoch), "--home", str(home), *options)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("operator.json", "operator.json"),
        (FIRST_EPOCH_FILE, FIRST_EPOCH_FILE),
        (FIRST_SEGMENT, "segment"),
        (f"epochs/{LAST:08d}/outcome.json", f"epochs/{LAST:08d}"),
    ],
)
def test_a_changed_byte_is_a_difference_at_its_place(tmp_path: Path, name: str, where: str) -> None:
    """Whatever comes first, the exit code is 1 and both values are told, or it is not published."""
    files = dict(published())
    data = bytearray(files[name])
    data[len(data) // 2] ^= 1
    result = audit(folder(tmp_path, {**files, name: bytes(data)}))
    assert result.exit_code == 1
    assert "DIFFERENT at" in result.stderr
    assert "published:" in result.stderr
    assert "recomputed:" in result.stderr
    assert result.stdout == ""
    if name != f"epochs/{LAST:08d}/outcome.json":
        assert where in result.stderr


def test_a_forged_count_is_named(tmp_path: Path) -> None:
    files = edited(published(), FIRST_EPOCH_FILE, lambda about: about.update(count=1))
    result = audit(folder(tmp_path, files))
    assert result.exit_code == 1
    assert f"{FIRST_EPOCH_FILE}: count" in result.stderr
    assert "published:  1" in result.stderr


def test_keys_that_only_a_simulator_accepts_prove_nothing_here(tmp_path: Path) -> None:
    result = audit(folder(tmp_path, published()))
    assert result.exit_code == 1
    assert "DIFFERENT at" in result.stderr


def test_an_epoch_under_another_log_key_is_refused(tmp_path: Path) -> None:
    result = audit(folder(tmp_path, published()), LAST, "--log-key", OTHER_KEY)
    assert result.exit_code == 1
    assert "DIFFERENT" in result.stderr


@pytest.mark.parametrize("epoch", [0, -1, LAST + 1, 10**9])
def test_an_epoch_that_was_never_published_has_its_own_exit_code(
    tmp_path: Path, epoch: int
) -> None:
    result = audit(folder(tmp_path, published()), epoch)
    assert result.exit_code == 4
    assert "penstock scores tells the newest settled epoch" in result.stderr


def test_a_file_that_is_missing_is_named_as_not_published(tmp_path: Path) -> None:
    missing = f"epochs/{LAST:08d}/epoch.json"
    files = {name: data for name, data in published().items() if name != missing}
    result = audit(folder(tmp_path, files))
    assert result.exit_code == 4
    assert f"{missing} is not published" in result.stderr


def test_the_same_tampering_is_found_over_http(stations: Stations, tmp_path: Path) -> None:
    files = edited(published(), FIRST_EPOCH_FILE, lambda about: about.update(count=1))
    for name, data in files.items():
        stations.answers["GET", f"/files/{name}"] = data
    result = audit(tmp_path, LAST, "--operator", f"{stations.url}/")
    assert result.exit_code == 1
    assert f"{FIRST_EPOCH_FILE}: count" in result.stderr


def test_what_an_operator_publishes_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = operator_file(log_key="ed25519:\x1b[2J[/red]")
    result = audit(folder(tmp_path, {**published(), "operator.json": evil}))
    assert result.exit_code == 1
    assert "\x1b" not in result.output
