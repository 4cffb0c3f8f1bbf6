"""What a scripted miner does with an order, and what it knows of one."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Any

from penstock.spec.keys import Signed
from penstock.spec.messages import Order
from penstock.spec.receipts import Receipt
from penstock.spec.stream import Checkpoint


class Act(Enum):
    """What the miner does with an order."""

    ANSWER = "answer"
    REFUSE = "refuse"
    ERROR = "error"  # `status`, with a receipt of no units
    BREAK = "break"  # `status`, without a receipt
    HANG = "hang"  # no head ever
    CUT = "cut"  # after `words_until` words the connection breaks
    STALL = "stall"  # after `words_until` words nothing comes any more
    LOSE = "lose"  # the engine is lost after `words_until` words: error event, failed receipt


class SealAct(Enum):
    """What the miner does when it is asked for seals."""

    SIGN = "sign"
    UNKNOWN = "unknown"  # it does not know the receipts it gave
    FORGE = "forge"  # a signature that does not hold
    FAIL = "fail"  # a server error
    SWAP = "swap"  # a good signature over other receipts than it says
    HANG = "hang"  # no answer
    NEST = "nest"  # an answer nested too deeply to be read


@dataclass(frozen=True)
class Script:
    """One order's play. `tamper` changes the receipt before it is signed, `forge` the signature."""

    act: Act = Act.ANSWER
    words: tuple[str, ...] = ("Water", " turns", " the", " wheel", ".")
    words_until: int = 0
    word_ms: int = 20
    checkpoint_events: int = 2
    status: int = 400
    cut_bytes: int = 0
    """Re-cut the stream into pieces of this size; 0 sends event by event."""
    tamper: Callable[[Receipt], Receipt] = field(default=lambda receipt: receipt)
    tamper_checkpoint: Callable[[Checkpoint], Checkpoint] = field(default=lambda point: point)
    forge: Callable[[Signed], Signed] = field(default=lambda signed: signed)
    omit_receipt: bool = False
    answers_cancel: bool = True
    trailing: bytes = b""
    binary: bytes = b""
    content_type: str = ""


@dataclass(eq=False)
class Served:
    """What the miner knows of one order."""

    order: Order
    digest: str
    body: bytes
    accept_ms: int
    hash: Any = field(default_factory=sha256)
    body_bytes: int = 0
    events: int = 0
    words: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    session: bytes = b""
    """The session's key, or b"" for an order that came signed."""

    def send(self, data: bytes) -> bytes:
        self.hash.update(data)
        self.body_bytes += len(data)
        return data

    def event(self, value: object) -> bytes:
        self.events += 1
        text = value if isinstance(value, str) else json.dumps(value)
        return self.send(f"data: {text}\n\n".encode())
