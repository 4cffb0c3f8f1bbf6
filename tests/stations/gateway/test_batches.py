"""`/v1/batches`: run once, line by line, over spare capacity, on the account's own money."""

import asyncio
import json
from typing import Any

import pytest
from tests.makers import MANIFEST
from tests.stations.gateway.back_room import (
    BATCHES,
    FILES,
    OTHER_SECRET,
    asked,
    jsonl,
    look,
    make,
    play_shop,
    question,
    results,
    seen,
    served_ids,
    until_ended,
    upload,
)
from tests.stations.gateway.script import Act, Script
from tests.stations.gateway.world import CHAT, SECRET, World, chat, error_of, settle

from penstock.gateway.config import BatchBounds

FAST = BatchBounds(settle_ms=100, scan_ms=500, beat_ms=500)


def test_a_batch_is_run_and_its_results_are_openais() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        lines = [question(number) for number in range(5)]
        bad = asked(7, model="nobody")
        batch = await make(world, jsonl(*lines, bad), metadata={"run": "1"})
        assert batch["status"] == "validating"
        assert batch["object"] == "batch"
        assert batch["expires_at"] == batch["created_at"] + 86_400
        ended = await until_ended(world, batch["id"])
        assert ended["status"] == "completed"
        assert ended["request_counts"] == {"completed": 5, "failed": 1, "total": 6}
        assert ended["metadata"] == {"run": "1"}
        assert ended["in_progress_at"] <= ended["finalizing_at"] <= ended["completed_at"]
        good = await results(world, ended["output_file_id"])
        assert sorted(good) == [f"ask-{number}" for number in range(5)]
        for result in good.values():
            assert result["id"].startswith("batch_req_")
            assert result["error"] is None
            response = result["response"]
            assert response["status_code"] == 200
            said = response["body"]["choices"][0]["message"]["content"]
            assert said == "Water turns the wheel."
            order_id = response["penstock"]["order_id"]
            await world.at_rest()
            assert order_id in world.ledger.judgements
        charged = sum(one["response"]["penstock"]["charge_nano"] for one in good.values())
        assert charged == world.charged_nano() > 0
        errors = await results(world, ended["error_file_id"])
        assert list(errors) == ["ask-7"]
        assert errors["ask-7"]["response"]["status_code"] == 404
        assert errors["ask-7"]["response"]["body"]["error"]["code"] == "model_not_found"
        listed = seen(await world.get(f"{FILES}?purpose=batch_output"))
        assert {one["id"] for one in listed["data"]} == {
            ended["output_file_id"],
            ended["error_file_id"],
        }
        assert not any(name.startswith("batch/") for name in world.store.names)
        assert await world.store.under("open") == []

    play_shop(scenario)


def test_the_secret_of_the_key_is_kept_nowhere() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        await make(world, jsonl(question(1)))
        cells = [cell.value for cell in await world.store.under("")]
        assert cells
        assert not any(SECRET.encode() in value for value in cells)

    play_shop(scenario)


def replace_bounds(bounds: BatchBounds, **changes: int) -> BatchBounds:
    fields = {name: getattr(bounds, name) for name in bounds.__struct_fields__}
    return BatchBounds(**{**fields, **changes})


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_no_errors() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        lines = [json.dumps(question(number)).encode() for number in range(2)]
        data = b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines)
        ended = await until_ended(world, (await make(world, data))["id"])
        assert ended["request_counts"] == {"completed": 2, "failed": 0, "total": 2}

    play_shop(scenario)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/audio/speech"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-" + "0" * 32}, "input_file_id"),
        ({"input_file_id": "../x"}, "input_file_id"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(changes: dict[str, Any], param: str) -> None:
    async def scenario(world: World) -> None:
        card = seen(await upload(world, jsonl(question(1))))
        body = {"input_file_id": card["id"], "endpoint": CHAT, "completion_window": "24h"}
        refused = await world.post({**body, **changes}, BATCHES)
        assert refused.status in {400, 404}
        assert error_of(refused)["param"] == param
        assert seen(await world.get(BATCHES))["data"] == []

    play_shop(scenario)


def test_only_files_for_batches_make_batches_and_only_the_accounts_own() -> None:
    async def scenario(world: World) -> None:
        world.ledger.open_account("bob", OTHER_SECRET, credit_nano=10**9)
        other = seen(await upload(world, jsonl(question(1)), purpose="user_data"))
        body = {"input_file_id": other["id"], "endpoint": CHAT, "completion_window": "24h"}
        assert error_of(await world.post(body, BATCHES))["param"] == "input_file_id"
        batch = await make(world, jsonl(question(1)))
        stolen = {**body, "input_file_id": batch["input_file_id"]}
        assert (await world.post(stolen, BATCHES, secret=OTHER_SECRET)).status == 404
        path = f"{BATCHES}/{batch['id']}"
        for reply in (
            await world.get(path, secret=OTHER_SECRET),
            await world.post({}, f"{path}/cancel", secret=OTHER_SECRET),
            await world.get(f"{BATCHES}/batch_{'0' * 32}"),
            await world.get(f"{BATCHES}/batch_*"),
        ):
            assert error_of(reply)["code"] == "batch_not_found"
        assert seen(await world.get(BATCHES, secret=OTHER_SECRET))["data"] == []
        for reply in (
            await world.get(BATCHES, secret=""),
            await world.post({}, BATCHES, secret=""),
        ):
            assert reply.status == 401

    play_shop(scenario)


def test_batches_are_listed_newest_first_in_pages() -> None:
    async def scenario(world: World) -> None:
        ids = []
        for number in range(4):
            ids.append((await make(world, jsonl(question(number))))["id"])
            await asyncio.sleep(2)
        page = seen(await world.get(f"{BATCHES}?limit=3"))
        assert [one["id"] for one in page["data"]] == ids[:0:-1]
        assert page["has_more"]
        rest = seen(await world.get(f"{BATCHES}?after={page['last_id']}"))
        assert [one["id"] for one in rest["data"]] == ids[:1]
        assert (await world.get(f"{BATCHES}?limit=101")).status == 400
        refused = await make_refused(world)
        assert error_of(refused)["code"] == "rate_limited"

    play_shop(scenario, batch_bounds=replace_bounds(FAST, account_open_max=4))


async def make_refused(world: World) -> Any:
    card = seen(await upload(world, jsonl(question(1))))
    body = {"input_file_id": card["id"], "endpoint": CHAT, "completion_window": "24h"}
    return await world.post(body, BATCHES)


def test_a_line_leaves_half_of_every_instances_room_to_others() -> None:
    async def scenario(world: World) -> None:
        miners = [await world.add_miner(f"m{number}") for number in range(2)]
        for miner in miners:
            miner.default = Script(word_ms=400)
        batch = await make(world, jsonl(*(question(number) for number in range(24))))
        most = 0
        while (await look(world, batch["id"]))["status"] in {"validating", "in_progress"}:
            for one in world.gateway.directory.instances(miners[0].offer().body["chute"]):
                most = max(most, one.running)
            await asyncio.sleep(0.1)
        assert most == 2, "of a room of 4"
        assert (await until_ended(world, batch["id"]))["request_counts"]["completed"] == 24

    play_shop(scenario)


def test_while_others_ask_a_batch_waits_for_the_last_place() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        await world.bus.put(f"offers.{miner.instance}", b"")
        await settle()
        miner.room = 1
        await world.put_offer(miner)
        miner.default = Script(word_ms=100)
        batch = await make(world, jsonl(question(1)))
        for _ in range(10):
            assert (await world.post(chat())).status == 200
            await asyncio.sleep(0.2)
        assert "Question 1" not in served_ids(world)
        ended = await until_ended(world, batch["id"])
        assert ended["request_counts"]["completed"] == 1
        assert served_ids(world)[-1] == "Question 1"

    play_shop(scenario)


def test_lines_that_find_no_room_or_a_failing_miner_are_asked_again() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.scripts = [Script(act=Act.REFUSE), Script(act=Act.REFUSE), Script(act=Act.CUT)]
        batch = await make(world, jsonl(question(1)))
        ended = await until_ended(world, batch["id"])
        assert ended["request_counts"] == {"completed": 1, "failed": 0, "total": 1}
        assert len(served_ids(world)) == 4
        text = (await world.get("/metrics", secret="")).body.decode()
        assert 'gateway_batch_lines_total{outcome="done"} 1' in text
        assert 'gateway_batches_total{status="completed"} 1' in text

    play_shop(scenario)


def test_a_line_that_always_fails_is_given_up() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(act=Act.BREAK, status=500)
        batch = await make(world, jsonl(question(1)))
        ended = await until_ended(world, batch["id"])
        assert (ended["status"], ended["request_counts"]["failed"]) == ("completed", 1)
        errors = await results(world, ended["error_file_id"])
        assert errors["ask-1"]["response"]["status_code"] == 502
        await world.at_rest()
        assert world.charged_nano() == 0

    play_shop(scenario)


def test_an_account_without_money_fails_its_lines_and_not_the_batch() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        world.ledger.open_account("poor", "sk-penstock-poor", credit_nano=4_000)
        lines = jsonl(*(question(number) for number in range(12)))
        batch = await make(world, lines, secret="sk-penstock-poor")
        while True:
            found = await world.get(f"{BATCHES}/{batch['id']}", secret="sk-penstock-poor")
            if found.status == 200 and json.loads(found.body)["status"] == "completed":
                break
            await asyncio.sleep(1)
        ended = json.loads(found.body)
        counts = ended["request_counts"]
        assert counts["failed"] > 0
        assert counts["completed"] + counts["failed"] == 12
        path = f"{FILES}/{ended['error_file_id']}/content"
        content = await world.get(path, secret="sk-penstock-poor")
        codes = {
            json.loads(line)["response"]["body"]["error"]["code"]
            for line in content.body.splitlines()
        }
        assert codes == {"insufficient_funds"}

    play_shop(scenario)


def test_a_cancelled_batch_keeps_what_was_answered_and_begins_nothing_more() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(word_ms=1_000)
        batch = await make(world, jsonl(*(question(number) for number in range(30))))
        while (await look(world, batch["id"]))["request_counts"]["completed"] < 4:
            await asyncio.sleep(0.5)
        path = f"{BATCHES}/{batch['id']}/cancel"
        cancelling = seen(await world.post({}, path))
        assert cancelling["status"] == "cancelling"
        assert seen(await world.post({}, path))["status"] in {"cancelling", "cancelled"}
        begun = len(served_ids(world))
        ended = await until_ended(world, batch["id"])
        assert ended["status"] == "cancelled"
        assert ended["cancelling_at"] <= ended["cancelled_at"]
        good = await results(world, ended["output_file_id"])
        assert len(good) == ended["request_counts"]["completed"] == begun == len(served_ids(world))
        assert begun < 30
        refused = await world.post({}, path)
        assert error_of(refused)["code"] == "batch_ended"

    play_shop(scenario)


def test_a_batch_that_is_cancelled_before_its_first_line_has_no_files() -> None:
    async def scenario(world: World) -> None:
        batch = await make(world, jsonl(question(1)))
        seen(await world.post({}, f"{BATCHES}/{batch['id']}/cancel"))
        await world.add_miner("m1")
        ended = await until_ended(world, batch["id"])
        assert (ended["status"], ended["output_file_id"]) == ("cancelled", None)
        assert served_ids(world) == []

    play_shop(scenario)


def test_a_batch_that_nobody_can_serve_expires_and_says_which_lines_were_not_run() -> None:
    async def scenario(world: World) -> None:
        await world.put_manifest(MANIFEST)
        batch = await make(world, jsonl(question(1), question(2)))
        await asyncio.sleep(110)
        assert (await look(world, batch["id"]))["status"] == "in_progress"
        ended = await until_ended(world, batch["id"])
        assert ended["status"] == "expired"
        assert ended["expired_at"]
        errors = await results(world, ended["error_file_id"])
        assert {one["error"]["code"] for one in errors.values()} == {"batch_expired"}
        assert sorted(errors) == ["ask-1", "ask-2"]

    play_shop(scenario, batch_bounds=replace_bounds(FAST, window_s=120))
