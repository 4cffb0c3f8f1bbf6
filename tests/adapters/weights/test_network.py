"""Addresses: what is public, what the operator named, and that the address looked at is the one dialled."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.weights.hub_server import Hub, gguf, running, sha
from tests.kit.test_tls import write_certificate

from penstock.adapters.errors import FileExposed
from penstock.adapters.weights.courier import Address, Courier, Deadlines, joined, shown
from penstock.adapters.weights.errors import AddressRefused, ReferenceInvalid, SourceRefused
from penstock.adapters.weights.fetch import Places
from penstock.adapters.weights.network import PublicSockets, authority_of, is_public
from penstock.adapters.weights.opening import WeightsSettings, open_weights
from penstock.kit.clock import SystemClock
from penstock.kit.errors import ConnectFailed

PRIVATE = [
    *("127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254"),
    *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "64:ff9b::7f00:1"),
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_known_in_every_dress(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_let_through(address: str) -> None:
    assert is_public(address)


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    loop = asyncio.get_running_loop()
    answers = ["1.1.1.1", "10.0.0.7"]

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in answers]

    original = loop.getaddrinfo
    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]  # the name service is played
    try:
        with pytest.raises(AddressRefused, match=r"10\.0\.0\.7"):
            await PublicSockets(frozenset()).connect("evil.example", 443, asyncio.Protocol)
    finally:
        loop.getaddrinfo = original  # type: ignore[method-assign]  # as it was


async def test_the_operators_own_mirror_is_dialled_at_its_port_only() -> None:
    async with running(Hub({})) as hub:
        authority = authority_of(hub.url)
        port = int(authority.rpartition(":")[2])
        own = PublicSockets(frozenset({authority}))
        transport, _ = await own.connect("127.0.0.1", port, asyncio.Protocol)
        transport.abort()
        with pytest.raises(AddressRefused):
            await own.connect("127.0.0.1", port + 1, asyncio.Protocol)
        with pytest.raises(AddressRefused):
            await own.connect("localhost", port, asyncio.Protocol)


async def test_the_address_is_dialled_and_the_certificate_held_against_the_name(
    tmp_path: Path,
) -> None:
    certificate = write_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(certificate.certificate_path))
    looked: list[str] = []

    def allowed(address: str) -> bool:
        looked.append(address)
        return True

    async with running(Hub({}), tls=certificate.context()) as hub:
        port = int(hub.url.rpartition(":")[2])
        sockets = PublicSockets(frozenset(), tls_context=trust, allowed=allowed)
        transport, _ = await sockets.connect("127.0.0.1", port, asyncio.Protocol, tls=True)
        assert transport.get_extra_info("peername")[:2] == ("127.0.0.1", port)
        transport.abort()
        with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
            await sockets.connect("localhost", port, asyncio.Protocol, tls=True)
    assert set(looked) <= {"127.0.0.1", "::1"}


async def test_a_name_that_is_not_there_is_a_failed_connection() -> None:
    courier = Courier(frozenset(), Deadlines())
    with pytest.raises(ConnectFailed):
        async with courier.open(Address("https://name.invalid/x")):
            raise AssertionError("it answered")
    await courier.close()


async def test_a_url_that_cannot_be_sent_is_refused() -> None:
    courier = Courier(frozenset({"h:80"}), Deadlines())
    with pytest.raises(SourceRefused, match="cannot be called"):
        async with courier.open(Address("http://h/a b")):
            raise AssertionError("it answered")


def test_urls_are_shown_without_what_is_secret() -> None:
    assert shown("https://u:p@h:1/a?X-Signature=s#f") == "https://h:1/a"
    assert len(shown("https://h/" + "a" * 1000)) == 300


def test_authorities_have_their_port_spelled_out() -> None:
    assert authority_of("https://H.example/x") == "h.example:443"
    assert authority_of("http://h:8080") == "h:8080"


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/b", "https://h/b"),
        ("b", "https://h/a/b"),
        ("//o/b", "https://o/b"),
        ("http://o/b", "http://o/b"),
        ("file:///b", None),
        ("data:x", None),
        ("https://u@o/b", None),
        ("https://[::1/b", None),
        ("https://o:0/b", None),
        ("https://o:x/b", None),
    ],
)
def test_a_target_is_read_from_where_we_are(target: str, wanted: str | None) -> None:
    assert joined("https://h/a/x", target) == wanted


MODEL = gguf(50_000)


async def test_a_cache_is_put_together_from_its_settings(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hf_abc-DEF.1\n")
    token.chmod(0o600)
    async with running(Hub({"a.gguf": MODEL})) as hub:
        settings = WeightsSettings(reserve_bytes=0, hub_endpoint=hub.url, hub_token_file=str(token))
        weights = open_weights(tmp_path / "weights", settings, clock=SystemClock())
        path = await weights.fetch("hf:acme/tiny@main/a.gguf", sha(MODEL))
        assert path.read_bytes() == MODEL
        sent = {request.header("authorization") for request in hub.requests}
        assert "Bearer hf_abc-DEF.1" in sent
        await weights.close()
    assert Places().hub == WeightsSettings().hub_endpoint


def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("two words\r\nHost: x")
    clock = SystemClock()

    def opened(**settings: Any) -> None:
        open_weights(tmp_path / "weights", WeightsSettings(**settings), clock=clock)

    with pytest.raises(FileExposed, match="chmod 600"):
        opened(hub_token_file=str(token))
    token.chmod(0o600)
    with pytest.raises(ReferenceInvalid, match="no token"):
        opened(hub_token_file=str(token))
    with pytest.raises(FileNotFoundError):
        opened(hub_token_file=str(tmp_path / "none"))
    for url in ("mirror", "ftp://m/", "https://u@m/", "https://"):
        with pytest.raises(ReferenceInvalid):
            opened(mirrors=(url,))
