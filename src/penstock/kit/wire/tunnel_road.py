"""What a reverse connection travels on: TLS whose certificates say nothing, and sockets that notice.

The certificate of a gateway's tunnel port belongs to no authority: whoever it is proves it above TLS
(`tunnel_greeting`), so nothing is verified here. TLS 1.3 only, since the proof is over a certificate
and must be over this connection as well.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from penstock.kit.ports import Network

ChannelOf = Callable[[asyncio.BaseTransport], str]
"""The SHA-256, in hex, of the certificate that the dialled end has shown; "" without TLS."""

# A peer that is gone is noticed within ten seconds: idle ones by probes, others by what it does not
# acknowledge. The probes also keep a NAT's entry, which no home router forgets in less than a minute.
KEEP_IDLE_S, KEEP_EVERY_S, KEEP_COUNT = 4, 2, 3
USER_TIMEOUT_MS = 8_000
_OPTIONS = (
    ("TCP_NODELAY", 1),
    ("TCP_KEEPIDLE", KEEP_IDLE_S),
    ("TCP_KEEPALIVE", KEEP_IDLE_S),  # macOS's name for it
    ("TCP_KEEPINTVL", KEEP_EVERY_S),
    ("TCP_KEEPCNT", KEEP_COUNT),
    ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
)


@dataclass(frozen=True, slots=True)
class Road:
    """How a miner dials tunnel ports, and which channel it then is on."""

    network: Network
    channel_of: ChannelOf


def dialling_context() -> ssl.SSLContext:
    """For who dials a tunnel port: encrypted, and whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the hello signs what is shown
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def shown_channel(transport: asyncio.BaseTransport) -> str:
    """The `ChannelOf` of real TLS."""
    tls = transport.get_extra_info("ssl_object")
    shown = tls.getpeercert(True) if tls is not None else None
    return sha256(shown).hexdigest() if shown else ""


def stay_alert(transport: asyncio.BaseTransport) -> None:
    """Let the kernel notice when the other end is gone. Memory has no sockets."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        option = getattr(socket, name, None)  # which there are depends on the system
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
