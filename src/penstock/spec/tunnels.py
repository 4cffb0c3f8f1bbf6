"""Reverse connections: a miner that nobody can dial dials its gateways, and is asked over those.

Both ends prove who they are over the TLS connection itself: each signs the digest of the certificate
that the gateway shows there (the channel, as RFC 5929's tls-server-end-point), and the miner also a
challenge made for this one connection. So nobody in between can pass one's word on to the other.
"""

from dataclasses import dataclass
from re import compile as pattern

from penstock.spec.errors import BadMessage, Expired
from penstock.spec.keys import Signed, Verify, open_signed

HELLO_KIND = "tunnel-hello"
GREETING_KIND = "tunnel-greeting"
SCHEME = "tunnel:"
"""How an offer's endpoint begins that is reached by reverse connections."""
HELLO_MS_MAX = 24 * 3_600_000
PING_MS = 6_000
"""A reverse connection that rests is asked for a sign of life this often."""
SILENCE_MS = 20_000
"""A miner that hears nothing on one for so long takes it for dead, and dials anew."""
PING_PATH = "/v1/tunnel/ping"

_NODE = pattern(r"[a-z0-9][a-z0-9-]{0,31}")
_DIRECT = pattern(r"https?://[A-Za-z0-9.\-:\[\]]{1,200}/?")
_DIGEST = pattern(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reach:
    """How an endpoint is reached: by the reverse connections of this node of its miner, and by a URL
    that may also be dialled, "" if there is none.
    """

    node: str
    direct: str


@dataclass(frozen=True, slots=True)
class TunnelHello:
    """A gateway's word: the certificate with this SHA-256 is mine, until then."""

    gateway: str
    channel: str
    issued_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class TunnelGreeting:
    """A miner's word: this connection, to that gateway, is mine, and leads to this node of me."""

    miner: str
    node: str
    gateway: str
    channel: str
    challenge: str


def is_node(text: str) -> bool:
    """1 to 32 lower-case letters, digits and hyphens, none first."""
    return _NODE.fullmatch(text) is not None


def endpoint_of(reach: Reach) -> str:
    """`tunnel:NODE`, or `tunnel:NODE@URL` for a node that may be dialled as well."""
    return f"{SCHEME}{reach.node}@{reach.direct}" if reach.direct else SCHEME + reach.node


def reach_of(endpoint: str) -> Reach | None:
    """What an endpoint means; None for one that is only dialled. Raises BadMessage.

    The URL of the second form names a host and at most a port: a path would not mean the same over a
    reverse connection.
    """
    if not endpoint.startswith(SCHEME):
        return None
    node, separator, direct = endpoint.removeprefix(SCHEME).partition("@")
    if not is_node(node) or (separator and not _DIRECT.fullmatch(direct)):
        raise BadMessage(kind="offer", reason=f"bad tunnel endpoint {endpoint[:80]!r}")
    return Reach(node, direct.rstrip("/"))


def check_hello(
    signed: Signed, *, channel: str, now_ms: int, skew_max_ms: int, verify: Verify
) -> TunnelHello:
    """A gateway's word for the certificate that was shown here, now. Raises a SpecError.

    The miner also checks that the gateway is chartered.
    """
    hello = open_signed(TunnelHello, signed, kind=HELLO_KIND, verify=verify)
    if hello.gateway != signed.signer:
        raise BadMessage(kind=HELLO_KIND, reason="the signer is not the gateway it names")
    if hello.channel != channel:
        raise BadMessage(kind=HELLO_KIND, reason="another certificate: somebody is in between")
    if hello.issued_ms > now_ms + skew_max_ms:
        raise BadMessage(kind=HELLO_KIND, reason="issued in the future: check the gateway's clock")
    if not 0 < hello.expires_ms - hello.issued_ms <= HELLO_MS_MAX:
        raise BadMessage(kind=HELLO_KIND, reason=f"it holds for at most {HELLO_MS_MAX} ms")
    if now_ms > hello.expires_ms + skew_max_ms:
        raise Expired(what=HELLO_KIND, at_ms=hello.expires_ms, now_ms=now_ms)
    return hello


def check_greeting(
    signed: Signed, *, hello: TunnelHello, challenge: str, verify: Verify
) -> TunnelGreeting:
    """A miner's answer to exactly this hello and challenge. Raises a SpecError.

    The gateway also checks that it knows an offer of this node.
    """
    greeting = open_signed(TunnelGreeting, signed, kind=GREETING_KIND, verify=verify)
    if greeting.miner != signed.signer or not is_node(greeting.node):
        raise BadMessage(kind=GREETING_KIND, reason="another signer than it names, or no node")
    if (greeting.gateway, greeting.channel) != (hello.gateway, hello.channel):
        raise BadMessage(kind=GREETING_KIND, reason="to another gateway or over another channel")
    if greeting.challenge != challenge or not _DIGEST.fullmatch(challenge):
        raise BadMessage(kind=GREETING_KIND, reason="to another challenge: it was replayed")
    return greeting
