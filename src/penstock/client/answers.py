"""An answer as it comes: the bytes are hashed and compared with what the miner and the gateway sign.

The stream's digest covers everything before the receipt comment; checkpoints on the way are
checked against the bytes so far, so a stream that departs from what is signed is refused at once
and not at its end.
"""

import hashlib
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from penstock.client.errors import BadAnswer
from penstock.kit.errors import EventTooLarge
from penstock.kit.sse import EventSplitter, event_data, parse_comment
from penstock.spec.canon import digest as digest_of
from penstock.spec.canon import from_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, Verify, open_signed, parse_signed
from penstock.spec.receipts import Countersign, Receipt
from penstock.spec.stream import (
    ALIVE_COMMENT,
    CHECKPOINT_COMMENT,
    COUNTERSIGN_COMMENT,
    RECEIPT_COMMENT,
    Checkpoint,
)

DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Told:
    """A message without a signature of its own; the signature is in the order's record."""

    kind: str
    body: dict[str, Any]


Word = Signed | Told


@dataclass(frozen=True, slots=True)
class Signatures:
    """What stands under an answer. Both are None when the other side does not sign.

    `is_signed` is false for words whose signatures have not been seen yet.
    """

    receipt: Receipt | None
    countersign: Countersign | None
    is_signed: bool = False


class StreamCheck:
    """Feed it the body of a streamed answer; it hands out the data events and checks the rest."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._splitter = EventSplitter()
        self._hash = hashlib.sha256()
        self._body_bytes = 0
        self._receipt: Word | None = None
        self._countersign: Word | None = None

    def feed(self, chunk: bytes) -> list[Any]:
        """The decoded data events this chunk completes, without `[DONE]`. Raises BadAnswer."""
        try:
            events = self._splitter.feed(chunk)
        except EventTooLarge as error:
            raise BadAnswer(str(error)) from error
        found = []
        for event in events:
            said = parse_comment(event)
            if said is not None:
                self._take_comment(*said)
            if said is None or said[0] not in {RECEIPT_COMMENT, COUNTERSIGN_COMMENT, ALIVE_COMMENT}:
                self._count(event)
            data = event_data(event)
            if data and self._receipt is not None:
                # The receipt is the miner's last word: whatever follows it, nobody signed.
                raise BadAnswer("there is text behind the receipt")
            if data and data != DONE:
                found.append(decode(data))
        return found

    @property
    def digest(self) -> str:
        """Of the bytes so far that a receipt covers, hex."""
        return self._hash.hexdigest()

    def finish(self) -> Signatures:
        """What is signed under the whole stream. Raises BadAnswer when it does not hold."""
        return check_signatures(
            self._receipt, self._countersign, digest=self.digest, verify=self._verify
        )

    def _count(self, event: bytes) -> None:
        if self._receipt is None:
            self._hash.update(event)
            self._body_bytes += len(event)

    def _take_comment(self, name: str, payload: bytes) -> None:
        if name == CHECKPOINT_COMMENT:
            self._check_checkpoint(_signed(decode(payload)))
        elif name == RECEIPT_COMMENT:
            if self._receipt is not None:
                raise BadAnswer("it has two receipts")
            self._receipt = _word("receipt", decode(payload))
        elif name == COUNTERSIGN_COMMENT:
            self._countersign = _word("countersign", decode(payload))

    def _check_checkpoint(self, signed: Signed) -> None:
        try:
            checkpoint = open_signed(Checkpoint, signed, kind="checkpoint", verify=self._verify)
        except SpecError as error:
            raise BadAnswer(f"a checkpoint does not hold ({error})") from error
        seen = (self._body_bytes, self._hash.hexdigest())
        if (checkpoint.body_bytes, checkpoint.digest) != seen:
            raise BadAnswer("a checkpoint is signed over other bytes")


def check_whole(body: bytes, *, receipt: str, countersign: str, verify: Verify) -> Signatures:
    """The same for an answer that came whole, with its signatures in headers (base64url JSON)."""
    digest = hashlib.sha256(body).hexdigest()
    return check_signatures(
        _from_header(receipt), _from_header(countersign), digest=digest, verify=verify
    )


def check_signatures(
    receipt: Word | None, countersign: Word | None, *, digest: str, verify: Verify
) -> Signatures:
    """Receipt and countersignature are about these bytes and about each other. Raises BadAnswer.

    `digest` "" leaves the bytes out: those of a translated answer are not the miner's.
    """
    try:
        opened = None if receipt is None else _opened(Receipt, receipt, verify)
        seen = None if countersign is None else _opened(Countersign, countersign, verify)
    except SpecError as error:
        raise BadAnswer(str(error)) from error
    if opened is not None:
        if isinstance(receipt, Signed) and receipt.signer != opened.miner:
            raise BadAnswer("the receipt is not signed by the miner it names")
        if digest and opened.response_digest != digest:
            raise BadAnswer("the receipt is signed over other bytes")
    if receipt is None and seen is not None and seen.receipt_digest:
        raise BadAnswer("the receipt that the gateway countersigned is missing")
    if receipt is not None and opened is not None and seen is not None:
        if seen.receipt_digest != _digest(receipt):
            raise BadAnswer("the gateway countersigned another receipt")
        if seen.order_digest != opened.order_digest:
            raise BadAnswer("receipt and countersignature are about different orders")
        if isinstance(countersign, Signed) and countersign.signer != opened.gateway:
            raise BadAnswer("the countersignature is not of the gateway that the receipt names")
    words = [word for word in (receipt, countersign) if word is not None]
    is_signed = bool(words) and all(isinstance(word, Signed) for word in words)
    return Signatures(opened, seen, is_signed)


T = TypeVar("T")


def _opened(cls: type[T], word: Word, verify: Verify) -> T:
    if isinstance(word, Signed):
        return open_signed(cls, word, kind=cls.__name__.lower(), verify=verify)
    return from_plain(cls, word.body)


def _digest(word: Word) -> str:
    try:
        return digest_of(word.kind, word.body).hex()
    except SpecError as error:
        raise BadAnswer(str(error)) from error


def decode(data: bytes) -> Any:
    """JSON, or BadAnswer."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"not JSON ({error})") from error


def _word(kind: str, value: object) -> Word:
    """A Signed, or `{"body": ...}` (beside a MAC, which only the gateway can check)."""
    if not isinstance(value, dict) or "kind" in value or not isinstance(value.get("body"), dict):
        return _signed(value)
    if not value.keys() <= {"body", "mac"}:
        raise BadAnswer(f"not a {kind}")
    return Told(kind, value["body"])


def _signed(value: object) -> Signed:
    try:
        return parse_signed(value)
    except SpecError as error:
        raise BadAnswer(str(error)) from error


def _from_header(text: str) -> Signed | None:
    if not text:
        return None
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise BadAnswer("a signature header is not base64url") from error
    return _signed(decode(data))
