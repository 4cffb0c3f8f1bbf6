"""What a newcomer does, on real processes: up, ask, pay, verify, deploy, settle, down."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.e2e.market import RunningMarket, running_market

DEPLOYED = """
name = "parrot"
modality = "chat"
engine = "echo"
source = "echo"
hardware = "cpu"
instances_min = 1
instances_max = 2
[limits]
context_tokens_max = 1000
output_tokens_max = 100
parallel_max = 4
[price_usd_per_million]
prompt = "0.01"
completion = "0.02"
"""


@pytest.fixture
def client(market: RunningMarket) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{market.gateway}/v1", api_key=market.api_key) as made:
        yield made


def test_status_is_stable_for_scripts(market: RunningMarket) -> None:
    found = market.status()
    assert found["ready"] is True
    assert found["gateway_url"] == market.gateway
    assert found["api_key"].startswith("sk-penstock-")
    names = {one["name"] for one in found["stations"]}
    expected = {"postgres", "nats", "ledger", "market", "gateway"}
    expected |= {"miner-1", "miner-2", "miner-3", "validator-1", "validator-2"}
    assert names == expected
    assert all({"name", "pid", "state"} <= set(one) for one in found["stations"])
    serving = {one["name"]: one["serving"] for one in found["chutes"]}
    assert serving["tiny-chat"] >= 2, "demand may have called a third one"
    assert serving["minilm"] >= 1
    assert found["epoch"] > 0
    assert found["log_size"] > 0


def test_the_printed_snippets_work_as_pasted(market: RunningMarket) -> None:
    """The welcome of a second `up --detach` is not printed, so the text is made as `up` makes it."""
    from click.testing import CliRunner

    from penstock.cli.home import Home
    from penstock.cli.up import print_welcome

    runner = CliRunner()
    with runner.isolation() as (output, *_):
        print_welcome(Home(market.home), market.gateway)
        text = output.getvalue().decode()
    curl = text[text.index("curl ") : text.index("From Python")]
    answer = subprocess.run(
        ["bash", "-c", curl.replace("curl ", "curl -s ", 1)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "Nairobi" in json.loads(answer)["choices"][0]["message"]["content"]
    code = text[text.index("from openai") : text.index("Next:")]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_stock_client_streams_with_usage(client: openai.OpenAI) -> None:
    text, usage = "", None
    for chunk in client.chat.completions.create(
        model="tiny-chat",
        messages=[{"role": "user", "content": "What is 7 times 8?"}],
        stream=True,
        stream_options={"include_usage": True},
        temperature=0,
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
    assert "56" in text
    assert usage is not None
    assert usage.completion_tokens > 0


def test_the_stock_client_completes_and_embeds(client: openai.OpenAI) -> None:
    done = client.completions.create(model="tiny-chat", prompt="Once upon a time", max_tokens=8)
    assert done.choices[0].text
    vectors = client.embeddings.create(model="minilm", input=["a cat", "a kitten", "tax law"]).data
    assert [len(one.embedding) for one in vectors] == [384, 384, 384]
    cat, kitten, law = (one.embedding for one in vectors)

    def near(left: list[float], right: list[float]) -> float:
        return sum(x * y for x, y in zip(left, right, strict=True))

    assert near(cat, kitten) > near(cat, law)
    assert {"tiny-chat", "minilm"} <= {one.id for one in client.models.list()}


def test_errors_come_as_the_stock_clients_classes(
    market: RunningMarket, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert missing.value.code == "model_not_found"
    stranger = client.with_options(api_key="sk-wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(
            model="tiny-chat", messages=[{"role": "user", "content": "Hi"}]
        )
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny-chat", messages=[], max_tokens=-1)


def test_an_answer_is_paid_signed_logged_and_verified(
    market: RunningMarket, tmp_path: Path
) -> None:
    before = market.told("balance")
    told = market.told("chat", "-m", "What is the capital of Kenya?")
    assert "Nairobi" in told["text"]
    assert told["signed"] is True
    assert told["charge_nano"] > 0
    document = market.logged(told["order_id"])
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(document))
    verified = market.command("verify", "receipt", str(path))
    assert verified.returncode == 0, verified.stderr
    assert "valid" in verified.stdout
    assert told["order_id"] in verified.stdout
    after = market.told("balance")
    assert _whole(before) - _whole(after) >= told["charge_nano"]


def test_one_changed_byte_of_a_receipt_is_invalid(market: RunningMarket, tmp_path: Path) -> None:
    told = market.told("chat", "-m", "Hello!")
    text = json.dumps(market.logged(told["order_id"]))
    charge = f'"charge_nano": {told["charge_nano"]}'
    assert charge in text
    path = tmp_path / "receipt.json"
    path.write_text(text.replace(charge, charge + "0", 1))
    done = market.command("verify", "receipt", str(path))
    assert done.returncode == 1
    assert "invalid" in done.stderr


def test_a_deployed_chute_is_picked_up_and_answers(market: RunningMarket, tmp_path: Path) -> None:
    path = tmp_path / "chute.toml"
    path.write_text(DEPLOYED)
    first = market.told("deploy", str(path))
    assert first["created"] is True
    assert market.told("deploy", str(path))["created"] is False
    market.until(
        lambda: {one["name"]: one["serving"] for one in market.status()["chutes"]}.get("parrot"),
        "a miner serves the parrot",
    )
    body = {"model": "parrot", "messages": [{"role": "user", "content": "pieces of eight"}]}
    market.until(
        lambda: market.ask("/v1/chat/completions", body).status_code == 200, "the parrot answers"
    )
    pinned = {**body, "model": f"parrot@{first['chute']}"}
    said = market.ask("/v1/chat/completions", pinned).json()
    assert "pieces of eight" in said["choices"][0]["message"]["content"]


def test_a_second_up_says_so_and_changes_nothing(market: RunningMarket) -> None:
    before = market.status()["stations"]
    done = market.command("up", "--detach")
    assert done.returncode == 0
    assert "already runs" in done.stdout
    assert market.status()["stations"] == before


def test_another_market_cannot_take_the_port(market: RunningMarket, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "penstock.cli.main",
            "up",
            "--detach",
            "--home",
            str(tmp_path / "other"),
            "--port",
            str(market.port),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"port {market.port} is taken" in done.stderr
    assert "--port" in done.stderr
    assert market.status()["ready"] is True


def test_an_epoch_settles_and_verifies_as_identical(market: RunningMarket) -> None:
    """Slow: an epoch lasts a minute, and the one in which work was done must end and settle."""
    for text in ("Hello!", "What is 2 + 2?", "Who are you?"):
        assert market.chat(text).status_code == 200
    epoch = market.status()["epoch"]
    market.wait_settled(epoch)
    done = market.command("verify", "--epoch", str(epoch))
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stdout
    found = market.told("verify", "--epoch", str(epoch))
    assert found["reports"] == 2
    assert found["records"] >= 3
    assert sum(found["payouts"].values()) + found["reserve_nano"] == found["pool_nano"] > 0
    scores = market.told("scores", "--epoch", str(epoch))
    assert scores["reports"] == 2
    assert any(one["total_ppm"] > 0 for one in scores["scores"])
    by_url = market.command("verify", "--epoch", str(epoch), "--operator", market.url("ledger"))
    assert by_url.returncode == 0, by_url.stderr


def test_one_changed_byte_of_the_published_files_is_found(
    market: RunningMarket, tmp_path: Path
) -> None:
    """Slow: needs a settled epoch."""
    import shutil

    market.until(
        lambda: (market.ledger("/v1/epochs") or {}).get("settled", -1) >= 0,
        "an epoch is settled",
        deadline_s=300,
    )
    epoch = market.ledger("/v1/epochs")["settled"]
    copy = tmp_path / "home"
    shutil.copytree(market.home / "public", copy / "public")
    arguments = [sys.executable, "-m", "penstock.cli.main", "verify", "--epoch", str(epoch)]

    def verify() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*arguments, "--home", str(copy)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert verify().returncode == 0
    folder = copy / f"public/epochs/{epoch:08d}"
    for name in ("segment.parquet", "epoch.json", "outcome.json"):
        file = folder / name
        honest = file.read_bytes()
        for place in (0, len(honest) // 3, len(honest) // 2, len(honest) - 1):
            file.write_bytes(honest[:place] + bytes([honest[place] ^ 1]) + honest[place + 1 :])
            done = verify()
            assert done.returncode == 1, f"{name} byte {place}: {done.stdout}{done.stderr}"
            assert re.search(rf"DIFFERENT at .*(epoch|{name}|checkpoint|entry)", done.stderr), (
                done.stderr
            )
        file.write_bytes(honest)


def test_ctrl_c_ends_every_process_it_started_and_only_those(tmp_path: Path) -> None:
    """Slow: a market of its own, in the foreground, small."""
    from penstock.cli.home import free_port

    home, port = tmp_path / "home", free_port(set())
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "penstock.cli.main",
            "up",
            "--home",
            str(home),
            "--port",
            str(port),
            "--miners",
            "1",
            "--validators",
            "0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as up:
        market = RunningMarket(home, port)
        try:
            market.until(lambda: market.status()["ready"], "the market is ready", deadline_s=240)
            pids = [one["pid"] for one in market.status()["stations"]]
            assert all(pids)
            assert market.chat("Hello!").status_code == 200
            up.send_signal(signal.SIGINT)
            output, _ = up.communicate(timeout=120)
        finally:
            up.kill()
    assert "Penstock is up." in output
    assert not [pid for pid in pids if _is_alive(pid)]
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_old_state_is_gone_on_with(tmp_path: Path) -> None:
    """Slow: up, down, up again in one home: the same key, balance and log."""
    options = ("--miners", "1", "--validators", "0")
    with running_market(tmp_path / "home", *options) as first:
        assert first.chat("Hello!").status_code == 200
        key = first.api_key
        assert first.command("down").returncode == 0
        size = first.home / "state.json"
        assert not size.exists()
    with running_market(tmp_path / "home", *options) as second:
        assert second.api_key == key
        assert second.chat("Hello!").status_code == 200
        balance = second.told("balance")
        spent = 10_000_000_000 - balance["available_nano"] - balance["held_nano"]
        assert 0 < spent < 1_000_000


def up_command(home: Path, port: int) -> list[str]:
    """What a person types to start a market in the foreground."""
    up = [sys.executable, "-m", "penstock.cli.main", "up"]
    return [*up, "--home", str(home), "--port", str(port)]


def _whole(balance: dict[str, int]) -> int:
    """What the account has, whether free or bound by a lease."""
    return balance["available_nano"] + balance["held_nano"]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
