"""Forged, stale and replayed words, from strangers and from those who hold a seat, on all roads.

Each is refused in words, counted, changes nothing, and kills nobody.
"""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest
from tests.e2e.books import check_books, reading, snapshot
from tests.e2e.market import RunningMarket
from tests.e2e.meters import counted

from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.nats import NatsBus
from penstock.kit.keys import Ed25519Key
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import Signed, parse_signed, sign
from penstock.spec.messages import Manifest, Offer, Order, Report, Tier, Verdict
from penstock.spec.units import FREE

STRANGER = Ed25519Key(hashlib.sha256(b"stranger").digest())
CHAT = "/v1/chat/completions"
REQUEST = json.dumps(
    {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
).encode()


@pytest.fixture(autouse=True)
def nothing_happens(market: RunningMarket) -> Iterator[None]:
    """The same processes run before and after, the market answers, the books hold."""
    before = market.pids()
    yield
    assert market.chat("Hello!").status_code == 200
    assert market.pids() == before
    check_books(snapshot(market))


def key_of(market: RunningMarket, name: str) -> Ed25519Key:
    return load_or_create_key(market.home / "keys" / f"{name}.json", os.urandom)


def call(method: str, url: str, body: object) -> httpx.Response:
    with httpx.Client(timeout=30) as client:
        return client.request(method, url, content=json.dumps(body).encode())


def code_of(reply: httpx.Response) -> str:
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    return str(error["code"])


def broken(signed: Signed) -> dict[str, Any]:
    """The same words under a signature of somebody's who did not sign them."""
    plain: dict[str, Any] = to_plain(signed)
    other = sign(signed.kind, {"other": "words"}, STRANGER)
    return {**plain, "signature": other.signature}


def bought(market: RunningMarket) -> dict[str, Any]:
    """One honest answer, as it stands in the log."""
    reply = market.ask(CHAT, REQUEST)
    assert reply.status_code == 200
    document: dict[str, Any] = market.logged(reply.headers["x-penstock-order"])
    return document


class TestOffers:
    """At the market."""

    def offer(self, market: RunningMarket, **changes: Any) -> Offer:
        listed = httpx.get(market.url("market") + "/v1/chutes").json()["chutes"]
        chute = next(one["chute"] for one in listed if one["name"] == "tiny-chat")
        now_ms = market.market_ms()
        offer = Offer(
            instance="stranger-1",
            miner=STRANGER.identity,
            chute=chute,
            endpoint="http://127.0.0.1:9",
            price=replace(FREE, prompt=1, cached=1, completion=1),
            room=0,
            hardware="cpu",
            device="nowhere",
            tier=Tier.OPEN,
            issued_ms=now_ms,
            valid_until_ms=now_ms + 4_000,
            seq=1,
        )
        return replace(offer, **changes)

    def post(self, market: RunningMarket, offer: dict[str, Any]) -> httpx.Response:
        body = {"offer": offer, "delegation": None}
        return call("POST", market.url("market") + "/v1/offers", body)

    def test_a_forged_or_impossible_offer_is_refused(self, market: RunningMarket) -> None:
        series = 'market_refused_total{code="bad_offer"}'
        before = counted(market.url("market"), series)
        honest = self.offer(market)
        miner = market.identities("miner-1")[0]
        day_ms = 86_400_000
        cases = [
            broken(sign("offer", honest, STRANGER)),
            to_plain(sign("offer", replace(honest, miner=miner), STRANGER)),
            to_plain(sign("order", honest, STRANGER)),
            to_plain(sign("offer", replace(honest, room=-1), STRANGER)),
            to_plain(sign("offer", replace(honest, valid_until_ms=1), STRANGER)),
            to_plain(sign("offer", replace(honest, issued_ms=honest.issued_ms + day_ms), STRANGER)),
        ]
        for forged in cases:
            reply = self.post(market, forged)
            assert (reply.status_code, code_of(reply)) == (400, "bad_offer"), reply.text
        assert counted(market.url("market"), series) == before + len(cases)

    def test_a_stale_offer_and_one_of_no_chute_are_refused(self, market: RunningMarket) -> None:
        new = self.offer(market, instance="stranger-2", seq=7)
        assert self.post(market, to_plain(sign("offer", new, STRANGER))).status_code == 200
        stale = self.post(market, to_plain(sign("offer", replace(new, seq=6), STRANGER)))
        assert (stale.status_code, code_of(stale)) == (409, "stale_offer")
        nowhere = replace(new, chute="sha256:" + "0" * 64, instance="stranger-3")
        unknown = self.post(market, to_plain(sign("offer", nowhere, STRANGER)))
        assert (unknown.status_code, code_of(unknown)) == (404, "unknown_chute")
        shapeless = self.post(market, {"kind": "offer"})
        assert (shapeless.status_code, code_of(shapeless)) == (422, "invalid_shape")

    def test_nobody_withdraws_another_ones_instance(self, market: RunningMarket) -> None:
        miners = httpx.get(market.url("market") + "/v1/miners").json()["miners"]
        instance = next(one["instance"] for miner in miners for one in miner["instances"])
        gone = self.offer(market, instance=instance, seq=2**40)
        for signed in (
            to_plain(sign("offer", gone, STRANGER)),
            broken(sign("offer", gone, STRANGER)),
        ):
            url = f"{market.url('market')}/v1/offers/{instance}"
            assert call("DELETE", url, signed).status_code == 400
        after = httpx.get(market.url("market") + "/v1/miners").json()["miners"]
        assert instance in {one["instance"] for miner in after for one in miner["instances"]}

    def test_nobody_takes_another_ones_name(self, market: RunningMarket) -> None:
        url = market.url("market") + "/v1/chutes"
        listed = httpx.get(url).json()["chutes"]
        body = next(one["manifest"]["body"] for one in listed if one["name"] == "tiny-chat")
        manifest = from_plain(Manifest, body)
        mine = replace(manifest, owner=STRANGER.identity)
        taken = call("POST", url, to_plain(sign("manifest", mine, STRANGER)))
        assert (taken.status_code, code_of(taken)) == (409, "name_taken")
        posed = call("POST", url, to_plain(sign("manifest", manifest, STRANGER)))
        assert (posed.status_code, code_of(posed)) == (400, "bad_manifest")
        forged = call("POST", url, broken(sign("manifest", mine, STRANGER)))
        assert (forged.status_code, code_of(forged)) == (400, "bad_manifest")
        assert httpx.get(url).json()["chutes"][0]["manifest"] is not None


class TestOrders:
    """At a miner."""

    def send(self, market: RunningMarket, signed: object, body: bytes = REQUEST) -> httpx.Response:
        header = base64.urlsafe_b64encode(json.dumps(signed).encode()).decode().rstrip("=")
        with httpx.Client(timeout=30) as client:
            url = market.url(self.station(market, signed)) + CHAT
            return client.post(url, content=body, headers={"x-penstock-order": header})

    def station(self, market: RunningMarket, signed: object) -> str:
        body = signed.get("body", {}) if isinstance(signed, dict) else {}
        identities = market.identities("miner-1", "miner-2")
        return "miner-2" if body.get("miner") == identities[1] else "miner-1"

    def test_an_order_is_served_once_and_only_for_its_bytes(self, market: RunningMarket) -> None:
        signed = bought(market)["record"]["order"]
        url = market.url(self.station(market, signed))
        series = 'miner_orders_refused_total{code="order_replayed"}'
        before = counted(url, series)
        again = self.send(market, signed)
        assert (again.status_code, code_of(again)) == (409, "order_replayed")
        assert counted(url, series) == before + 1
        other = self.send(market, signed, REQUEST.replace(b"Hello", b"Howdy"))
        assert (other.status_code, code_of(other)) == (400, "bad_order")

    def test_an_order_of_a_stranger_or_altered_is_refused(self, market: RunningMarket) -> None:
        signed = parse_signed(bought(market)["record"]["order"])
        order = from_plain(Order, signed.body)
        gateway = key_of(market, "gateway")
        fresh = replace(order, order_id="o-" + "0" * 32)
        cheap = replace(fresh, price=FREE)
        cases: list[tuple[object, int, str]] = [
            ({**to_plain(signed), "signature": "00" * 64}, 400, "bad_order"),
            (to_plain(sign("order", fresh, STRANGER)), 403, "gateway_unknown"),
            (to_plain(sign("order", replace(fresh, deadline_ms=1), gateway)), 400, "order_expired"),
            (to_plain(sign("order", cheap, gateway)), 409, "order_underpaid"),
            (
                to_plain(sign("order", replace(fresh, miner=STRANGER.identity), gateway)),
                404,
                "instance_unknown",
            ),
            ({"kind": "order"}, 400, "bad_order"),
            ([], 400, "bad_order"),
        ]
        for forged, status, code in cases:
            reply = self.send(market, forged)
            assert (reply.status_code, code_of(reply)) == (status, code), reply.text
        with httpx.Client(timeout=30) as client:
            naked = client.post(market.url("miner-1") + CHAT, content=REQUEST)
            junk = client.post(
                market.url("miner-1") + CHAT,
                content=REQUEST,
                headers={"x-penstock-order": "&" * 99},
            )
        assert (naked.status_code, code_of(naked)) == (401, "order_missing")
        assert (junk.status_code, code_of(junk)) == (400, "bad_order")

    def test_nobody_cancels_without_the_order(self, market: RunningMarket) -> None:
        signed = parse_signed(bought(market)["record"]["order"])
        order_id = signed.body["order_id"]
        url = f"{market.url(self.station(market, to_plain(signed)))}/v1/cancel/{order_id}"
        assert call("POST", url, {}).status_code == 400
        assert call("POST", url, broken(signed)).status_code == 400


class TestWordsToTheLedger:
    """Claims, reports, verdicts, openings, and events on the bus."""

    def test_forged_claims_are_rejected_one_by_one_and_change_nothing(
        self, market: RunningMarket
    ) -> None:
        url = market.url("ledger")
        record = bought(market)["record"]
        order, receipt = parse_signed(record["order"]), parse_signed(record["receipt"])
        fresh_id = "o-" + os.urandom(16).hex()
        body = {**order.body, "order_id": fresh_id}
        stranger_order = from_plain(Order, {**body, "gateway": STRANGER.identity})
        ours = from_plain(Order, body)
        claims: list[object] = [
            {
                "order": to_plain(sign("order", stranger_order, STRANGER)),
                "receipt": record["receipt"],
            },
            {
                "order": to_plain(sign("order", ours, key_of(market, "gateway"))),
                "receipt": record["receipt"],
            },
            {"order": {**to_plain(order), "body": body}, "receipt": record["receipt"]},
            {"order": 7, "receipt": None},
            "claim",
        ]
        rejected = 'ledger_claims_total{state="rejected"}'
        before, balances = counted(url, rejected), snapshot(market).paid_nano
        reply = call(
            "POST", f"{url}/v1/claims", {"claims": [one for one in claims if isinstance(one, dict)]}
        )
        assert reply.status_code == 200, reply.text
        answers = reply.json()["claims"]
        assert [one["state"] for one in answers] == ["rejected"] * 4, answers
        assert all(one["reason"] for one in answers)
        assert counted(url, rejected) == before + 4
        known = call(
            "POST",
            f"{url}/v1/claims",
            {"claims": [{"order": to_plain(order), "receipt": broken(receipt)}]},
        )
        assert known.json()["claims"][0]["state"] == "posted", "an order that is logged is settled"
        assert call("POST", f"{url}/v1/claims", {"claims": claims}).status_code == 422
        assert call("POST", f"{url}/v1/claims", {"claims": [{}] * 257}).status_code == 422
        assert fresh_id not in snapshot(market).outcomes
        assert set(balances) <= set(snapshot(market).paid_nano)

    def test_reports_of_strangers_and_about_another_log_are_rejected(
        self, market: RunningMarket
    ) -> None:
        url = market.url("ledger")
        closed = (
            market.until(lambda: market.ledger("/v1/epochs")["closed"] + 1, "an epoch is closed")
            - 1
        )
        seat = key_of(market, "validator-1")
        report = Report(
            validator=STRANGER.identity,
            epoch=closed,
            policy="v1",
            log_size=1,
            log_root="0" * 64,
            evidence_digest="0" * 64,
            scores=(),
        )
        cases = [
            (sign("report", report, STRANGER), 403, "no_seat"),
            (sign("report", replace(report, validator=seat.identity), STRANGER), 400, "refused"),
            (sign("report", replace(report, validator=seat.identity), seat), 400, "other_log"),
            (sign("report", replace(report, epoch=closed + 1000), STRANGER), 409, "epoch_open"),
            (sign("report", replace(report, policy="v0"), STRANGER), 400, "refused"),
        ]
        for signed, status, code in cases:
            series = f'ledger_rejected_total{{reason="{code}"}}'
            before = counted(url, series)
            reply = call("POST", f"{url}/v1/reports", to_plain(signed))
            assert (reply.status_code, code_of(reply)) == (status, code), reply.text
            assert counted(url, series) == before + 1
        assert call("POST", f"{url}/v1/reports", broken(cases[0][0])).status_code == 400

    def test_a_verdict_that_does_not_prove_itself_has_no_effect(
        self, market: RunningMarket
    ) -> None:
        url = market.url("ledger")
        order = bought(market)["record"]["order"]["body"]
        seat = key_of(market, "validator-1")
        verdict = Verdict(
            validator=seat.identity,
            epoch=1,
            miner=order["miner"],
            order_id=order["order_id"],
            transcript=base64.b64encode(b"what it never said").decode(),
        )
        unknown = replace(verdict, order_id="o-" + "1" * 32)
        cases = [
            (sign("verdict", verdict, seat), 400, "unproven"),
            (sign("verdict", unknown, seat), 404, "unknown_order"),
            (
                sign("verdict", replace(verdict, validator=STRANGER.identity), STRANGER),
                403,
                "no_seat",
            ),
        ]
        for signed, status, code in cases:
            reply = call("POST", f"{url}/v1/verdicts", to_plain(signed))
            assert (reply.status_code, code_of(reply)) == (status, code), reply.text
        assert reading(market, verdicts_count) == 0

    def test_nobody_but_the_operator_gives_credit(self, market: RunningMarket) -> None:
        opening = {
            "account": "rich",
            "key_hash": "0" * 64,
            "credit_nano": 10**15,
            "opening_id": "rich/1",
        }
        url = market.url("ledger") + "/v1/accounts"
        reply = call("POST", url, to_plain(sign("account", opening, STRANGER)))
        assert (reply.status_code, code_of(reply)) == (403, "not_the_operator")

    async def test_forged_events_on_the_bus_are_rejected_and_counted(
        self, market: RunningMarket
    ) -> None:
        """They come only from inside the operator, and even so: never fatal, never charged."""
        url = market.url("ledger")
        record = await asyncio.to_thread(lambda: bought(market)["record"])
        nats_url = json.loads((market.home / "config" / "gateway.json").read_text())["nats_url"]
        lease = "l-" + "0" * 32
        order = from_plain(Order, {**record["order"]["body"], "order_id": "o-" + "2" * 32})
        forged = {**record, "order": to_plain(sign("order", order, STRANGER))}
        no_lease = {"record": record, "account": "you", "lease_id": ""}
        cases: list[tuple[str, bytes, str]] = [
            ("record.gateway", b"junk", "malformed"),
            ("record.gateway", b"x" * 100_000, "too_large"),
            ("record.gateway", json.dumps(no_lease).encode(), "malformed"),
            (
                "record.gateway",
                json.dumps({"record": forged, "account": "you", "lease_id": lease}).encode(),
                "unknown_gateway",
            ),
            ("lease.gateway", b'{"lease_id": "*", "close": true}', "malformed"),
            ("log.market", b'{"kind": "charter", "id": "x", "body": {}}', "malformed"),
            ("nothing.known", b"{}", "unknown_subject"),
        ]
        wanted: dict[str, int] = {}
        for _, _, reason in cases:
            series = f'ledger_rejected_total{{reason="{reason}"}}'
            wanted[series] = wanted.get(series, counted(url, series)) + 1
        async with NatsBus(nats_url, name="stranger") as bus:
            for subject, data, _ in cases:
                name = hashlib.sha256(subject.encode() + data).hexdigest()
                await bus.publish(f"events.{subject}", data, event_id=f"forged/{name}")
            assert b"unknown_gateway" in await self.ask(bus, {"gateway": STRANGER.identity})
            assert b"malformed" in await self.ask(bus, {"gateway": 7})

        def all_counted() -> bool:
            return all(counted(url, series) >= count for series, count in wanted.items())

        await asyncio.to_thread(lambda: market.until(all_counted, "every forgery is counted"))

    async def ask(self, bus: NatsBus, question: dict[str, object]) -> bytes:
        asked = {"key_hash": "0" * 64, "lease_id": "", "need_nano": 1, **question}
        return await bus.ask("ledger.lease", json.dumps(asked).encode(), deadline_ms=5_000)


async def verdicts_count(connection: Any) -> int:
    count = await connection.fetchval(
        "SELECT count(*) FROM ledger.log_entry WHERE kind = 'verdict'"
    )
    return int(count)
