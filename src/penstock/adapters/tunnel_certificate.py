"""A certificate for a tunnel port: made anew by every process, and in nobody's name.

Its key never leaves this process, but for the moment in which OpenSSL reads it from a file that only
we can read: the standard library takes keys from files only. Who we are is signed above TLS.
"""

import ssl
import tempfile
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "penstock-tunnel")])
# Nobody checks when it holds: the hello says that, and the process is its end.
FIRST_DAY = datetime(2020, 1, 1)  # noqa: DTZ001 -- x509 takes naive times as UTC
DAYS = 40_000


def tunnel_certificate() -> tuple[ssl.SSLContext, str]:
    """(what a tunnel port serves with, the SHA-256 of what it shows, in hex)."""
    key = generate_private_key(SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(FIRST_DAY)
        .not_valid_after(FIRST_DAY + timedelta(days=DAYS))
        .sign(key, SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # older ones bind less to the certificate
    context.num_tickets = 0  # nothing is resumed: every connection shows its certificate
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder) / "tunnel.pem"
        path.touch(mode=0o600)
        path.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context.load_cert_chain(path)
    return context, sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
