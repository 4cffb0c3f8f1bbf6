"""A receipt document, checked by anyone: what holds, and every way in which it may not."""

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.published_log import LOG_KEY, ORIGIN, make_log, verify
from tests.properties import in_full

from penstock.client.errors import BadAnswer
from penstock.client.proof import LogName, Proof, check_document
from penstock.kit.keys import Ed25519Key, verify_raw
from penstock.spec.canon import parse
from penstock.spec.entries import EntryKind
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome

LOG = LogName(ORIGIN, LOG_KEY.identity)


@functools.cache
def document_text() -> str:
    """What `GET /v1/receipts/{id}` says of a record in the middle of the log."""

    async def make() -> str:
        log = await make_log()
        logged = [one for one in log.log.entries_ if one.kind is EntryKind.RECORD][7]
        proven = await log.notary.prove((logged.seq,), log.log.frontier)
        document = {
            "record": parse(logged.leaf)["body"],
            "seq": logged.seq,
            "checkpoint": proven.checkpoint,
            "size": proven.size,
            "proof": [sibling.hex() for sibling in proven.proofs[0]],
        }
        return json.dumps(document)

    return asyncio.run(make())


def document(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(document_text())
    return {**made, **changes}


def check(value: Any, log: LogName | None = LOG) -> Proof:
    return check_document(value, params=LOCAL, verify=verify, verify_raw=verify_raw, log=log)


def test_a_receipt_in_the_log_is_proven_with_who_signed_it() -> None:
    proof = check(document())
    assert proof.judgement.outcome is Outcome.COMPLETE
    assert proof.judgement.charge_nano > 0
    assert [signer.partition(" ")[0] for signer in proof.signed_by] == [
        "order",
        "receipt",
        "countersign",
    ]
    assert 0 <= proof.seq < proof.size


def test_without_the_logs_key_everything_else_is_still_checked() -> None:
    assert check(document(), log=None).seq == check(document()).seq
    with pytest.raises(BadAnswer):
        check(document(proof=[]), log=None)


@pytest.mark.parametrize(
    "value",
    [
        {"record": json.loads(document_text())["record"]},
        document(seq=None),
        document(seq=-1, size=0, checkpoint="", proof=[]),
    ],
)
def test_a_receipt_that_is_not_logged_yet_is_told_apart(value: dict[str, Any]) -> None:
    proof = check(value)
    assert (proof.seq, proof.size) == (-1, 0)
    assert proof.judgement.charge_nano > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.update(seq=one["seq"] + 1),
        lambda one: one.update(seq="3"),
        lambda one: one.update(seq=True),
        lambda one: one.update(seq=-2),
        lambda one: one.update(size=one["size"] + 1),
        lambda one: one.pop("size"),
        lambda one: one.pop("proof"),
        lambda one: one.update(proof=one["proof"][:-1]),
        lambda one: one.update(proof=[*one["proof"], "0" * 64]),
        lambda one: one.update(proof=[1]),
        lambda one: one.update(proof=None),
        lambda one: one.update(checkpoint=None),
        lambda one: one.update(checkpoint="\ud800"),
        lambda one: one.update(checkpoint=one["checkpoint"].replace("\n", "\n\n", 1)),
        lambda one: one.pop("record"),
        lambda one: one.update(record=None),
        lambda one: one["record"].update(receipt=None),
        lambda one: one["record"].update(more=1),
        lambda one: one["record"]["order"].update(signature="0"),
        lambda one: one["record"]["order"]["body"].update(charge_max=1),
        lambda one: one["record"]["receipt"]["body"].update(charge_nano=1.5),
        lambda one: one["record"]["receipt"]["body"].update(charge_nano=1),
    ],
)
def test_what_does_not_hold_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    value = document()
    change(value)
    with pytest.raises(BadAnswer) as caught:
        check(value)
    assert caught.value.reason


@pytest.mark.parametrize("value", [None, [], "x", 5, {}])
def test_something_else_is_no_receipt_document(value: Any) -> None:
    with pytest.raises(BadAnswer):
        check(value)


@pytest.mark.parametrize(
    "log",
    [
        LogName("elsewhere", LOG_KEY.identity),
        LogName(ORIGIN, Ed25519Key(bytes(32)).identity),
        LogName(ORIGIN, "ed25519:xyz"),
    ],
)
def test_a_receipt_in_another_log_is_refused(log: LogName) -> None:
    with pytest.raises(BadAnswer):
        check(document(), log)


@settings(max_examples=in_full(300))
@given(place=st.integers(0), value=st.integers(0, 127))
def test_a_changed_character_is_refused_or_changes_nothing(place: int, value: int) -> None:
    """A hash may be spelled in upper case here: a receipt is read, not compared byte for byte."""
    text = document_text()
    place %= len(text)
    changed = text[:place] + chr(value) + text[place + 1 :]
    try:
        read = json.loads(changed)
    except ValueError:
        return
    try:
        proof = check(read)
    except BadAnswer:
        return
    if proof.seq != -1:
        assert proof == check(document())
