"""What strangers send to a running market's front door: refused in words, counted, never fatal."""

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest
from tests.e2e.market import RunningMarket
from tests.e2e.meters import counted, memory_max_bytes

from penstock.adapters.keyfile import load_or_create_key
from penstock.spec.accounts import AccountOpening
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign

CHAT = "/v1/chat/completions"
HELLO = {"role": "user", "content": "Hello!"}
MIB = 1 << 20
SOCKET_DEADLINE_S = 60
SMUGGLED = (
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
)
POOR_KEY = "sk-penstock-" + "0" * 48


@pytest.fixture(autouse=True)
def nobody_dies(market: RunningMarket) -> Iterator[None]:
    """The same processes run before and after, and the market answers."""
    before = market.pids()
    yield
    assert market.chat("Hello!").status_code == 200
    assert market.pids() == before


def envelope(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of a refusal, whose shape every OpenAI client knows."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"]
    return dict(error)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"not json", "invalid_json"),
        (b'{"model": "\xff", "messages": []}', "invalid_json"),
        (b'{"x": ' + b"[" * 100_000, "invalid_json"),
        (b"[" * 100_000, "invalid_request"),
        (b"null", "invalid_request"),
        (b"[]", "invalid_request"),
        (b"{}", "invalid_request"),
        (b'{"model": "tiny-chat"}', "invalid_request"),
        (b'{"model": 7, "messages": []}', "invalid_request"),
        (b'{"model": "tiny-chat", "messages": {"role": "user"}}', "invalid_request"),
        (b'{"model": "tiny-chat", "messages": [{"content": "x"}]}', "invalid_request"),
        (b'{"model":"tiny-chat","messages":[{"role":"user"}],"max_tokens":-1}', "invalid_request"),
        (b'{"model":"tiny-chat","messages":[{"role":"user"}],"n":1e99}', "invalid_request"),
    ],
)
def test_a_body_that_is_no_request_is_refused_and_counted(
    market: RunningMarket, body: bytes, code: str
) -> None:
    series = f'gateway_requests_total{{outcome="{code}"}}'
    before = counted(market.gateway, series)
    envelope(market.ask(CHAT, body), 400, code)
    assert counted(market.gateway, series) > before


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize("station", ["gateway", "ledger", "market", "miner-1"])
def test_an_oversize_body_is_cut_and_does_not_fill_the_memory(
    market: RunningMarket, station: str, *, is_chunked: bool
) -> None:
    series, url = 'http_refused_total{status="413"}', market.url(station)
    before, pid = counted(url, series), market.pid(station)
    memory_bytes = memory_max_bytes(pid)
    path = {"gateway": CHAT, "miner-1": CHAT, "ledger": "/v1/claims", "market": "/v1/offers"}
    framing = "transfer-encoding: chunked" if is_chunked else f"content-length: {256 * MIB}"
    with connected(url) as link:
        head = f"POST {path[station]} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n"
        link.sendall(head.encode())
        pour(link, 256, is_chunked=is_chunked)
        answer = read_all(link)
    assert answer.startswith(b"HTTP/1.1 413"), answer[:200]
    assert b'"body_too_large"' in answer
    assert counted(url, series) > before
    assert memory_max_bytes(pid) - memory_bytes < 64 * MIB


def test_a_slow_sender_is_cut(market: RunningMarket) -> None:
    """Slow: a request's head may take 10 s."""
    series = 'http_refused_total{status="408"}'
    before = counted(market.gateway, series)
    with connected(market.gateway) as link:
        link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: ")
        answer = read_all(link)
    assert answer.startswith(b"HTTP/1.1 408"), answer[:200]
    assert counted(market.gateway, series) > before


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400),
        (SMUGGLED, 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /nothing/here HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
        (b"PUT /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 405),
    ],
    ids=["TLS", "version", "negative", "two lengths", "smuggled", "big head", "path", "method"],
)
def test_bytes_that_are_no_request_are_refused_by_every_station(
    market: RunningMarket, request_bytes: bytes, status: int
) -> None:
    for station in ("gateway", "ledger", "market", "miner-1"):
        with connected(market.url(station)) as link:
            link.sendall(request_bytes)
            answer = read_all(link)
        assert answer.startswith(b"HTTP/1.1 %d" % status), (station, answer[:200])


def test_an_unknown_model_and_a_chute_of_another_kind_are_told_apart(market: RunningMarket) -> None:
    series = 'gateway_requests_total{outcome="model_not_found"}'
    before = counted(market.gateway, series)
    for model in ("gpt-9", "tiny-chat@sha256:" + "0" * 64, "sha256:" + "f" * 64, "../../etc", ""):
        body = {"model": model, "messages": [HELLO]}
        reply = market.ask(CHAT, body)
        assert reply.status_code in {400, 404}, reply.text
        assert reply.json()["error"]["code"] in {"model_not_found", "invalid_request"}
    assert counted(market.gateway, series) > before
    wrong = market.ask("/v1/embeddings", {"model": "tiny-chat", "input": "Hello!"})
    assert "tiny-chat" in envelope(wrong, 400, "invalid_request")["message"]


def test_a_bad_key_is_refused_in_words_and_never_repeated(market: RunningMarket) -> None:
    series = 'gateway_requests_total{outcome="invalid_api_key"}'
    before = counted(market.gateway, series)
    keys = ("none", "sk-wrong", "sk-penstock-" + "f" * 48, "sk-penstock-" + "x" * 10_000)
    for key in keys:
        reply = market.ask(CHAT, {"model": "tiny-chat", "messages": [HELLO]}, key=key)
        error = envelope(reply, 401, "invalid_api_key")
        assert key == "none" or key not in error["message"]
    assert counted(market.gateway, series) >= before + len(keys)
    assert market.ask("/v1/balance", key="sk-penstock-" + "f" * 48).status_code == 401


def test_an_account_without_money_is_told_what_is_missing(market: RunningMarket) -> None:
    series = 'gateway_requests_total{outcome="insufficient_funds"}'
    before = counted(market.gateway, series)
    opening = AccountOpening(
        account="poor",
        key_hash=hashlib.sha256(POOR_KEY.encode()).hexdigest(),
        credit_nano=10,
        opening_id="poor/1",
    )
    operator = load_or_create_key(market.home / "keys" / "operator.json", bytes)
    signed = to_plain(sign("account", opening, operator))
    with httpx.Client(timeout=30) as client:
        opened = client.post(f"{market.url('ledger')}/v1/accounts", json=signed)
        assert opened.json() == {"account": "poor", "available_nano": 10}
    body = {"model": "tiny-chat", "messages": [HELLO], "max_tokens": 100}
    for stream in (False, True):
        reply = market.ask(CHAT, {**body, "stream": stream}, key=POOR_KEY)
        error = envelope(reply, 402, "insufficient_funds")
        assert "may cost up to $0.0000" in error["message"], "it says what is needed"
        assert "$0.00000001 available" in error["message"]
    assert counted(market.gateway, series) >= before + 2
    balance = market.ask("/v1/balance", key=POOR_KEY).json()
    assert balance["available_nano"] + balance["held_nano"] == 10


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A bare connection to a station."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=SOCKET_DEADLINE_S) as link:
        yield link


def pour(link: socket.socket, mib: int, *, is_chunked: bool) -> None:
    """Send so many MiB, or as many as the other side takes."""
    block = b"a" * MIB
    if is_chunked:
        block = b"%x\r\n%s\r\n" % (MIB, block)
    try:
        for _ in range(mib):
            link.sendall(block)
    except OSError:
        return  # it has heard enough


def read_all(link: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := link.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass  # what came before it counts
    return b"".join(parts)


def test_the_error_envelope_is_json_and_the_connection_goes_on(market: RunningMarket) -> None:
    with httpx.Client(timeout=30, headers={"authorization": f"Bearer {market.api_key}"}) as client:
        for _ in range(3):
            reply = client.post(market.gateway + CHAT, content=b"{")
            assert reply.headers["content-type"].startswith("application/json")
            assert json.loads(reply.content)["error"]["type"] == "invalid_request_error"
        assert client.get(market.gateway + "/v1/models").status_code == 200
