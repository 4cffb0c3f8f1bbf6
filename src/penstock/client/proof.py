"""A receipt, checked by anyone: who signed what, what it cost, and that it is in the public log."""

from dataclasses import dataclass
from typing import Any

from penstock.client.errors import BadAnswer
from penstock.spec.canon import to_plain
from penstock.spec.entries import Entry, EntryKind, leaf_bytes
from penstock.spec.errors import SpecError
from penstock.spec.keys import Verify
from penstock.spec.log import check_inclusion, leaf_hash
from penstock.spec.notes import (
    Checkpoint,
    VerifyRaw,
    parse_checkpoint,
    parse_note,
    verify_checkpoint,
)
from penstock.spec.params import Params
from penstock.spec.receipts import Judgement, Record, judge, parse_record, record_id

NOT_LOGGED = -1
"""The place in the log of a record that a gateway still holds and the ledger does not know."""


@dataclass(frozen=True, slots=True)
class LogName:
    """Which log a receipt must be in: its origin and key (`ed25519:<hex>`)."""

    origin: str
    key: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What a receipt document was found to prove. `seq` is -1 while it is not logged yet."""

    record: Record
    judgement: Judgement
    signed_by: tuple[str, ...]
    seq: int
    size: int


def check_document(
    document: Any, *, params: Params, verify: Verify, verify_raw: VerifyRaw, log: LogName | None
) -> Proof:
    """The body of `GET /v1/receipts/{id}`, checked. Raises BadAnswer naming what does not hold.

    `log` None skips the checkpoint's signature (the log's key is not known), and says so by the
    caller; everything else is checked all the same.
    """
    if not isinstance(document, dict) or "record" not in document:
        raise BadAnswer("not a receipt document: it has no record")
    try:
        record = parse_record(document["record"])
        judgement = judge(record, refusal_free_ms=params.refusal_free_ms, verify=verify)
    except SpecError as error:
        raise BadAnswer(str(error)) from error
    parts = (record.order, record.receipt, record.checkpoint, record.countersign)
    signers = tuple(f"{part.kind} by {part.signer}" for part in parts if part is not None)
    seq = document.get("seq")
    if seq is None or seq == NOT_LOGGED:
        return Proof(record, judgement, signers, seq=NOT_LOGGED, size=0)
    checkpoint = _checkpoint(document, log, verify_raw)
    if document.get("size") != checkpoint.size or type(seq) is not int:
        raise BadAnswer("its place in the log is not that of its checkpoint")
    leaf = leaf_bytes(Entry(EntryKind.RECORD, record_id(record), to_plain(record)))
    try:
        proof = [bytes.fromhex(part) for part in document["proof"]]
        check_inclusion(
            leaf_hash(leaf), seq, size=checkpoint.size, proof=proof, expected=checkpoint.root
        )
    except (SpecError, KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"not in the log under its checkpoint ({error})") from error
    return Proof(record, judgement, signers, seq=seq, size=checkpoint.size)


def _checkpoint(document: dict[str, Any], log: LogName | None, verify_raw: VerifyRaw) -> Checkpoint:
    try:
        note = parse_note(str(document.get("checkpoint", "")).encode())
        if log is None:
            return parse_checkpoint(note.text)
        public_key = bytes.fromhex(log.key.partition(":")[2])
        return verify_checkpoint(note, log.origin, public_key=public_key, verify_raw=verify_raw)
    except (SpecError, ValueError) as error:
        raise BadAnswer(f"its checkpoint does not hold ({error})") from error
