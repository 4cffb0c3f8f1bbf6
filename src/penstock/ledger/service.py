"""The ledger: a dataclass of ports, and everything one can ask of it.

It keeps the books and the public log. Gateways ask it for leases and send it records; miners claim;
validators report; everyone reads. The real ports are chosen in `app.py`, the simulator passes
others.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Bus, Clock, Entropy, Files, StoreDown, Verify
from penstock.kit.tasks import Scope, crash_recorder
from penstock.ledger.claims import Claims
from penstock.ledger.consumer import Consumer
from penstock.ledger.errors import Rejected
from penstock.ledger.intake import ORDER_ID, Rules
from penstock.ledger.leases import (
    LEASE_ID_BYTES,
    Granted,
    NotGranted,
    grant,
    read_question,
    wanted_for,
)
from penstock.ledger.notary import Notary
from penstock.ledger.policy import Draft
from penstock.ledger.ports import LogKey, Store
from penstock.ledger.settle import check_seat, read_report, report_entry
from penstock.ledger.state import Wanted
from penstock.ledger.upkeep import Upkeep
from penstock.ledger.writer import Writer
from penstock.spec.accounts import check_opening
from penstock.spec.books import Balance, miner_account, payer_account
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.entries import Entry, EntryKind, parse_leaf
from penstock.spec.errors import BadMessage, SpecError
from penstock.spec.keys import Signed, open_signed
from penstock.spec.messages import Charter
from penstock.spec.params import Params, params_digest
from penstock.spec.receipts import parse_record
from penstock.spec.verdicts import check_verdict

LEASE_SUBJECT, RECEIPT_SUBJECT = "ledger.lease", "ledger.receipt"
QUESTION_BYTES_MAX = 4096
SEQ_MAX = 2**62


@dataclass
class Ledger:
    """Give it ports, `await start()`, then keep `run()` going. `charter` is signed by the operator
    it names and names this ledger's key.
    """

    charter: Signed
    params: Params
    store: Store
    bus: Bus
    files: Files
    key: LogKey
    verify: Verify
    clock: Clock
    entropy: Entropy
    metrics: Metrics
    writer: Writer = field(init=False)
    consumer: Consumer = field(init=False)
    upkeep: Upkeep = field(init=False)
    notary: Notary = field(init=False)
    claims: Claims = field(init=False)
    _charters: list[tuple[int, Charter]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Wire the parts together. Raises a SpecError if the charter does not hold."""
        charter = check_charter(
            self.charter, self.params, ledger=self.key.identity, verify=self.verify
        )
        self._charter = charter
        self.writer = Writer(self.store, params=self.params)
        self.notary = Notary(charter.origin, key=self.key, log=self.store)
        self.consumer = Consumer(
            bus=self.bus,
            writer=self.writer,
            rules=self.rules,
            clock=self.clock,
            metrics=self.metrics,
        )
        self.claims = Claims(writer=self.writer, consumer=self.consumer, clock=self.clock)
        self.upkeep = Upkeep(
            store=self.store,
            writer=self.writer,
            files=self.files,
            key=self.key,
            clock=self.clock,
            metrics=self.metrics,
            consumer=self.consumer,
            notary=self.notary,
            charter_at=self.charter_at,
            about={
                "origin": charter.origin,
                "log_key": self.key.identity,
                "operator": charter.operator,
                "network": charter.network,
            },
        )

    # Life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the first epoch, log the charter if it is new. Raises StoreDown."""
        body = to_plain(self.charter)
        while True:
            logged = await self.store.entries_under(EntryKind.CHARTER, prefix="", seq_max=SEQ_MAX)
            known = [(one.seq, parse_leaf(one.leaf).body) for one in logged]
            self._charters = [(seq, from_plain(Charter, said["body"])) for seq, said in known]
            if known and known[-1][1] == body:
                return

            def decide(draft: Draft, size: int = len(known)) -> None:
                draft.open_first_epoch(self.clock.now_ms() // self.params.epoch_ms)
                # Numbered, because a market may return to a charter it had before.
                entry = Entry(kind=EntryKind.CHARTER, entry_id=f"charter/{size}", body=body)
                if draft.find((entry.kind, entry.entry_id)) is None:
                    draft.append(entry)

            wanted = Wanted(entries=((EntryKind.CHARTER, f"charter/{len(known)}"),))
            await self.writer.decide(wanted, decide)

    async def run(self) -> None:
        """Serve the bus, take in, keep up; until cancelled."""
        report = crash_recorder(self.metrics)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.bus.answer(LEASE_SUBJECT, self.answer_lease))
            await stack.enter_async_context(self.bus.answer(RECEIPT_SUBJECT, self.answer_receipt))
            async with Scope() as scope:
                scope.supervise("ledger-intake", self.consumer.run, on_event=report)
                scope.supervise("ledger-upkeep", self.upkeep.run, on_event=report)
                await asyncio.Event().wait()

    def rules(self) -> Rules:
        """What arrivals are judged by."""
        return Rules(charter=self._charter, params=self.params, verify=self.verify)

    def charter_at(self, seq: int) -> Charter:
        """The newest charter logged before this entry."""
        before = [charter for at, charter in self._charters if at < seq]
        return before[-1] if before else self._charter

    # Asked over the bus ---------------------------------------------------------------------------

    async def answer_lease(self, data: bytes) -> bytes:
        """`ledger.lease`: see docs/interfaces.md."""
        try:
            answer = await self.lease(data)
        except Rejected as error:
            self.metrics.count("ledger_leases_refused_total", reason=error.reason)
            return _json({"error": error.reason})
        except StoreDown:
            return _json({"error": "store_down"})
        if isinstance(answer, NotGranted):
            self.metrics.count("ledger_leases_refused_total", reason="insufficient_funds")
            return _json({"error": "insufficient_funds", "available_nano": answer.available_nano})
        return _json(answer)

    async def lease(self, data: bytes) -> Granted | NotGranted:
        """Grant or extend a lease. Raises Rejected and StoreDown."""
        if len(data) > QUESTION_BYTES_MAX:
            raise Rejected("too_large")
        question = read_question(data)
        if question.gateway not in self._charter.gateways:
            raise Rejected("unknown_gateway")
        account = await self.account_of(question.key_hash)
        if account is None:
            raise Rejected("unknown_key")
        now_ms, fresh = self.clock.now_ms(), "l-" + self.entropy(LEASE_ID_BYTES).hex()
        return await self.writer.decide(
            wanted_for(question, account),
            lambda draft: grant(
                draft, question, account=account, now_ms=now_ms, new_lease_id=fresh
            ),
        )

    async def answer_receipt(self, data: bytes) -> bytes:
        """`ledger.receipt`: the body of `GET /v1/receipts/{id}`, or `not_found`."""
        try:
            question = msgspec.json.decode(data[:QUESTION_BYTES_MAX], type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _json({"error": "malformed"})
        try:
            found = await self.receipt(question.get("order_id", ""))
        except StoreDown:
            return _json({"error": "store_down"})
        return _json({"error": "not_found"} if found is None else found)

    # Asked over HTTP ------------------------------------------------------------------------------

    async def account_of(self, key_hash: str) -> str | None:
        """The account that this key may spend from."""
        return (await self.writer.look(Wanted(key_hashes=(key_hash,)))).keys.get(key_hash)

    async def balance(self, account: str) -> Balance:
        """What a payer has."""
        return await self.store.balance(payer_account(account))

    async def earned_nano(self, identity: str) -> int:
        """What a miner has earned. Nothing is paid out of these accounts here."""
        return (await self.store.balance(miner_account(identity))).posted_nano

    async def open_account(self, signed: Signed) -> tuple[str, int]:
        """(account, what it has free) after the opening, done once per id.

        Raises a SpecError (not the operator's), AccountConflict, StoreDown.
        """
        opening = check_opening(signed, operator=self._charter.operator, verify=self.verify)
        account = payer_account(opening.account)
        wanted = Wanted(
            accounts=(account,),
            operations=(f"opening/{opening.opening_id}",),
            key_hashes=(opening.key_hash,),
        )

        def decide(draft: Draft) -> int:
            draft.open_account(opening)
            return draft.books.balance(account).free_nano

        return opening.account, await self.writer.decide(wanted, decide)

    async def receipt(self, order_id: str) -> dict[str, Any] | None:
        """A logged record with its proof under the newest checkpoint; None while unknown."""
        if not ORDER_ID.fullmatch(order_id):
            return None
        logged = await self.store.entry((EntryKind.RECORD, order_id))
        if logged is None:
            return None
        frontier = (await self.writer.look(Wanted())).frontier
        proven = await self.notary.prove((logged.seq,), frontier)
        return {
            "record": parse_leaf(logged.leaf).body,
            "seq": logged.seq,
            "checkpoint": proven.checkpoint,
            "size": proven.size,
            "proof": [sibling.hex() for sibling in proven.proofs[0]],
        }

    async def take_claims(self, claims: Sequence[object]) -> list[dict[str, str]]:
        """One answer per claim, in order. Raises StoreDown."""
        answers = await self.claims.take(claims, self.rules())
        for answer in answers:
            self.metrics.count("ledger_claims_total", state=answer["state"])
        return answers

    async def take_report(self, signed: Signed) -> None:
        """Log a validator's report: one per validator and epoch, after the epoch closed.

        Raises Rejected and StoreDown.
        """
        report = read_report(signed, params=self.params, verify=self.verify)
        state = await self.store.epoch(report.epoch)
        if state is None or state.close_seq < 0:
            raise Rejected("epoch_open", f"epoch {report.epoch} is not closed")
        check_seat(report.validator, self.charter_at(state.close_seq))
        size = state.close_seq + 1
        root = (await self.notary.frontier_at(size)).root().hex()
        if (report.log_size, report.log_root) != (size, root):
            raise Rejected("other_log", f"epoch {report.epoch} ends at size {size}, root {root}")
        entry = report_entry(report, signed)
        settled = (EntryKind.SETTLEMENT, f"settlement/{report.epoch}")

        def decide(draft: Draft) -> None:
            logged = draft.find((entry.kind, entry.entry_id))
            if logged is not None:
                if parse_leaf(logged.leaf).body != entry.body:
                    raise Rejected("second_report", "this validator has reported on this epoch")
            elif draft.find(settled) is not None:
                raise Rejected("epoch_settled", f"epoch {report.epoch} is settled")
            else:
                draft.append(entry)

        await self.writer.decide(Wanted(entries=((entry.kind, entry.entry_id), settled)), decide)

    async def take_verdict(self, signed: Signed) -> None:
        """Log a verdict that proves itself against the logged record; one per order is enough.

        Raises Rejected and StoreDown.
        """
        check_seat(signed.signer, self._charter)
        order_id = signed.body.get("order_id")
        if not isinstance(order_id, str) or not ORDER_ID.fullmatch(order_id):
            raise Rejected("refused", "the verdict names no order")
        logged = await self.store.entry((EntryKind.RECORD, order_id))
        if logged is None:
            raise Rejected("unknown_order", order_id)
        try:
            record = parse_record(parse_leaf(logged.leaf).body)
            check_verdict(signed, record, verify=self.verify)
        except SpecError as error:
            raise Rejected("unproven", str(error)[:200]) from error
        entry_id = f"verdict/{order_id}"
        entry = Entry(kind=EntryKind.VERDICT, entry_id=entry_id, body=to_plain(signed))

        def decide(draft: Draft) -> None:
            if draft.find((entry.kind, entry.entry_id)) is None:
                draft.append(entry)

        await self.writer.decide(Wanted(entries=((entry.kind, entry.entry_id),)), decide)

    async def epochs(self) -> dict[str, int]:
        """Where the market stands."""
        view = await self.writer.look(Wanted())
        closed, settled = await self.store.newest()
        current = -1 if view.epoch is None else view.epoch.epoch
        return {
            "epoch": current,
            "closed": closed,
            "settled": settled,
            "log_size": view.frontier.size,
        }

    def health(self) -> dict[str, Any]:
        """What an operator should know. `problems` is empty when all is well."""
        problems = []
        if self.upkeep.is_disk_full:
            problems.append(
                f"The disk for published files is full: {self.upkeep.unpublished} closed epochs "
                "wait to be published. Records are still taken in. Free space; it goes on by itself."
            )
        return {"status": "degraded" if problems else "ok", "problems": problems}


def check_charter(signed: Signed, params: Params, *, ledger: str, verify: Verify) -> Charter:
    """A charter that this ledger may serve under. Raises a SpecError."""
    charter = open_signed(Charter, signed, kind="charter", verify=verify)
    if signed.signer != charter.operator:
        raise BadMessage(kind="charter", reason="the signer is not the operator it names")
    if charter.ledger != ledger:
        raise BadMessage(kind="charter", reason=f"names another ledger key than {ledger}")
    if (charter.network, charter.params_digest) != (params.network, params_digest(params)):
        raise BadMessage(kind="charter", reason="another network, or other numbers")
    return charter


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
