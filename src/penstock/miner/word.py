"""The miner's word on an order: receipts and checkpoints as they go out.

An order that came signed gets a signed receipt. One that came under a session gets a receipt that is
vouched for by the session's key, which costs a hash; its signature comes by a seal (`sealing.py`).
Checkpoints are signed one by one always: they are what a broken stream leaves as proof.
"""

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field

from penstock.kit.handshake import receipt_mac, vouch
from penstock.kit.ports import Sign
from penstock.miner.statement import Statement, state
from penstock.spec.receipts import Receipt
from penstock.spec.stream import Checkpoint


@dataclass(frozen=True, slots=True)
class Word:
    """A receipt, what is kept of it, and `text`: the JSON that the gateway gets, on one line."""

    receipt: Receipt
    statement: Statement
    text: bytes
    is_vouched: bool

    def header(self) -> str:
        """`x-penstock-receipt`: a vouched receipt as it is, a signed one in base64url."""
        if self.is_vouched:
            return self.text.decode("ascii")
        return urlsafe_b64encode(self.text).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Pen:
    """Writes for one order. `session_key` is b"" for an order that came signed."""

    key: Sign
    session_key: bytes = field(default=b"", repr=False)

    def checkpoint(self, checkpoint: Checkpoint) -> bytes:
        """The JSON of the signed checkpoint, on one line."""
        return self._signed(state("checkpoint", checkpoint, signer=self.key.identity)).spelled()

    def receipt(self, receipt: Receipt) -> Word:
        """The miner's last word on the order."""
        statement = state("receipt", receipt, signer=self.key.identity)
        if not self.session_key:
            text = self._signed(statement).spelled()
            return Word(receipt, statement, text, is_vouched=False)
        text = vouch(statement.body, receipt_mac(self.session_key, statement.digest))
        return Word(receipt, statement, text, is_vouched=True)

    def _signed(self, statement: Statement) -> Statement:
        statement.signature = self.key.sign(statement.digest)
        return statement
