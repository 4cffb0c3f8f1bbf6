"""The market and the ledger as a validator calls them: JSON over HTTP, errors as classes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from penstock.kit.errors import WireError
from penstock.kit.ports import Verify
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import JSON_HEADERS
from penstock.spec.canon import to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, open_signed, parse_signed
from penstock.spec.messages import Charter, Manifest, Modality, chute_id
from penstock.spec.params import NETWORKS, Params, params_digest
from penstock.validator.errors import PeerDown, PeerRefused, StartRefused

CHUTES_MAX = 10_000

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class _Chute(msgspec.Struct):
    chute: str
    name: str
    manifest: dict[str, Any]
    serving: int


class _Chutes(msgspec.Struct):
    chutes: list[_Chute]


class Progress(msgspec.Struct, frozen=True):
    """How far the ledger is: newest closed and newest settled epoch, -1 where there is none."""

    closed: int
    settled: int


@dataclass(frozen=True, slots=True)
class Probeable:
    """A chute that somebody serves. `completion_max` bounds what may be asked of it."""

    chute: str
    modality: Modality
    completion_max: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for this validator's whole life."""

    charter: Charter
    params: Params


@dataclass(frozen=True, slots=True)
class Market:
    """The market at `url`. Methods raise PeerDown or PeerRefused."""

    name: ClassVar[str] = "market"
    http: HttpClient
    url: str
    deadline_ms: int

    async def facts(self, *, operator: str, verify: Verify) -> Facts:
        """The charter, signed by its operator (by this one, unless ""). Raises StartRefused too."""
        answer = await _ask(self, "GET", "/v1/info")
        try:
            signed = parse_signed(answer.get("charter"))
            charter = open_signed(Charter, signed, kind="charter", verify=verify)
        except SpecError as error:
            raise StartRefused(
                f"the market's charter does not hold ({error})", "Check `market_url`."
            ) from error
        if signed.signer != charter.operator or operator not in {"", charter.operator}:
            raise StartRefused(
                f"the market's charter is signed by {signed.signer}, who is not its operator",
                "Check `operator` and `market_url` in the configuration.",
            )
        params = NETWORKS.get(charter.network)
        if params is None or params_digest(params) != charter.params_digest:
            raise StartRefused(
                f"the market's network {charter.network!r} has other numbers than ours",
                "Update penstock on this machine, or ask the operator for the market's version.",
            )
        return Facts(charter, params)

    async def probeable(self, verify: Verify) -> tuple[Probeable, ...]:
        """The chutes that are being served, in the order of their ids."""
        answer = await _ask(self, "GET", "/v1/chutes")
        try:
            listed = msgspec.convert(answer, _Chutes).chutes[:CHUTES_MAX]
        except msgspec.ValidationError as error:
            raise PeerDown("market", f"it lists chutes in another shape: {error}") from error
        found = [_probeable(one, verify) for one in listed if one.serving > 0]
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.chute))


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger at `url`. Methods raise PeerDown or PeerRefused."""

    name: ClassVar[str] = "ledger"
    http: HttpClient
    url: str
    deadline_ms: int

    async def progress(self) -> Progress:
        """Which epochs are closed and settled."""
        answer = await _ask(self, "GET", "/v1/epochs")
        try:
            return msgspec.convert(answer, Progress)
        except msgspec.ValidationError as error:
            raise PeerDown("ledger", f"it tells epochs in another shape: {error}") from error

    async def has_logged(self, order_id: str) -> bool:
        """Whether the order's record is in the log."""
        try:
            await _ask(self, "GET", f"/v1/receipts/{order_id}")
        except PeerRefused as error:
            if error.status == 404:
                return False
            raise
        return True

    async def report(self, signed: Signed) -> None:
        """Hand in a report; handing in the same one again changes nothing."""
        await _ask(self, "POST", "/v1/reports", body=_encode(to_plain(signed)))

    async def verdict(self, signed: Signed) -> None:
        """Hand in a verdict."""
        await _ask(self, "POST", "/v1/verdicts", body=_encode(to_plain(signed)))


def _probeable(listed: _Chute, verify: Verify) -> Probeable | None:
    """None for a manifest that does not hold: it is not ours to probe what nobody has signed."""
    try:
        signed = parse_signed(listed.manifest)
        manifest = open_signed(Manifest, signed, kind="manifest", verify=verify)
    except SpecError:
        return None
    if chute_id(manifest) != listed.chute:
        return None
    return Probeable(listed.chute, manifest.modality, manifest.limits.output_tokens_max)


async def _ask(
    peer: Market | Ledger, method: str, path: str, *, body: bytes = b""
) -> dict[str, Any]:
    """One question. Raises PeerDown, PeerRefused."""
    name = peer.name
    try:
        reply = await peer.http.call(
            method,
            peer.url.rstrip("/") + path,
            headers=JSON_HEADERS if body else (),
            body=body,
            deadline_ms=peer.deadline_ms,
        )
        answer = _decode(reply.body or b"{}")
    except WireError as error:
        raise PeerDown(name, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerDown(name, f"it answers no JSON: {error}") from error
    if 200 <= reply.status < 300:
        return answer
    if reply.status >= 500:
        raise PeerDown(name, f"it answers {reply.status}")
    said = answer.get("error")
    fields = said if isinstance(said, dict) else {}
    raise PeerRefused(
        name, reply.status, str(fields.get("code", "")), str(fields.get("message", ""))
    )
