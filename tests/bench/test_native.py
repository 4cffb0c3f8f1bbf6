"""The two C programs of the gateway's bench: their hashes, their receipts, their counting."""

import hashlib
import hmac
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench.gateway import workloads
from bench.gateway.native import program
from bench.gateway.processes import cores
from bench.gateway.targets import Target
from bench.gateway.upstream import upstream
from tests.makers import make_order

from penstock.kit.handshake import receipt_mac, split_vouched
from penstock.kit.spell import read_receipt, spell, spell_digest
from penstock.spec.canon import decode
from penstock.spec.messages import Order
from penstock.spec.receipts import charge_for, check_account
from penstock.spec.stream import Checkpoint

KEY = bytes(range(32))
LENGTHS = (0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000, 70_001)
ANSWER = b'data: {"choices":[]}\n\ndata: [DONE]\n\n'


def check(*words: str, data: bytes) -> bytes:
    """What the C code says."""
    done = subprocess.run(
        [program("check"), *words], input=data, capture_output=True, timeout=20, check=True
    )
    return done.stdout


@pytest.mark.parametrize("length", LENGTHS)
def test_sha256_in_c_is_pythons_however_the_data_is_cut(length: int) -> None:
    data = bytes(index * 31 % 251 for index in range(length))
    assert check("sha256", data=data).decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("tag", ["order", "receipt"])
def test_hmac_in_c_is_pythons(tag: str) -> None:
    digest = hashlib.sha256(b"what is vouched for").digest()
    expected = hmac.digest(KEY, tag.encode() + b"\0" + digest, "sha256").hex()
    assert check("hmac", KEY.hex(), tag, data=b"what is vouched for").decode() == expected


def orders() -> list[Order]:
    order = make_order()
    dear = replace(order.price, request=12_345, prompt=999_999, completion=1_000_001)
    return [order, replace(order, price=dear), replace(order, charge_max=1), replace(order, seed=0)]


@pytest.mark.parametrize("order", orders())
def test_a_receipt_made_in_c_is_one_the_law_accepts(order: Order) -> None:
    said = check("receipt", KEY.hex(), data=spell(order) + b"\n" + ANSWER)
    vouched = split_vouched(said.split(b"\n")[0])
    assert vouched is not None
    body, mac = vouched
    receipt = read_receipt(body)
    check_account(receipt, order, order_digest=spell_digest("order", order).hex())
    assert mac == receipt_mac(KEY, spell_digest("receipt", receipt))
    assert receipt.charge_nano == charge_for(order, receipt.units)
    assert receipt.response_digest == hashlib.sha256(ANSWER).hexdigest()
    assert (receipt.response_bytes, receipt.events) == (len(ANSWER), 3)


def test_a_checkpoint_made_in_c_is_spelled_and_hashed_by_the_law() -> None:
    order = make_order()
    said = check("receipt", KEY.hex(), data=spell(order) + b"\n" + ANSWER).split(b"\n")
    checkpoint = decode(Checkpoint, said[1])
    assert said[2].decode() == spell_digest("checkpoint", checkpoint).hex()
    assert checkpoint.order_digest == spell_digest("order", order).hex()
    assert checkpoint.digest == hashlib.sha256(ANSWER).hexdigest()


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[Target]:
    """The upstream by itself."""
    with upstream(tmp_path, cores(), is_miner=False) as (port, pid):
        yield Target("direct", "", port, (pid,))


def test_every_request_of_the_load_is_answered(mock: Target, tmp_path: Path) -> None:
    one = workloads.Workload("chat", connections=8, chunks=0, interval_us=0, seconds=1)
    seen = workloads.run(one, mock, folder=tmp_path, cores=cores())
    assert seen.requests > 0
    assert (seen.errors, seen.chunks, seen.cut) == (0, 0, 0)


def test_every_chunk_of_a_stream_is_counted(mock: Target, tmp_path: Path) -> None:
    one = workloads.Workload("fast", connections=4, chunks=100, interval_us=0, seconds=1)
    seen = workloads.run(one, mock, folder=tmp_path, cores=cores())
    assert seen.chunks == 100 * seen.requests > 0
    assert (seen.errors, seen.lost, seen.cut) == (0, 0, 0)


def test_paced_streams_are_all_open_while_their_delays_are_taken(
    mock: Target, tmp_path: Path
) -> None:
    said: list[bool] = []
    one = workloads.paced(0.5, streams=10)
    seen = workloads.run(
        one, mock, folder=tmp_path, cores=cores(), on_steady=lambda: said.append(True)
    )
    assert said == [True]
    assert (seen.requests, seen.errors, seen.lost) == (10, 0, 0)
    assert seen.chunks == 10 * one.chunks
    assert seen.steady_due == 10 * 25
    assert 0 < seen.steady_chunks <= seen.chunks
    assert 0 < seen.delay_p50_us <= seen.delay_p99_us


def test_an_upstream_that_dies_is_counted_as_errors_not_as_answers(
    mock: Target, tmp_path: Path
) -> None:
    one = workloads.Workload("fast", connections=4, chunks=100_000, interval_us=1000, seconds=1)
    words = [*one.words(), f"port={mock.port}", f"request={tmp_path / 'request'}"]
    request = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b"
    body = json.dumps({"stream": True, "plan": "bench:100000:1000;"}).encode()
    (tmp_path / "request").write_bytes(request % (len(body), body))
    with subprocess.Popen([program("load"), *words], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        os.kill(mock.pids[0], signal.SIGKILL)
        told = json.loads(child.stdout.read())
    assert told["requests"] == 0
    assert told["errors"] > 0


def test_a_word_the_load_does_not_know_is_refused_by_name() -> None:
    done = subprocess.run(
        [program("load"), "conections=4"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "conections" in done.stderr
