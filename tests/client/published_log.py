"""A small market's log and its published files, honest unless a test says how it is to be altered.

Three epochs (the ledger was down in the fourth): two miners, two chutes, rolls, a bounty, a proven
lie, three validators. The files are written by the ledger's own publisher.
"""

import hashlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.client.memory_log import DictSource, MemoryLog
from tests.makers import (
    GATEWAY,
    PRICE,
    ToyKey,
    make_countersign,
    make_order,
    make_receipt,
    toy_verify,
)

from penstock.client.audit import Auditor, collect
from penstock.client.published import Source
from penstock.client.segments import Leaf
from penstock.client.window import governing_charter
from penstock.kit.keys import Ed25519Key, verify_raw
from penstock.kit.keys import verify as verify_key
from penstock.kit.ports import Sign
from penstock.ledger.notary import Notary
from penstock.ledger.publisher import Publisher
from penstock.ledger.state import EpochState
from penstock.sim.disk import MemoryFiles
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.consensus import agree
from penstock.spec.entries import Close, Entry, EntryKind, Row, parse_leaf, row_of
from penstock.spec.evidence import evidence_digest
from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.messages import (
    Charter,
    Claimed,
    Order,
    Presence,
    Report,
    Roll,
    Seat,
    Settlement,
    Verdict,
)
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.pricing import charge_ceiling, split_charge
from penstock.spec.receipts import Record, judge
from penstock.spec.scoring import score
from penstock.spec.settlement import settle
from penstock.spec.units import Units

OPERATOR, MARKET = ToyKey("operator"), ToyKey("market")
MINERS = (ToyKey("fast"), ToyKey("slow"))
LIAR = ToyKey("liar")
VALIDATORS = (ToyKey("first"), ToyKey("second"), ToyKey("third"))
STRANGER = ToyKey("stranger")
CHUTES = ("sha256:" + "a" * 64, "sha256:" + "b" * 64)
ORIGIN = "log.example/penstock"
LOG_KEY = Ed25519Key(bytes(range(32)))
EPOCHS = (10, 11, 13)
LAST = EPOCHS[-1]
FIRST_EPOCH_FILE = f"epochs/{EPOCHS[0]:08d}/epoch.json"
DISK_BYTES_MAX = 1 << 30


def verify(identity: str, digest: bytes, signature: str) -> bool:
    """Toy keys for the people of the market, ed25519 for the log."""
    return toy_verify(identity, digest, signature) or verify_key(identity, digest, signature)


def unaltered(value: Any) -> Any:
    return value


@dataclass
class Alterations:
    """Where a dishonest party of this market puts its hand."""

    row: Callable[[Row], Row] = unaltered
    report: Callable[[Report], Report] = unaltered
    settlement: Callable[[Settlement], Settlement] = unaltered
    close: Callable[[Close], Close] = unaltered
    charter: Callable[[Charter], Charter] = unaltered
    record: Callable[[Record], Record] = unaltered
    reporters: tuple[ToyKey, ...] = VALIDATORS
    roll_key: ToyKey = MARKET
    settlement_key: Sign = LOG_KEY
    log_key: Ed25519Key = LOG_KEY
    records_twice: bool = False
    is_settled: bool = True


class PublishedLog:
    """Append, close, settle; the files are in `source` after each step."""

    def __init__(self, alter: Alterations | None = None) -> None:
        self.alter = alter or Alterations()
        self.log = MemoryLog()
        self.files = MemoryFiles(bytes_max=DISK_BYTES_MAX)
        self.notary = Notary(ORIGIN, key=self.alter.log_key, log=self.log)
        self.publisher = Publisher(self.files, self.log, self.notary)
        self.epoch = EPOCHS[0]
        self.first_seq = 0
        self.previous = -1
        self.pools: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.publisher.write_operator(
            {
                "origin": ORIGIN,
                "log_key": LOG_KEY.identity,
                "operator": OPERATOR.identity,
                "network": LOCAL.network,
            }
        )

    @property
    def published(self) -> dict[str, bytes]:
        return {name: self.files.read(name) for name in self.files.names("")}

    def append(
        self, kind: EntryKind, entry_id: str, body: dict[str, Any], row: Row | None = None
    ) -> int:
        return self.log.append(self.epoch, Entry(kind, entry_id, body), row)

    def add_charter(self, **changes: Any) -> None:
        charter = Charter(
            origin=ORIGIN,
            network=LOCAL.network,
            params_digest=params_digest(LOCAL),
            operator=OPERATOR.identity,
            ledger=LOG_KEY.identity,
            market=MARKET.identity,
            gateways=(GATEWAY.identity,),
            seats=tuple(
                Seat(key.identity, stake) for key, stake in zip(VALIDATORS, (5, 3, 2), strict=True)
            ),
        )
        signed = sign("charter", self.alter.charter(replace(charter, **changes)), OPERATOR)
        self.append(EntryKind.CHARTER, f"charter/{self.log.frontier.size}", to_plain(signed))

    def add_record(self, record: Record) -> None:
        judgement = judge(record, refusal_free_ms=LOCAL.refusal_free_ms, verify=verify)
        order_id = judgement.order.order_id
        pool = split_charge(judgement.charge_nano, LOCAL.fees).pool_nano
        for _ in range(1 + self.alter.records_twice):
            self.pools[self.epoch] = self.pools.get(self.epoch, 0) + pool
            row = self.alter.row(row_of(judgement, LOCAL))
            body = to_plain(self.alter.record(record))
            self.append(EntryKind.RECORD, order_id, body, row)

    def add_roll(self, presences: Sequence[Presence], bounties: Sequence[Claimed] = ()) -> None:
        roll = Roll(self.epoch, tuple(presences), tuple(bounties))
        signed = sign("roll", roll, self.alter.roll_key)
        self.append(EntryKind.ROLL, f"roll/{self.epoch}", to_plain(signed))

    def add_verdict(self, verdict: Verdict, key: ToyKey) -> None:
        body = to_plain(sign("verdict", verdict, key))
        self.append(EntryKind.VERDICT, f"verdict/{verdict.order_id}", body)

    async def close(self) -> int:
        """End the open epoch and publish it; the next one is the next of EPOCHS."""
        epoch = self.epoch
        close = self.alter.close(Close(epoch, self.previous, at_ms=epoch * LOCAL.epoch_ms))
        seq = self.append(EntryKind.CLOSE, f"close/{epoch}", to_plain(close))
        state = EpochState(epoch=epoch, first_seq=self.first_seq, close_seq=seq)
        await self.publisher.publish(state)
        self.previous, self.first_seq = epoch, seq + 1
        self.ends[epoch] = seq + 1
        later = [one for one in EPOCHS if one > epoch]
        self.epoch = later[0] if later else epoch + 1
        return epoch

    async def make_report(self, epoch: int, key: Sign) -> Signed:
        """What an honest validator reports of a closed epoch."""
        auditor = Auditor(DictSource(self.published), verify, verify_raw)
        segments = await auditor.window(epoch)
        operator, params = await auditor.operator()
        charters = [
            Leaf(one.seq, one.leaf, parse_leaf(one.leaf), None)
            for one in self.log.entries_
            if one.kind is EntryKind.CHARTER
        ]
        charter = governing_charter(
            charters, size=segments[-1].end.size, operator=operator, verify=verify
        )
        evidence = collect(segments, charter=charter, verify=verify)
        report = Report(
            validator=key.identity,
            epoch=epoch,
            policy=params.policy,
            log_size=segments[-1].checkpoint.size,
            log_root=segments[-1].checkpoint.root.hex(),
            evidence_digest=evidence_digest(evidence),
            scores=score(evidence, params),
        )
        return sign("report", report, key)

    async def settle(self, epoch: int) -> None:
        """Log the reports and the settlement of a closed epoch and publish its outcome."""
        reports: list[tuple[Signed, Report]] = []
        for key in self.alter.reporters:
            honest = await self.make_report(epoch, key)
            report = self.alter.report(from_signed(honest))
            signed = sign("report", report, key)
            self.append(EntryKind.REPORT, f"report/{epoch}/{key.identity}", to_plain(signed))
            reports.append((signed, report))
        if self.alter.is_settled:
            self._append_settlement(epoch, reports)
        about = {EntryKind.REPORT, EntryKind.SETTLEMENT}
        logged = [
            one
            for one in self.log.entries_
            if one.kind is EntryKind.CHARTER or (one.kind in about and one.seq >= self.first_seq)
        ]
        await self.publisher.publish_outcome(epoch, logged, frontier=self.log.frontier)

    def _append_settlement(self, epoch: int, reports: list[tuple[Signed, Report]]) -> None:
        consensus = agree(
            {
                report.validator: {one.miner: one.total_ppm for one in report.scores}
                for _, report in reports
            },
            {key.identity: stake for key, stake in zip(VALIDATORS, (5, 3, 2), strict=True)},
            entity_stake_max_ppm=LOCAL.entity_stake_max_ppm,
            kappa_ppm=LOCAL.kappa_ppm,
        )
        settlement = settle(
            epoch,
            self.pools.get(epoch, 0),
            weights=consensus.weights_ppm,
            reports=[signed_digest(signed) for signed, _ in reports],
        )
        signed = sign("settlement", self.alter.settlement(settlement), self.alter.settlement_key)
        self.append(EntryKind.SETTLEMENT, f"settlement/{epoch}", to_plain(signed))


def from_signed(signed: Signed) -> Report:
    return from_plain(Report, signed.body)


def served(order: Order, key: ToyKey, *, total_us: int, body: bytes = b"answer") -> Record:
    """A complete record: this miner served this order, and the gateway saw the same."""
    digest = hashlib.sha256(body).hexdigest()
    units = Units(prompt=20, cached=0, completion=order.completion_max, images=0, audio_ms=0)
    said = make_receipt(order, units=units, response_digest=digest, response_bytes=len(body))
    receipt = sign("receipt", said, key)
    seen = make_countersign(order, receipt, total_us=total_us, response_bytes=len(body))
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=receipt,
        checkpoint=None,
        countersign=sign("countersign", seen, GATEWAY),
    )


def order_for(order_id: str, key: ToyKey, *, chute: str, completion: int = 10) -> Order:
    ceiling = charge_ceiling(PRICE, prompt_max=100, completion_max=completion)
    return make_order(
        order_id=order_id,
        miner=key.identity,
        instance=f"{key.name}-1",
        chute=chute,
        completion_max=completion,
        charge_max=ceiling,
    )


def failure(order: Order) -> Record:
    """A record of a miner that never answered."""
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=None,
        checkpoint=None,
        countersign=sign("countersign", make_countersign(order, None), GATEWAY),
    )


def presence(key: ToyKey, chute: str, **changes: Any) -> Presence:
    return replace(
        Presence(
            instance=f"{key.name}-1",
            miner=key.identity,
            chute=chute,
            device=f"device-{key.name}",
            hardware="cpu",
            beats_seen=50,
            beats_due=60,
            asked=True,
        ),
        **changes,
    )


def add_traffic(log: PublishedLog, *, tag: str = "") -> None:
    """An epoch's worth of records: the fast miner, the slow one, and a failure."""
    epoch = log.epoch
    for index in range(4):
        for key, slowness in zip(MINERS, (1, 3), strict=True):
            name = f"o-{tag}{epoch}-{key.name}-{index}"
            order = order_for(name, key, chute=CHUTES[index % 2], completion=5 + index)
            log.add_record(served(order, key, total_us=slowness * 20_000 + index))
    lost = order_for(f"o-{tag}{epoch}-lost", MINERS[1], chute=CHUTES[0])
    log.add_record(failure(lost))


LIE = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'


def add_lie(log: PublishedLog, accuser: ToyKey = VALIDATORS[0]) -> None:
    """A receipt for 50 units of an answer that holds one, and the verdict that proves it."""
    order = order_for("o-lie", LIAR, chute=CHUTES[0], completion=50)
    log.add_record(served(order, LIAR, total_us=9_000, body=LIE))
    transcript = b64encode(LIE).decode()
    verdict = Verdict(accuser.identity, log.epoch, LIAR.identity, "o-lie", transcript)
    log.add_verdict(verdict, accuser)


async def make_log(alter: Alterations | None = None, *, is_settled: bool = True) -> PublishedLog:
    """The whole market: EPOCHS closed and published, the last one settled."""
    log = PublishedLog(alter)
    log.add_charter()
    for epoch in EPOCHS:
        add_traffic(log)
        if epoch == EPOCHS[1]:
            add_lie(log)
        beats = [presence(key, CHUTES[0]) for key in (*MINERS, LIAR)]
        log.add_roll(beats, [Claimed(MINERS[1].identity, CHUTES[1], 100)])
        await log.close()
    if is_settled:
        await log.settle(LAST)
    return log


def auditor(source: Source) -> Auditor:
    return Auditor(source, verify, verify_raw, LOG_KEY.identity)
