"""What goes wrong while a dialect is translated. Clients' faults are the gateway's BadRequest and BadJson."""

from dataclasses import dataclass

from penstock.gateway.errors import GatewayError


@dataclass(eq=False, kw_only=True)
class AnswerUnreadable(GatewayError):
    """A miner's whole answer is no chat completion, so there is nothing to translate."""

    status = 502
    code = "miner_failed"
    reason: str

    def text(self) -> str:
        return f"The miner's answer is not a chat completion ({self.reason}). Try again."
