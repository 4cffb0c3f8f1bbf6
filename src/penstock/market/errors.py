"""What the market refuses, one class a reason: its status, its stable code, and what to do next."""

from dataclasses import dataclass
from typing import ClassVar

from penstock.kit.wire.http import Response
from penstock.kit.wire.problem import problem


# eq=False keeps errors hashable: two errors are the same only if they are one object.
@dataclass(eq=False, kw_only=True)
class MarketError(Exception):
    """The root of every refusal of the market."""

    status: ClassVar[int]
    code: ClassVar[str]

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """The message for a person."""
        raise NotImplementedError


def answer_of(error: MarketError, request_id: str) -> Response:
    """The error envelope."""
    return problem(error.status, error.code, error.text(), request_id=request_id)


@dataclass(eq=False, kw_only=True)
class BadShape(MarketError):
    """The body is not what the route takes."""

    status = 422
    code = "invalid_shape"
    reason: str

    def text(self) -> str:
        return f"The body does not have the shape this route takes: {self.reason}."


@dataclass(eq=False, kw_only=True)
class BadOffer(MarketError):
    """An offer that does not hold, or that the market may not accept."""

    status = 400
    code = "bad_offer"
    reason: str

    def text(self) -> str:
        return f"The offer was not accepted: {self.reason}."


@dataclass(eq=False, kw_only=True)
class StaleOffer(MarketError):
    """The market has seen a later offer of this instance."""

    status = 409
    code = "stale_offer"
    instance: str
    seq: int
    seen_seq: int

    def text(self) -> str:
        return (
            f"Offer {self.seq} of {self.instance!r} is older than offer {self.seen_seq}, which is "
            f"known already. Send a seq above {self.seen_seq}."
        )


@dataclass(eq=False, kw_only=True)
class DeviceTaken(MarketError):
    """A physical device is offered by another agent, or was a moment ago (`wait_ms` left)."""

    status = 409
    code = "device_taken"
    is_own: bool
    wait_ms: int

    def text(self) -> str:
        if self.wait_ms:
            return (
                "This device was offered by another miner until a moment ago and is held for it. "
                f"Try again in {-(-self.wait_ms // 1000)} s."
            )
        who = "another agent of the same owner" if self.is_own else "another miner"
        return (
            f"This device is offered by {who} already, and one device is offered once. Stop that "
            "one, or keep this agent off the device (for NVIDIA cards: CUDA_VISIBLE_DEVICES)."
        )


@dataclass(eq=False, kw_only=True)
class ChuteUnknown(MarketError):
    """No manifest with this digest was published."""

    status = 404
    code = "unknown_chute"
    chute: str

    def text(self) -> str:
        return f"There is no chute {self.chute[:80]!r} here. Publish its manifest: POST /v1/chutes."


@dataclass(eq=False, kw_only=True)
class BadManifest(MarketError):
    """A manifest that does not hold."""

    status = 400
    code = "bad_manifest"
    reason: str

    def text(self) -> str:
        return f"The manifest was not accepted: {self.reason}."


@dataclass(eq=False, kw_only=True)
class NameTaken(MarketError):
    """The name of a chute belongs to whoever used it first."""

    status = 409
    code = "name_taken"
    name: str

    def text(self) -> str:
        return f"The name {self.name!r} belongs to another owner. Choose another name."


@dataclass(eq=False, kw_only=True)
class MarketFull(MarketError):
    """A bound of the market is reached."""

    status = 503
    code = "market_full"
    what: str
    limit: int

    def text(self) -> str:
        return f"The market takes at most {self.limit} {self.what}. Try again when there is room."


@dataclass(eq=False, kw_only=True)
class Unavailable(MarketError):
    """The bus or the database does not answer."""

    status = 503
    code = "bus_down"
    what: str

    def text(self) -> str:
        return f"The market's {self.what} does not answer. Nothing was lost: send it again soon."


@dataclass(eq=False, kw_only=True)
class WrongCharter(Exception):
    """The market is started with a charter that is not its own."""

    reason: str

    def __str__(self) -> str:
        return (
            f"The market cannot start: {self.reason}. Correct charter_file, key_file or network in "
            "its configuration."
        )
