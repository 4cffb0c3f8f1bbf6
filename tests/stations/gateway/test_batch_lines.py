"""The lines of a batch: what is read, what is refused, what comes back."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stations.gateway.back_room import (
    asked,
    jsonl,
    make,
    play_shop,
    question,
    served_ids,
    until_ended,
)
from tests.stations.gateway.test_batches import replace_bounds
from tests.stations.gateway.world import CHAT, World

from penstock.gateway.batches import Batch, Usage
from penstock.gateway.batches_lines import (
    Line,
    outcome_of,
    read_outcomes,
    spell_outcome,
    split_lines,
)
from penstock.gateway.config import BatchBounds, Bounds
from penstock.kit.wire.http import Response

BATCH = Batch(
    id="batch_" + "0" * 32,
    shelf="s",
    key_hash="k",
    endpoint=CHAT,
    input_file_id="file-x",
    created_at=0,
    expires_at=1,
    output_life_s=3_600,
)


FAST = BatchBounds(settle_ms=100, scan_ms=500, beat_ms=500)
USAGES = [
    (
        b'{"usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": %b,'
        b' "completion_tokens_details": {"reasoning_tokens": 2}}}' % b'{"cached_tokens": 3}',
        Usage(input=9, output=4, cached=3, reasoning=2),
    ),
    (b'{"usage": {"input_tokens": 9, "output_tokens": 4}}', Usage(input=9, output=4)),
    (b'{"usage": null}', Usage()),
    (b'{"usage": "much"}', Usage()),
    (b"[1]", Usage()),
]


@pytest.mark.parametrize(("body", "usage"), USAGES)
def test_usage_is_read_in_every_spelling(body: bytes, usage: Usage) -> None:
    line = Line(number=1, custom_id="a", model="m", body=b"{}")
    outcome = outcome_of(BATCH, line, Response(200, body), bytes_max=1_000)
    assert outcome.is_good
    assert outcome.usage == usage


def test_an_answer_becomes_one_line_whatever_it_is() -> None:
    line = Line(number=1, custom_id="a", model="m", body=b"{}")
    headers = (("x-penstock-order", "o-1"), ("x-penstock-charge", "7"))
    pretty = outcome_of(BATCH, line, Response(200, b'{\n "a": 1.10\n}', headers), bytes_max=100)
    assert b"\n" not in bytes(pretty.result)
    response = json.loads(bytes(pretty.result))["response"]
    assert response["body"] == {"a": 1.1}
    assert response["penstock"] == {"order_id": "o-1", "charge_nano": 7}
    for body, code in ((b"no json", "answer_unreadable"), (b" " * 101, "answer_too_large")):
        bad = outcome_of(BATCH, line, Response(200, body, headers), bytes_max=100)
        error = json.loads(bytes(bad.result))["error"]
        assert not bad.is_good
        assert (error["code"], error["penstock"]["order_id"]) == (code, "o-1")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 7_000 + b"]" * 7_000,
        b'{"choices":' + b"[" * 7_000 + b"]" * 7_000 + b"}",
        b'{"usage":{"x":' + b"[" * 970 + b"]" * 970 + b"}}",
        b'{"a": "\xff"}',
    ],
)
def test_an_answer_that_no_reader_of_the_results_could_take_is_no_result(body: bytes) -> None:
    line = Line(number=1, custom_id="a", model="m", body=b"{}")
    bad = outcome_of(BATCH, line, Response(200, body, ()), bytes_max=100_000)
    assert not bad.is_good
    assert json.loads(bytes(bad.result))["error"]["code"] == "answer_unreadable"
    assert read_outcomes(spell_outcome(bad)) == [bad]


@given(
    lines=st.lists(st.binary(max_size=30).filter(lambda one: b"\n" not in one), max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
async def test_a_file_has_the_same_lines_however_its_bytes_come(
    lines: list[bytes], cuts: list[int]
) -> None:
    data = b"\n".join(lines)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})

    async def parts() -> Any:
        for start, end in pairwise(places):
            yield data[start:end]

    found = [one async for one in split_lines(parts(), line_bytes_max=30)]
    stripped = [
        (line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).strip()
        for number, line in enumerate(lines)
    ]
    assert found == [(number + 1, line) for number, line in enumerate(stripped) if line]


BAD_LINES = [
    (b"no json", "invalid_json_line", None),
    (b"[1]", "invalid_json_line", None),
    (b'{"custom_id": "a", "method": "POST", "body": {}}', "missing_required_parameter", "url"),
    (jsonl(asked(1, custom_id="")), "invalid_custom_id", "custom_id"),
    (jsonl(asked(1, custom_id=7)), "invalid_custom_id", "custom_id"),
    (jsonl(asked(1, custom_id="x" * 513)), "invalid_custom_id", "custom_id"),
    (jsonl(asked(1, method="GET")), "invalid_method", "method"),
    (jsonl(asked(1, url="/v1/embeddings")), "invalid_url", "url"),
    (jsonl(asked(1, body=[])), "invalid_body", "body"),
    (jsonl(asked(1, body={"messages": []})), "invalid_body", "body"),
    (jsonl(asked(1, body={"model": ""})), "missing_required_parameter", "body.model"),
    (jsonl(asked(1, stream=True)), "invalid_body", "body.stream"),
    (b"\xff\xfe", "invalid_json_line", None),
    (b"[" * 100_000, "invalid_json_line", None),
]


@pytest.mark.parametrize(("line", "code", "param"), BAD_LINES)
def test_a_line_that_cannot_be_run_fails_the_batch(
    line: bytes, code: str, param: str | None
) -> None:
    if b'"body": []' in line or b'"model": ""' in line or b'"messages": []}' in line:
        plain = json.loads(line)
        plain["body"] = plain["body"].get("body", plain["body"])
        line = jsonl(plain)

    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        batch = await make(world, jsonl(question(1)) + b"\n" + line)
        ended = await until_ended(world, batch["id"])
        assert ended["status"] == "failed"
        assert ended["failed_at"]
        assert ended["errors"]["object"] == "list"
        error = ended["errors"]["data"][0]
        assert (error["code"], error["line"], error["param"]) == (code, 3, param)
        assert error["message"]
        assert ended["output_file_id"] is None
        assert served_ids(world) == []

    play_shop(scenario)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"\n \r\n\n", "empty_file"),
        (jsonl(question(1), question(1)), "duplicate_custom_id"),
        (jsonl(*(question(number) for number in range(6))), "too_many_lines"),
        (jsonl(asked(1, user="x" * 2_000)), "line_too_long"),
    ],
)
def test_a_file_that_cannot_be_run_fails_the_batch(data: bytes, code: str) -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        batch = await make(world, data)
        ended = await until_ended(world, batch["id"])
        assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", code)

    small = replace_bounds(FAST, lines_max=5)
    play_shop(scenario, batch_bounds=small, bounds=Bounds(body_bytes_max=1_500))
