"""Limits: buckets, addresses, what work counts, and what a caller hears of it all."""

import asyncio
import re
from typing import Any

import pytest
from tests.stations.gateway.script import Script
from tests.stations.gateway.world import (
    ACCOUNT,
    CHAT,
    SECRET,
    URL,
    World,
    bearer,
    chat,
    error_of,
    play,
)

from penstock.gateway.config import AddressLimits, Bounds, KeyLimits, PayerLimits
from penstock.kit.wire.client import HttpClient, Reply

FAR = "203.0.113.7"
MESSAGES = "/v1/messages"


def shown(reply: Reply) -> dict[str, str]:
    names = ("limit", "remaining", "reset")
    return {
        f"{name}-{what}": reply.header(f"x-ratelimit-{name}-{what}")
        for name in names
        for what in ("requests", "tokens")
    }


def test_every_answer_to_a_known_key_tells_its_limits() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        served = await world.post(chat())
        assert served.status == 200
        told = shown(served)
        assert (told["limit-requests"], told["limit-tokens"]) == ("10", "1000")
        assert told["remaining-requests"] == "9"
        assert re.fullmatch(r"\d+ms", told["reset-requests"])
        await asyncio.sleep(0.01)
        stream = await world.hear(chat(stream=True))
        assert stream.headers["x-ratelimit-remaining-requests"] == "8"
        unknown = await world.post(chat(model="nobody/knows"))
        assert unknown.status == 404
        assert shown(unknown)["remaining-requests"] == "7"
        broken = await world.post(b"{")
        assert (broken.status, shown(broken)["remaining-requests"]) == (400, "6")
        stranger = await world.post(chat(), secret="sk-penstock-x")
        assert not stranger.header("x-ratelimit-limit-requests")
        for reply in (served, unknown, broken, stranger):
            assert reply.header("x-request-id")

    limits = KeyLimits(requests_per_s=1, burst_max=10, work_per_s=1_000, work_max=1_000)
    play(scenario, key_limits=limits)


def test_anthropics_clients_hear_it_in_their_words() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        body = {**chat(), "max_tokens": 8}
        for answer, status in (
            (await world.post(body, MESSAGES), 200),
            (await world.post({**body, "model": "nobody/knows"}, MESSAGES), 404),
        ):
            assert answer.status == status
            assert answer.header("request-id") == answer.header("x-request-id")
            for what in ("requests", "tokens"):
                head = f"anthropic-ratelimit-{what}"
                assert int(answer.header(f"{head}-limit")) >= int(
                    answer.header(f"{head}-remaining")
                )
                assert re.fullmatch(r"2026-01-01T00:00:\d\dZ", answer.header(f"{head}-reset"))
            assert not answer.header("x-ratelimit-limit-requests")
        stranger = await world.post(body, MESSAGES, secret="sk-penstock-x")
        assert stranger.header("request-id") == stranger.header("x-request-id")

    play(scenario)


def refusal_of(reply: Reply) -> tuple[str, str, str]:
    assert reply.status == 429, reply.body
    assert error_of(reply)["code"] == "rate_limited"
    assert error_of(reply)["type"] == "rate_limit_error"
    return tuple(reply.header(name) for name in ("retry-after", "retry-after-ms", "x-should-retry"))  # type: ignore[return-value]  # three names, three values


# Limits at work.


def test_a_key_may_ask_for_so_much_work_and_gets_back_what_it_did_not_use() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        first = await world.post(chat(max_tokens=100))
        assert first.status == 200
        left = int(first.header("x-ratelimit-remaining-tokens"))
        assert left > 1_000 - 64 - 8 * 100, "the answer was shorter than its ceiling"
        second = await world.post(chat(max_tokens=100))
        assert second.status == 200
        refused = await world.post(chat(max_tokens=100))
        after_s, after_ms, again = refusal_of(refused)
        assert "This key is limited to 100 units of work a second" in error_of(refused)["message"]
        assert again == "true"
        assert 0 <= int(after_s) * 1000 - int(after_ms) < 1000
        await asyncio.sleep(int(after_ms) / 1000)
        assert (await world.post(chat(max_tokens=100))).status == 200

    play(scenario, key_limits=KeyLimits(work_per_s=100, work_max=1_000))


def test_a_request_larger_than_the_bucket_goes_when_the_bucket_is_full() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(words=("a",) * 30, word_ms=1)
        assert (await world.post(chat(max_tokens=64))).status == 200
        refusal_of(await world.post(chat(max_tokens=64)))
        assert len(miner.served) == 1
        await asyncio.sleep(4)
        assert (await world.post(chat(max_tokens=64))).status == 200

    play(scenario, key_limits=KeyLimits(work_per_s=100, work_max=200))


def test_what_failed_or_was_refused_gives_its_work_back() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        for act in ("REFUSE", "BREAK"):
            miner.default = Script(act=type(miner.default.act)[act])
            for _ in range(3):
                assert (await world.post(chat(max_tokens=100))).status in {429, 502}
        reply = await world.post(chat(model="nobody/knows"))
        assert reply.header("x-ratelimit-remaining-tokens") == "1000"

    play(scenario, key_limits=KeyLimits(work_per_s=0, work_max=1_000))


def test_the_work_of_a_client_that_left_is_what_was_proven() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(words=("word",) * 40, word_ms=100)
        await world.hear(chat(stream=True, max_tokens=100), leave_after=3)
        await world.at_rest()
        reply = await world.post(chat(model="nobody/knows"))
        left = int(reply.header("x-ratelimit-remaining-tokens"))
        assert 1_000 - 64 - 8 * 100 < left < 1_000

    play(scenario, key_limits=KeyLimits(work_per_s=0, work_max=1_000))


def test_who_leaves_before_the_first_byte_has_asked_for_his_prompt_all_the_same() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(act=type(miner.default.act).HANG)
        prompt = [{"role": "user", "content": "word " * 400}]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await world.post(chat(messages=prompt, max_tokens=10))
        await world.at_rest()
        reply = await world.post(chat(model="nobody/knows"))
        assert 300 <= int(reply.header("x-ratelimit-remaining-tokens")) < 1_000 - 64 - 2_000 // 4

    play(scenario, key_limits=KeyLimits(work_per_s=0, work_max=1_000))


def test_an_account_is_limited_over_all_its_keys_and_other_accounts_are_not() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        world.ledger.open_account(ACCOUNT, "sk-penstock-second", credit_nano=0)
        world.ledger.open_account("bob", "sk-penstock-bob", credit_nano=10**9)
        assert (await world.post(chat(max_tokens=60))).status == 200
        refused = await world.post(chat(max_tokens=60), secret="sk-penstock-second")
        refusal_of(refused)
        assert "This account" in error_of(refused)["message"]
        assert (await world.post(chat(max_tokens=60), secret="sk-penstock-bob")).status == 200

    play(scenario, payer_limits=PayerLimits(work_per_s=1, work_max=600))


def test_an_account_has_a_limit_of_requests_at_once() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.room = 10
        await world.put_offer(miner)
        miner.default = Script(word_ms=1_000)
        world.ledger.open_account(ACCOUNT, "sk-penstock-second", credit_nano=0)
        for secret in (SECRET, "sk-penstock-second"):
            assert (await world.post(b"{", secret=secret)).status == 400
        async with asyncio.TaskGroup() as group:
            posts = [
                group.create_task(world.post(chat(), secret=secret))
                for secret in (SECRET, "sk-penstock-second") * 2
            ]
        assert sorted(post.result().status for post in posts) == [200, 200, 200, 429]
        (refused,) = [post.result() for post in posts if post.result().status == 429]
        assert refusal_of(refused)[0] == "1"
        await world.at_rest()

    play(scenario, payer_limits=PayerLimits(parallel_max=3))


def test_a_gateway_has_a_bound_of_requests_under_way_and_turns_the_rest_away_at_once() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.room = 10
        await world.put_offer(miner)
        miner.default = Script(word_ms=1_000)
        assert (await world.post(b"{")).status == 400
        async with asyncio.TaskGroup() as group:
            posts = [group.create_task(world.post(chat())) for _ in range(4)]
            await asyncio.sleep(0.1)
            assert sum(post.done() for post in posts) == 2, "nobody waits for a place"
        (refused, other) = [one.result() for one in posts if one.result().status == 429]
        assert "This gateway is limited to 2 requests at once" in error_of(refused)["message"]
        assert refusal_of(other) == ("1", "1000", "true")

    play(scenario, bounds=Bounds(running_max=2))


async def post_from(world: World, client: HttpClient, **asked: Any) -> Reply:
    """A chat from another address."""
    headers = bearer(asked.pop("secret", SECRET))
    for name, value in asked.pop("headers", {}).items():
        headers += ((name, value),)
    return await client.call(
        "POST",
        URL + asked.pop("path", CHAT),
        headers=headers,
        body=asked.pop(
            "body", b'{"model":"tiny-chat","messages":[{"role":"user"}],"max_tokens":60}'
        ),
        deadline_ms=60_000,
    )


def test_an_address_is_limited_and_its_neighbours_are_not() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        far, near = (HttpClient(world.network.at(host)) for host in (FAR, "203.0.113.8"))
        assert (await post_from(world, far)).status == 200
        refused = await post_from(world, far)
        refusal_of(refused)
        assert "This address" in error_of(refused)["message"]
        assert (await post_from(world, near)).status == 200
        for client in (far, near):
            await client.close()

    play(scenario, address_limits=AddressLimits(work_per_s=1, work_max=600))


def test_behind_a_trusted_proxy_callers_are_told_apart() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        proxy = HttpClient(world.network.at("10.0.0.1"))
        statuses = [
            (
                await post_from(world, proxy, headers={"x-forwarded-for": f"{start}, {caller}"})
            ).status
            for start, caller in (("9.9.9.9", FAR), ("8.8.8.8", FAR), ("9.9.9.9", "203.0.113.8"))
        ]
        assert statuses == [200, 429, 200]
        await proxy.close()

    limits = AddressLimits(work_per_s=1, work_max=600, trusted_proxies=("10.0.0.0/8",))
    play(scenario, address_limits=limits)


@pytest.mark.parametrize(
    "path", ["/v1/receipts/o-unknown", "/v1/balance", "/v1/files", "/v1/batches/batch_none"]
)
def test_an_address_asks_the_ledger_and_the_store_so_often_only(path: str) -> None:
    async def scenario(world: World) -> None:
        far, near = (HttpClient(world.network.at(host)) for host in (FAR, "203.0.113.8"))

        async def asked(client: HttpClient, where: str) -> Reply:
            return await client.call("GET", URL + where, headers=bearer(SECRET), deadline_ms=60_000)

        for _ in range(3):
            assert (await asked(far, path)).status != 429
        refused = await asked(far, path)
        refusal_of(refused)
        assert "This address" in error_of(refused)["message"]
        assert (await asked(near, path)).status != 429
        assert (await asked(far, "/v1/models")).status == 200, "nobody else is asked for that"
        assert (await post_from(world, far)).status != 429
        await asyncio.sleep(1)
        assert (await asked(far, path)).status != 429
        for client in (far, near):
            await client.close()

    limits = AddressLimits(reads_per_s=1, reads_max=3)
    play(scenario, address_limits=limits, keeps_files=True)


def test_a_storm_of_bad_keys_stops_at_the_door_and_hurts_no_known_key() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        client = HttpClient(world.network.at(FAR))
        assert (await post_from(world, client)).status == 200
        world.ledger.questions.clear()
        replies = [
            await post_from(world, client, secret=f"sk-penstock-guess-{number}")
            for number in range(9)
        ]
        assert [reply.status for reply in replies] == [401] * 5 + [429] * 4
        refusal_of(replies[-1])
        assert "This address is limited to 5 unknown API keys" in error_of(replies[-1])["message"]
        assert len(world.ledger.questions) == 5
        malformed = await post_from(world, client, secret="nonsense")
        assert malformed.status == 429
        assert (await post_from(world, client)).status == 200, "a key that is known goes on"
        other = HttpClient(world.network.at("203.0.113.8"))
        assert (await post_from(world, other, secret="sk-penstock-guess-x")).status == 401
        await asyncio.sleep(1)
        again = await post_from(world, client, secret="sk-penstock-guess-9")
        assert again.status == 401
        for one in (client, other):
            await one.close()

    play(scenario, address_limits=AddressLimits(failures_per_s=1, failures_max=5))


def test_guesses_at_once_ask_the_ledger_no_more_often_than_one_by_one() -> None:
    async def scenario(world: World) -> None:
        client = HttpClient(world.network.at(FAR))
        async with asyncio.TaskGroup() as group:
            posts = [
                group.create_task(post_from(world, client, secret=f"sk-penstock-guess-{number}"))
                for number in range(40)
            ]
        assert sorted(post.result().status for post in posts) == [401] * 5 + [429] * 35
        assert len(world.ledger.questions) == 5
        await client.close()

    play(scenario, address_limits=AddressLimits(failures_per_s=0, failures_max=5))


def test_right_keys_are_no_failures_however_many_come_new() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",), word_ms=1)
        client = HttpClient(world.network.at(FAR))
        for number in range(4):
            secret = f"sk-penstock-new-{number}"
            world.ledger.open_account(f"new-{number}", secret, credit_nano=10**9)
            assert (await post_from(world, client, secret=secret)).status == 200
        await client.close()

    play(scenario, address_limits=AddressLimits(failures_per_s=0, failures_max=2))


def test_want_of_room_is_429_at_once_and_want_of_anybody_503() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        await world.put_offer(miner, room=0)
        for path, status in ((CHAT, 429), (MESSAGES, 529), ("/v1/responses", 429)):
            body = {**chat(), "input": "hello"}
            reply = await world.post(body, path)
            assert reply.status == status, reply.body
            assert reply.header("retry-after") == "1"
            assert reply.header("retry-after-ms") == "1000"
            assert reply.header("x-should-retry") == "true"
        await world.bus.put(f"offers.{miner.instance}", b"")
        await asyncio.sleep(1)
        gone = await world.post(chat())
        assert (gone.status, error_of(gone)["code"]) == (503, "no_capacity")
        assert gone.header("x-should-retry") == "true"

    play(scenario)
