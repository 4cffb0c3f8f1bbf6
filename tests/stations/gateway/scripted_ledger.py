"""A ledger in a few lines: it grants leases as the real one does and books what gateways publish."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from penstock.kit.ports import Bus, Clock, Verify
from penstock.kit.tasks import Scope
from penstock.spec.params import Params
from penstock.spec.receipts import Judgement, judge, parse_record


@dataclass
class Account:
    """An account's money: free, and charged."""

    free_nano: int
    charged_nano: int = 0


@dataclass
class Granted:
    """One lease."""

    account: str
    granted_nano: int
    spent_nano: int = 0
    is_open: bool = True
    gateway: str = ""


@dataclass
class ScriptedLedger:
    """Serves `ledger.*` and takes `events.>`; every record is judged by the law itself."""

    bus: Bus
    clock: Clock
    params: Params
    verify: Verify
    accounts: dict[str, Account] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    leases: dict[str, Granted] = field(default_factory=dict)
    judgements: dict[str, Judgement] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)

    def open_account(self, name: str, secret: str, *, credit_nano: int) -> None:
        self.accounts.setdefault(name, Account(credit_nano))
        self.keys[sha256(secret.encode()).hexdigest()] = name

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Answer and book while open."""
        async with (
            self.bus.answer("ledger.lease", self._lease),
            self.bus.answer("ledger.receipt", self._receipt),
            Scope() as scope,
        ):
            scope.start("events", self._book())
            yield
            scope.cancel()

    @property
    def held_nano(self) -> int:
        """What open leases still hold."""
        return sum(
            lease.granted_nano - lease.spent_nano for lease in self.leases.values() if lease.is_open
        )

    async def _lease(self, data: bytes) -> bytes:
        question = json.loads(data)
        self.questions.append(question)
        account = self.keys.get(question["key_hash"])
        if account is None:
            return b'{"error": "unknown_key"}'
        purse = self.accounts[account]
        need = question["need_nano"]
        amount = max(need, min(self.params.lease_amount_nano, -(-purse.free_nano // 4)))
        lease_id = question["lease_id"]
        lease = self.leases.get(lease_id)
        if purse.free_nano < need or (lease is None and not amount):
            refusal = {"error": "insufficient_funds", "available_nano": purse.free_nano}
            return json.dumps(refusal).encode()
        if lease is None or not lease.is_open:
            lease_id = f"l-{len(self.leases):032x}"
            lease = Granted(account, 0, gateway=question["gateway"])
            self.leases[lease_id] = lease
        elif not need:
            amount = 0
        lease.granted_nano += amount
        purse.free_nano -= amount
        answer = {
            "account": account,
            "lease_id": lease_id,
            "granted_nano": lease.granted_nano,
            "expires_ms": self.clock.now_ms() + self.params.lease_ttl_ms,
        }
        return json.dumps(answer).encode()

    async def _receipt(self, data: bytes) -> bytes:
        order_id = json.loads(data)["order_id"]
        for subject, event in self.events:
            if subject.startswith("events.record") and order_id == _order_id(event):
                answer = {
                    "record": event["record"],
                    "seq": 7,
                    "checkpoint": "note",
                    "size": 8,
                    "proof": [],
                }
                return json.dumps(answer).encode()
        return b'{"error": "not_found"}'

    async def _book(self) -> None:
        async for delivery in self.bus.consume("events.>", group="ledger"):
            said = json.loads(delivery.data)
            for event in said.get("records", [said]):
                self.events.append((delivery.subject, event))
                if delivery.subject.startswith("events.record."):
                    self._post(event)
                else:
                    self._close(event)
            await delivery.ack()

    def _post(self, event: dict[str, Any]) -> None:
        judgement = judge(
            parse_record(event["record"]),
            refusal_free_ms=self.params.refusal_free_ms,
            verify=self.verify,
        )
        order_id = judgement.order.order_id
        assert order_id not in self.judgements, "one record per order"
        self.judgements[order_id] = judgement
        lease = self.leases[event["lease_id"]]
        assert lease.account == event["account"]
        assert lease.is_open, "a closing never overtakes a record"
        lease.spent_nano += judgement.charge_nano
        assert lease.spent_nano <= lease.granted_nano, "no lease is overdrawn"
        self.accounts[lease.account].charged_nano += judgement.charge_nano

    def _close(self, event: dict[str, Any]) -> None:
        """A lease by its id, or `*`: all that this gateway's former life held."""
        for known, lease in self.leases.items():
            is_meant = event["lease_id"] == known
            if event["lease_id"] == "*":
                is_meant = lease.gateway == event["gateway"]
            if lease.is_open and is_meant:
                lease.is_open = False
                self.accounts[lease.account].free_nano += lease.granted_nano - lease.spent_nano


def _order_id(event: dict[str, Any]) -> str:
    order_id: str = event["record"]["order"]["body"]["order_id"]
    return order_id
