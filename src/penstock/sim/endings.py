"""What must hold when a world is over: every order ended once, everybody got and paid what is due,
and a stranger who reads the published files comes to the same scores and payouts.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random

from penstock.client.audit import Auditor
from penstock.client.errors import ClientError, NotPublished
from penstock.kit.keys import verify_raw
from penstock.kit.ports import Files
from penstock.ledger.state import Logged
from penstock.sim.checks import BookChecks
from penstock.sim.ground import Ground
from penstock.sim.witness import Sent
from penstock.spec.books import POOL, RESERVE, miner_account, payer_account
from penstock.spec.canon import from_plain
from penstock.spec.entries import EntryKind, parse_leaf
from penstock.spec.messages import Report, Settlement
from penstock.spec.pricing import split_charge
from penstock.spec.receipts import Judgement, Outcome, judge, parse_record

AUDITS_MAX = 2
"""Each recomputes its whole window, so more of them say little more."""


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Published files as an auditor reads them."""

    files: Files

    async def get(self, name: str) -> bytes:
        """Raises NotPublished."""
        try:
            return self.files.read(name)
        except FileNotFoundError as error:
            raise NotPublished(name) from error


class Endings:
    """All checks at the end of a world."""

    def __init__(self, ground: Ground, books: BookChecks) -> None:
        self._ground = ground
        self._books = books
        self.outcomes: Counter[str] = Counter()
        self.epochs: list[int] = []
        self.audited = 0

    async def check(self) -> None:
        """Everything. The world must be at rest."""
        judged = self._judged()
        self._orders(judged)
        self._operator_paid(judged)
        self._accounts(judged)
        self._reports()
        await self._audits(self._ground.chance.stream("audits"))

    def _breaks(self, check: str, detail: str) -> None:
        self._ground.witness.breaks(check, detail)

    def _logged(self, kind: EntryKind) -> list[Logged]:
        return [one for one in self._ground.ledger_store.log if one.kind is kind]

    def _judged(self) -> dict[str, Judgement]:
        """Every record of the log, judged from its signatures alone."""
        ground, judged = self._ground, {}
        for logged in self._logged(EntryKind.RECORD):
            record = parse_record(parse_leaf(logged.leaf).body)
            judged[logged.entry_id] = judge(
                record,
                refusal_free_ms=ground.params.refusal_free_ms,
                verify=ground.keyring.verify,
            )
        self.outcomes = Counter(one.outcome.value for one in judged.values())
        return judged

    # Orders.

    def _orders(self, judged: dict[str, Judgement]) -> None:
        """Every order ends once; only a gateway that died may leave one without an end."""
        witness = self._ground.witness
        for order_id in judged.keys() - witness.sent.keys():
            self._breaks("every record has an order", order_id)
        for order_id, sent in witness.sent.items():
            self._order(order_id, sent, judged.get(order_id))
        for dispute in self._logged(EntryKind.DISPUTE):
            sent_before = witness.sent.get(dispute.entry_id.partition("/")[0])
            if sent_before is None or not sent_before.life.was_killed:
                self._breaks("nobody contradicts himself", f"dispute {dispute.entry_id}")

    def _order(self, order_id: str, sent: Sent, judgement: Judgement | None) -> None:
        gateway = f"{order_id} of {sent.life.host}/{sent.life.number}"
        if judgement is None:
            if not sent.life.was_killed:
                self._breaks("every order ends in the log", f"{gateway} has no record")
            return
        if judgement.outcome is Outcome.GATEWAY_FAILED:
            if not sent.life.was_killed:
                self._breaks("only a dead gateway fails", f"{gateway} was claimed by its miner")
            return
        word = self._ground.witness.words.get(order_id)
        if word is None:
            return
        if (word.outcome, word.charge_nano) != (judgement.outcome, judgement.charge_nano):
            detail = f"{gateway} told its payer {word}, and the log {judgement}"
            self._breaks("a payer is told what is logged", detail)
        if word.account != sent.account:
            self._breaks("an answer goes to who pays", f"{gateway}: {word} for {sent.account}")

    # Money.

    def _operator_paid(self, judged: dict[str, Judgement]) -> None:
        """The operator pays what a payer owes only when its gateway died before it could say so."""
        for order_id in self._books.operator_paid:
            sent = self._ground.witness.sent[order_id]
            if judged[order_id].charge_nano and not sent.life.was_killed:
                detail = f"{order_id} of {sent.life.host}/{sent.life.number}: {judged[order_id]}"
                self._breaks("payers pay for what they got", detail)

    def _accounts(self, judged: dict[str, Judgement]) -> None:
        """Every balance, derived from the log and the credits alone."""
        expected: Counter[str] = Counter()
        for payer in self._ground.cast.payers:
            expected[payer_account(payer.account)] += payer.credit_nano
        fees = self._ground.params.fees
        for order_id, one in judged.items():
            parts = split_charge(one.charge_nano or one.earned_nano, fees)
            expected[miner_account(one.order.miner)] += parts.miner_nano
            if one.charge_nano:
                expected[POOL] += parts.pool_nano
            if one.charge_nano and order_id not in self._books.operator_paid:
                account = self._ground.witness.sent[order_id].account
                expected[payer_account(account)] -= one.charge_nano
        for logged in self._logged(EntryKind.SETTLEMENT):
            self._settle(expected, logged)
        balances = self._ground.ledger_store.books.accounts
        names = {*balances, *expected} - {"operator", "mint"}
        for name in sorted(names):
            posted = balances[name].posted_nano if name in balances else 0
            if posted != expected[name]:
                detail = f"{name} has {posted}, the log makes it {expected[name]}"
                self._breaks("everybody has what the log says", detail)

    def _settle(self, expected: Counter[str], logged: Logged) -> None:
        body = parse_leaf(logged.leaf).body["body"]
        settlement = from_plain(Settlement, body)
        paid = sum(one.amount_nano for one in settlement.payouts)
        if paid + settlement.reserve_nano != settlement.pool_nano:
            self._breaks("a split adds up to its whole", f"{logged.entry_id}: {settlement}")
        expected[POOL] -= settlement.pool_nano
        expected[RESERVE] += settlement.reserve_nano
        for one in settlement.payouts:
            expected[miner_account(one.identity)] += one.amount_nano

    # Scores.

    def _reports(self) -> None:
        """Two validators of one epoch say the same, to the byte."""
        said: dict[int, list[Report]] = {}
        for logged in self._logged(EntryKind.REPORT):
            report = from_plain(Report, parse_leaf(logged.leaf).body["body"])
            said.setdefault(report.epoch, []).append(report)
        for epoch, reports in said.items():
            views = {(one.evidence_digest, one.log_root, one.scores) for one in reports}
            if len(views) != 1:
                self._breaks("validators agree", f"epoch {epoch}: {reports}")
        self._ground.witness.counts["reports"] = sum(len(reports) for reports in said.values())

    async def _audits(self, rng: Random) -> None:
        """Settled epochs recompute to the same bytes: the newest, and some of the others."""
        ground = self._ground
        self.epochs = [
            int(one.entry_id.rpartition("/")[2]) for one in self._logged(EntryKind.SETTLEMENT)
        ]
        chosen = self.epochs[-1:]
        chosen += rng.sample(self.epochs[:-1], k=min(AUDITS_MAX - 1, len(self.epochs[:-1])))
        auditor = Auditor(
            source=FilesSource(ground.files),
            verify=ground.keyring.verify,
            verify_raw=verify_raw,
            log_key=ground.keyring.log_key().identity,
        )
        for epoch in sorted(chosen):
            try:
                found = await auditor.audit(epoch)
            except ClientError as error:
                self._breaks("published epochs audit as identical", f"epoch {epoch}: {error}")
            else:
                if found.decisions_broken:
                    what = f"epoch {epoch}: {found.decisions_broken} records"
                    self._breaks("requests are routed by the policy that is named", what)
            self.audited += 1
