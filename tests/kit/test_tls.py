"""TLS by certificate files."""

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.kit.world import HOST, echo, server_of

from penstock.kit.errors import ConnectFailed, WireError
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import SSE_HEADERS
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tls import Certificate, CertificateUnusable

DEADLINE_MS = 30_000


def write_certificate(folder: Path, *, passphrase: bytes = b"") -> Certificate:
    """A new key and a certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)  # OpenSSL looks at the real time
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    certificate = Certificate(folder / "cert.pem", folder / "key.pem")
    certificate.certificate_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    certificate.key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return certificate


def client_of(certificate: Certificate) -> HttpClient:
    """A client that trusts that certificate only."""
    return HttpClient(
        Sockets(tls_context=ssl.create_default_context(cafile=str(certificate.certificate_path)))
    )


async def test_requests_and_streams_go_over_tls(tmp_path: Path) -> None:
    def hot(exchange: Exchange) -> None:
        exchange.open_stream(200, SSE_HEADERS)
        exchange.write(exchange.request.body)
        exchange.close_stream(b"last")

    certificate = write_certificate(tmp_path)
    server = server_of(Sockets(), echo, hot={"/hot": hot})
    port = await server.start(HOST, 0, tls=certificate.context())
    client = client_of(certificate)
    base = f"https://{HOST}:{port}"
    body = b"x" * 500_000
    reply = await client.call("POST", f"{base}/a", body=body, deadline_ms=DEADLINE_MS)
    assert reply.body == body
    reply = await client.call("POST", f"{base}/hot", body=b"one", deadline_ms=DEADLINE_MS)
    assert reply.body == b"onelast"
    assert server.connections == 1
    with pytest.raises(ConnectFailed):  # somebody who does not trust it
        await HttpClient(Sockets()).call("GET", base, deadline_ms=DEADLINE_MS)
    await client.close()
    await server.close(0)


async def test_a_refusal_is_readable_over_tls(tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path)
    server = server_of(Sockets(), echo)
    port = await server.start(HOST, 0, tls=certificate.context())
    client = client_of(certificate)
    reply = await client.call(
        "GET", f"https://{HOST}:{port}/", headers=[("expect", "miracles")], deadline_ms=DEADLINE_MS
    )
    assert reply.status == 417
    await client.close()
    await server.close(0)


async def test_a_renewed_certificate_serves_new_connections_and_open_ones_go_on(
    tmp_path: Path,
) -> None:
    certificate = write_certificate(tmp_path)
    context = certificate.context()
    server = server_of(Sockets(), echo)
    port = await server.start(HOST, 0, tls=context)
    url = f"https://{HOST}:{port}/"
    old = client_of(certificate)
    await old.call("GET", url, deadline_ms=DEADLINE_MS)
    write_certificate(tmp_path)
    certificate.renew(context)
    new = client_of(certificate)
    await new.call("GET", url, deadline_ms=DEADLINE_MS)
    await old.call("GET", url, deadline_ms=DEADLINE_MS)
    assert server.connections == 2
    await old.close()
    await new.close()
    await server.close(0)


async def test_a_bad_renewal_leaves_what_was_served(tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path)
    context = certificate.context()
    client = client_of(certificate)
    server = server_of(Sockets(), echo)
    port = await server.start(HOST, 0, tls=context)
    certificate.key_path.write_text("half a key")
    with pytest.raises(CertificateUnusable):
        certificate.renew(context)
    await client.call("GET", f"https://{HOST}:{port}/", deadline_ms=DEADLINE_MS)
    await client.close()
    await server.close(0)


def test_files_that_cannot_be_served_are_named_with_what_to_do(tmp_path: Path) -> None:
    missing = Certificate(tmp_path / "no.pem", tmp_path / "no.key")
    locked = write_certificate(tmp_path, passphrase=b"secret")
    for certificate in (missing, locked):
        with pytest.raises(CertificateUnusable) as caught:
            certificate.context()
        assert str(certificate.key_path) in str(caught.value)
        assert "without a passphrase" in str(caught.value)
    other = tmp_path / "other"
    other.mkdir()
    first, second = write_certificate(tmp_path), write_certificate(other)
    with pytest.raises(CertificateUnusable):
        Certificate(first.certificate_path, second.key_path).context()


async def test_plain_bytes_at_a_tls_port_reach_no_handler(tmp_path: Path) -> None:
    seen: list[str] = []

    def hot(exchange: Exchange) -> None:
        seen.append(exchange.request.path)

    server = server_of(Sockets(), echo, hot={"/": hot})
    port = await server.start(HOST, 0, tls=write_certificate(tmp_path).context())
    client = HttpClient(Sockets())
    with pytest.raises(WireError):
        await client.call("POST", f"http://{HOST}:{port}/", deadline_ms=DEADLINE_MS)
    assert seen == []
    await client.close()
    await server.close(0)
