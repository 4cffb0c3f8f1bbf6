"""A server's certificate, read from files, and read again when it was renewed."""

import ssl
from dataclasses import dataclass
from pathlib import Path


class CertificateUnusable(ValueError):
    """The certificate and the key at these paths cannot be served."""

    def __init__(self, certificate_path: Path, key_path: Path, reason: str) -> None:
        super().__init__(
            f"cannot serve TLS with {certificate_path} and {key_path}: {reason}. Give the PEM file "
            "of the certificate with its chain, and the PEM file of its key without a passphrase"
        )
        self.certificate_path = certificate_path
        self.key_path = key_path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the certificate followed by its chain, and its private key."""

    certificate_path: Path
    key_path: Path

    def context(self) -> ssl.SSLContext:
        """What `Server.start` takes. Raises CertificateUnusable."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        return context

    def renew(self, context: ssl.SSLContext) -> None:
        """Read the files again: new connections get what they hold now, open ones go on.

        Raises CertificateUnusable, and then the context serves what it served before.
        """
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._load(context)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.certificate_path, self.key_path, password=_no_passphrase)
        except (OSError, ssl.SSLError) as error:
            reason = str(error.strerror or error)
            raise CertificateUnusable(self.certificate_path, self.key_path, reason) from error


def _no_passphrase() -> str:
    """OpenSSL would ask on the terminal, where nobody sits."""
    return ""
