"""Batches by the stock client on real processes: uploaded, run on the account's money, downloaded."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.e2e.drill import overrides
from tests.e2e.market import RunningMarket, running_market

LINES = 12
PAGE = Path(__file__).resolve().parents[2] / "docs/batch.md"
MANY_LINES = 300
QUICK = {"beat_ms": 100, "hold_ms": 3_000, "scan_ms": 1_000}
"""A batch shows its counts, and is taken over, sooner than a small one ends."""
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def client(market: RunningMarket) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{market.gateway}/v1", api_key=market.api_key) as made:
        yield made


def jsonl(count: int, **body: Any) -> bytes:
    lines = []
    for number in range(count):
        messages = [{"role": "user", "content": f"Tell me about the number {number}."}]
        fields = {"model": "tiny-chat", "messages": messages, "max_tokens": 8, **body}
        request = {"method": "POST", "url": "/v1/chat/completions", "body": fields}
        lines.append(json.dumps({"custom_id": f"n{number}", **request}))
    return "\n".join(lines).encode()


def begin(client: openai.OpenAI, data: bytes) -> openai.types.Batch:
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def ended(market: RunningMarket, client: openai.OpenAI, batch_id: str) -> openai.types.Batch:
    def look() -> openai.types.Batch | None:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in ENDED else None

    found: openai.types.Batch = market.until(look, "the batch has ended", deadline_s=240)
    return found


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def test_a_batch_from_upload_to_download(market: RunningMarket, client: openai.OpenAI) -> None:
    bad = jsonl(1, model="nobody").replace(b'"n0"', b'"bad"')
    batch = begin(client, jsonl(LINES) + b"\n" + bad)
    assert batch.status == "validating"
    assert batch.id in [one.id for one in client.batches.list(limit=5)]
    done = ended(market, client, batch.id)
    assert done.status == "completed", done
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (LINES, 1)
    assert done.usage is not None
    assert done.usage.output_tokens > 0
    good = results(client, done.output_file_id)
    assert sorted(good) == sorted(f"n{number}" for number in range(LINES))
    for line in good.values():
        response = line["response"]
        assert response["status_code"] == 200
        assert response["body"]["choices"][0]["message"]["content"]
        assert response["penstock"]["order_id"].startswith("o-")
        assert response["penstock"]["charge_nano"] > 0
    errors = results(client, done.error_file_id)
    assert errors["bad"]["response"]["body"]["error"]["code"] == "model_not_found"
    outputs = list(client.files.list(purpose="batch_output"))
    assert done.output_file_id in [one.id for one in outputs]
    assert done.output_file_id is not None
    assert client.files.delete(done.output_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(done.output_file_id)


def test_embeddings_in_a_batch(market: RunningMarket, client: openai.OpenAI) -> None:
    body = {"model": "minilm", "input": ["a cat", "a kitten"]}
    line = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": body}
    file = client.files.create(
        file=("in.jsonl", json.dumps(line).encode()),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3_600},
    )
    assert file.expires_at == file.created_at + 3_600
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )
    done = ended(market, client, batch.id)
    vectors = results(client, done.output_file_id)["e"]["response"]["body"]["data"]
    assert [len(one["embedding"]) for one in vectors] == [384, 384]


def test_a_batch_that_does_not_fit_says_which_line(
    market: RunningMarket, client: openai.OpenAI
) -> None:
    done = ended(market, client, begin(client, jsonl(2) + b"\nnonsense").id)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert (done.errors.data[0].line, done.errors.data[0].code) == (3, "invalid_json_line")


def test_a_batch_is_cancelled(market: RunningMarket, client: openai.OpenAI) -> None:
    batch = begin(client, jsonl(500, max_tokens=64))
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = ended(market, client, batch.id)
    assert done.status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)


def test_an_upload_beyond_the_bound_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("big.jsonl", bytes(101 << 20)), purpose="batch")
    assert refused.value.status_code == 413


def test_the_program_of_the_page_runs_as_it_stands(market: RunningMarket) -> None:
    program = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    program = program.replace("http://127.0.0.1:8400", market.gateway)
    program = program.replace("sk-penstock-...", market.api_key)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line.split()[0] for line in done.stdout.splitlines() if "question-" in line) == [
        "question-0",
        "question-1",
    ]


def test_a_killed_gateway_goes_on_where_it_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    overrides(home, "gateway", {"batches": QUICK})
    with (
        running_market(home) as market,
        openai.OpenAI(base_url=f"{market.gateway}/v1", api_key=market.api_key) as client,
    ):
        batch = begin(client, jsonl(MANY_LINES, max_tokens=64, ignore_eos=True))

        def begun() -> int:
            counts = client.batches.retrieve(batch.id).request_counts
            return counts.completed if counts is not None else 0

        before = market.until(begun, "some lines have run")
        assert before < MANY_LINES, "it was killed in the middle"
        # A worker may answer for a moment after the process that kept it: wait for the new one.
        killed = market.kill("gateway")
        market.until(lambda: market.is_back("gateway", killed), "the gateway is started again")
        assert client.batches.retrieve(batch.id).status in {"in_progress", "completed"}
        done = ended(market, client, batch.id)
        assert done.status == "completed"
        assert done.request_counts is not None
        assert done.request_counts.completed == MANY_LINES
        assert len(results(client, done.output_file_id)) == MANY_LINES
        assert 0 < lines_done(market) <= MANY_LINES - before, "nothing that was stored ran again"


def lines_done(market: RunningMarket) -> int:
    """Lines of batches that the gateway has asked in its present life."""
    exported = market.ask("/metrics").text
    return sum(
        map(int, re.findall(r'gateway_batch_lines_total\{outcome="done".*\} (\d+)', exported))
    )
