"""A window of the log: epochs joined without a gap, the charter over it, and what counts in it.

Auditors and validators read windows with the same functions, so that they cannot disagree.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from penstock.client.errors import Difference, NotPublished
from penstock.client.published import Operator, epoch_folder
from penstock.client.segments import Leaf, same
from penstock.spec.entries import Entry, EntryKind
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, Verify, open_signed, parse_signed
from penstock.spec.log import Frontier
from penstock.spec.messages import Charter, Roll
from penstock.spec.params import Params
from penstock.spec.receipts import parse_record
from penstock.spec.verdicts import check_verdict

T = TypeVar("T")


class Epoch(Protocol):
    """What of an epoch is needed to join it to its neighbours."""

    @property
    def epoch(self) -> int: ...
    @property
    def start(self) -> Frontier: ...
    @property
    def end(self) -> Frontier: ...
    @property
    def previous(self) -> int: ...


E = TypeVar("E", bound=Epoch)


async def join_window(
    epoch: int, params: Params, *, read: Callable[[int], Awaitable[E]]
) -> list[E]:
    """The epochs of the window that ends with `epoch`, oldest first, each where the last one ended.

    Raises Difference, NotPublished when the epoch itself is not there, and what `read` raises.
    """
    found = [await read(epoch)]
    while (wanted := found[0].previous) > max(-1, epoch - params.window_epochs):
        try:
            older = await read(wanted)
        except NotPublished as error:
            where = epoch_folder(wanted)
            raise Difference(where, "nothing", "an epoch that the log says was closed") from error
        same(f"epoch {wanted}: log at its end", older.end, found[0].start)
        found.insert(0, older)
    return found


def governing_charter(
    leaves: Iterable[Leaf], *, size: int, operator: Operator, verify: Verify
) -> Charter:
    """The newest charter among the first `size` entries of the log. Raises Difference."""
    charters = [one for one in leaves if one.entry.kind is EntryKind.CHARTER and one.seq < size]
    if not charters:
        raise Difference("charter", "none up to this epoch", "one entry")
    newest = max(charters, key=lambda leaf: leaf.seq)
    where = f"entry {newest.seq}: charter"
    signed = signed_body(where, newest.entry)
    charter = open_at(where, Charter, signed, kind="charter", verify=verify)
    same(f"{where}: signer", signed.signer, operator.operator)
    same(f"{where}: operator", charter.operator, operator.operator)
    same(f"{where}: origin", charter.origin, operator.origin)
    same(f"{where}: ledger", charter.ledger, operator.log_key)
    same(f"{where}: network", charter.network, operator.network)
    return charter


def rolls_of(leaves: Iterable[Leaf], charter: Charter, verify: Verify) -> list[Roll]:
    """The market's rolls among these entries. Raises Difference."""
    rolls = []
    for leaf in leaves:
        if leaf.entry.kind is EntryKind.ROLL:
            where = f"entry {leaf.seq}: roll"
            signed = signed_body(where, leaf.entry)
            same(f"{where}: signer", signed.signer, charter.market)
            rolls.append(open_at(where, Roll, signed, kind="roll", verify=verify))
    return rolls


def verdicts_of(leaves: Iterable[Leaf]) -> list[Signed]:
    """The verdicts among these entries, proven or not. Raises Difference when one is unsigned."""
    return [
        signed_body(f"entry {leaf.seq}: verdict", leaf.entry)
        for leaf in leaves
        if leaf.entry.kind is EntryKind.VERDICT
    ]


def accused_order(verdict: Signed) -> str:
    """Which order's record a verdict is about, by its own word; "" when it does not say."""
    order_id = verdict.body.get("order_id")
    return order_id if isinstance(order_id, str) else ""


def failed_miners(
    verdicts: Iterable[Signed],
    charter: Charter,
    *,
    record_of: Callable[[str], Entry | None],
    verify: Verify,
) -> list[str]:
    """Miners whose receipts are proven to have lied.

    A verdict counts when its signer has a seat, its record is in the window, and it proves itself.
    """
    seats = {seat.validator for seat in charter.seats}
    failed = []
    for signed in verdicts:
        entry = record_of(accused_order(signed))
        if entry is None or signed.signer not in seats:
            continue
        try:
            verdict = check_verdict(signed, parse_record(entry.body), verify=verify)
        except SpecError:
            continue
        failed.append(verdict.miner)
    return failed


def signed_body(where: str, entry: Entry) -> Signed:
    """The signed message an entry holds. Raises Difference."""
    try:
        return parse_signed(entry.body)
    except SpecError as error:
        raise Difference(where, f"unsigned ({error})", "a signed message") from error


def open_at(where: str, cls: type[T], signed: Signed, *, kind: str, verify: Verify) -> T:
    """The message, its signature checked. Raises Difference."""
    try:
        return open_signed(cls, signed, kind=kind, verify=verify)
    except SpecError as error:
        raise Difference(where, f"does not hold ({error})", f"a signed {kind}") from error
