"""What the gateway answers when it does not answer the question, one class a reason.

Each class knows its status and its stable code; the text says what happened, why, and what to do.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from penstock.kit.wire.http import Headers, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.spec.units import NANO_PER_USD

KNOWN_NAMES_SHOWN_MAX = 20
BUSY_WAIT_US = 1_000_000
"""An answer takes seconds, so a place is free again within about one."""
BOOKS_WAIT_US = 2_000_000


def usd(nano: int) -> str:
    """nano-USD for people: every digit that counts, none that does not."""
    whole, rest = divmod(nano, NANO_PER_USD)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{digits}"


def seconds_of(wait_us: int) -> int:
    """Whole seconds to wait, at least 1: what `retry-after` can say."""
    return max(1, -(-wait_us // 1_000_000))


def retry_headers(wait_us: int) -> Headers:
    """What tells a client that the same request makes sense later, and when. OpenAI's and Anthropic's
    clients follow `x-should-retry` first, then `retry-after-ms`, then `retry-after`.
    """
    return (
        ("retry-after", str(seconds_of(wait_us))),
        ("retry-after-ms", str(max(1, -(-wait_us // 1000)))),
        ("x-should-retry", "true"),
    )


# eq=False keeps errors hashable: two errors are the same only if they are one object.
@dataclass(eq=False, kw_only=True)
class GatewayError(Exception):
    """The root of every refusal of the gateway."""

    status: ClassVar[int]
    code: ClassVar[str]

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """The message for a person."""
        raise NotImplementedError

    def param_name(self) -> str | None:
        """The field of the request that is at fault, if one is."""
        return None

    def extra_headers(self) -> Headers:
        """Headers that belong to this answer, such as `retry-after`."""
        return ()

    def extra_fields(self) -> dict[str, Any]:
        """Fields of the `error` object beyond OpenAI's."""
        return {}


def answer_of(error: GatewayError, request_id: str) -> Response:
    """The OpenAI envelope of an error; stock clients raise their own class by its status."""
    answer = problem(
        error.status,
        error.code,
        error.text(),
        param=error.param_name(),
        request_id=request_id,
        headers=error.extra_headers(),
    )
    fields = error.extra_fields()
    if not fields:
        return answer
    envelope = msgspec.json.decode(answer.body, type=dict[str, dict[str, Any]])
    envelope["error"].update(fields)
    return json_response(error.status, envelope, headers=error.extra_headers())


@dataclass(eq=False, kw_only=True)
class BadJson(GatewayError):
    """The body is not JSON."""

    status = 400
    code = "invalid_json"
    reason: str

    def text(self) -> str:
        return f"The body is not valid JSON: {self.reason}. Send one JSON object in UTF-8."


@dataclass(eq=False, kw_only=True)
class BadRequest(GatewayError):
    """A field of the body is missing, of the wrong type, or out of its range."""

    status = 400
    code = "invalid_request"
    reason: str
    param: str | None = None

    def text(self) -> str:
        return self.reason

    def param_name(self) -> str | None:
        return self.param


@dataclass(eq=False, kw_only=True)
class UnsupportedValue(BadRequest):
    """A field asks for what is well known and not done here."""

    code = "unsupported_value"


@dataclass(eq=False, kw_only=True)
class EndpointUnsupported(GatewayError):
    """A path of OpenAI's or Anthropic's API that is not served here."""

    status = 501
    code = "unsupported_endpoint"
    path: str

    def text(self) -> str:
        return f"{self.path[:200]} is not served here. See GET /openapi.json for what is."

    def extra_headers(self) -> Headers:
        # Clients try a 5xx again by themselves; this one will not change its mind.
        return (("x-should-retry", "false"),)


@dataclass(eq=False, kw_only=True)
class NotReady(GatewayError):
    """The gateway has not heard of any chute yet, or the bus does not answer."""

    status = 503
    code = "not_ready"
    missing: tuple[str, ...]

    def text(self) -> str:
        return f"This gateway is not ready: {', '.join(self.missing)}. Try again soon."

    def extra_headers(self) -> Headers:
        return retry_headers(BUSY_WAIT_US)


@dataclass(eq=False, kw_only=True)
class BadKey(GatewayError):
    """No key, or one that the ledger does not know."""

    status = 401
    code = "invalid_api_key"
    given: bool

    def text(self) -> str:
        if not self.given:
            return "There is no API key. Send `Authorization: Bearer sk-penstock-...`."
        return "This API key is not known here. `penstock status --json` tells this machine's own."


@dataclass(eq=False, kw_only=True)
class InsufficientFunds(GatewayError):
    """The account cannot cover the most that this request may cost."""

    status = 402
    code = "insufficient_funds"
    needed_nano: int
    available_nano: int

    def text(self) -> str:
        if not self.needed_nano:
            return "The account of this key has nothing available. Add credit."
        return (
            f"This request may cost up to {usd(self.needed_nano)} and the account has "
            f"{usd(self.available_nano)} available. Add credit, or lower max_tokens."
        )


@dataclass(eq=False, kw_only=True)
class ModelUnknown(GatewayError):
    """No chute of this name or digest is on the board."""

    status = 404
    code = "model_not_found"
    model: str
    known: tuple[str, ...]

    def text(self) -> str:
        shown = ", ".join(self.known[:KNOWN_NAMES_SHOWN_MAX]) or "none yet"
        return f"There is no model {self.model[:160]!r} here. Models: {shown}. See GET /v1/models."

    def param_name(self) -> str | None:
        return "model"


@dataclass(eq=False, kw_only=True)
class NoProvider(GatewayError):
    """Instances serve the model, but none that the request's own conditions allow."""

    status = 404
    code = "no_matching_provider"
    model: str
    present: int
    candidates: tuple[tuple[str, str], ...]
    """(instance, reason), as many as are shown."""

    def text(self) -> str:
        shown = ", ".join(f"{instance}: {reason}" for instance, reason in self.candidates)
        return (
            f"None of the {self.present} instances of {self.model[:160]!r} fits this request "
            f"({shown}). Ask for less in `provider`, `max_price` or x-penstock-tier."
        )

    def param_name(self) -> str | None:
        return "provider"

    def extra_fields(self) -> dict[str, Any]:
        candidates = [{"instance": one, "reason": reason} for one, reason in self.candidates]
        return {"candidates": candidates, "candidates_total": self.present}


@dataclass(eq=False, kw_only=True)
class ReceiptUnknown(GatewayError):
    """Neither this gateway nor the ledger has a record of this order."""

    status = 404
    code = "receipt_not_found"
    order_id: str

    def text(self) -> str:
        return (
            f"There is no receipt for {self.order_id[:80]!r}. The order id is in the answer's "
            "x-penstock-order header; a receipt appears when its answer has ended."
        )


@dataclass(eq=False, kw_only=True)
class RateLimited(GatewayError):
    """A key, an account or an address asks for too much at once, or in a short time."""

    status = 429
    code = "rate_limited"
    who: str
    what: str
    limit: int
    wait_us: int

    def text(self) -> str:
        return (
            f"{self.who} is limited to {self.limit} {self.what}. "
            f"Try again in {seconds_of(self.wait_us)} s."
        )

    def extra_headers(self) -> Headers:
        return retry_headers(self.wait_us)


@dataclass(eq=False, kw_only=True)
class NoCapacity(GatewayError):
    """All instances that serve the model are busy: said at once, where others would let it wait."""

    status = 429
    code = "no_capacity"
    model: str
    instances: int
    refused: int

    def text(self) -> str:
        return (
            f"All {self.instances} instances of {self.model!r} are busy or resting after failures "
            f"({self.refused} refused this request). Try again soon."
        )

    def extra_headers(self) -> Headers:
        return retry_headers(BUSY_WAIT_US)


@dataclass(eq=False, kw_only=True)
class NobodyServes(NoCapacity):
    """No miner serves the model at the moment."""

    status = 503
    code = "no_capacity"

    def text(self) -> str:
        return f"No miner serves {self.model!r} at the moment. Try again soon."


@dataclass(eq=False, kw_only=True)
class BooksBehind(GatewayError):
    """The bus or the ledger does not answer and the request needs it."""

    status = 503
    code = "bus_down"
    what: str

    def text(self) -> str:
        return f"{self.what} Nothing was charged. Try again soon."

    def extra_headers(self) -> Headers:
        return retry_headers(BOOKS_WAIT_US)


@dataclass(eq=False, kw_only=True)
class MinerFailed(GatewayError):
    """Every miner that was tried failed."""

    status = 502
    code = "miner_failed"
    tries: int
    reason: str

    def text(self) -> str:
        tried = "The one miner that could be" if self.tries == 1 else f"All {self.tries} miners"
        return f"{tried} tried failed ({self.reason}). Nothing was charged. Try again."

    def extra_headers(self) -> Headers:
        return (("x-should-retry", "true"),)


@dataclass(eq=False, kw_only=True)
class StartRefused(Exception):
    """The gateway cannot start as it is configured: the operator has to change something."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"The gateway cannot start: {self.reason}. {self.remedy}"


@dataclass(eq=False, kw_only=True)
class WorkerLost(Exception):
    """A worker process ended before it served; its own last line says why."""

    number: int
    status: int

    def __str__(self) -> str:
        return f"worker {self.number} ended with {self.status} before it served; see the line above"
