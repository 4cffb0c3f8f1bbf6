"""chat and deploy against stations on loopback: answers checked, words printed, manifests signed."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.stations import Stations, chat_answers, invoke, serving

from penstock.adapters.keyfile import load_or_create_key
from penstock.cli.home import Home
from penstock.cli.world import ENTROPY
from penstock.client.testing import FakeMarket
from penstock.kit.keys import verify
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream
from penstock.spec.keys import open_signed, parse_signed
from penstock.spec.messages import Manifest, check_manifest, chute_id

CHAT = "/v1/chat/completions"
ORDERS_MAX = 4
TEXT = "Nairobi is the capital."
CHUTE_FILE = """
name = "my-chat"
modality = "chat"
engine = "echo"
source = "echo"
hardware = "cpu"
model_digest = "sha256:00"
instances_min = 1
instances_max = 2
[limits]
context_tokens_max = 100
output_tokens_max = 10
parallel_max = 2
[price_usd_per_million]
prompt = "0.05"
completion = "0.2"
"""


@pytest.fixture
def market(stations: Stations) -> FakeMarket:
    made = FakeMarket({"tiny-chat": TEXT})
    stations.answers["POST", CHAT] = chat_answers(made)
    for number in range(ORDERS_MAX):
        stations.answers["GET", f"/v1/receipts/o-{number:032x}"] = chat_answers(made)
    return made


def chat(home: Home, *arguments: str, **options: Any) -> Any:
    return invoke("chat", *arguments, "--home", str(home.path), **options)


def test_one_message_is_answered_with_who_signed_and_what_it_cost(
    market: FakeMarket, home: Home
) -> None:
    result = chat(home, "-m", "What is the capital of Kenya?")
    assert result.exit_code == 0
    said, summary = result.stdout.splitlines()
    assert said == TEXT
    assert "4 out" in summary
    assert market.miner.identity[:20] in summary
    assert "(miner and gateway signed)" in summary
    (order_id,) = market.receipts
    assert order_id in summary


def test_json_holds_the_text_the_charge_and_the_signatures(market: FakeMarket, home: Home) -> None:
    found = json.loads(chat(home, "-m", "Hi", "--json").stdout)
    (record,) = market.receipts.values()
    assert record.countersign is not None
    assert found["text"] == TEXT
    assert found["signed"] is True
    assert found["miner"] == market.miner.identity
    assert found["charge_nano"] == record.countersign.body["charge_nano"] > 0
    assert (found["completion_units"], found["order_id"]) == (4, record.order.body["order_id"])


def test_max_tokens_goes_into_the_request(market: FakeMarket, home: Home) -> None:
    chat(home, "tiny-chat", "-m", "Hi", "--max-tokens", "3")
    chat(home, "tiny-chat", "-m", "Hi")
    assert [asked.get("max_tokens") for _, _, asked in market.requests] == [3, None]


def test_a_conversation_goes_on_with_what_was_said_until_the_input_ends(
    market: FakeMarket, home: Home
) -> None:
    result = chat(home, input="One?\n\n  \nTwo?\n")
    assert result.exit_code == 0
    assert result.stdout.count(TEXT) == 2
    assert "Ctrl-D" in result.stderr
    asked = [request["messages"] for _, _, request in market.requests]
    assert [one["content"] for one in asked[0]] == ["One?"]
    assert [one["content"] for one in asked[1]] == ["One?", TEXT, "Two?"]
    assert [one["role"] for one in asked[1]] == ["user", "assistant", "user"]


def test_a_tampered_answer_is_refused_with_exit_code_1(market: FakeMarket, home: Home) -> None:
    market.tamper = True
    result = chat(home, "-m", "Hi")
    assert result.exit_code == 1
    assert "tiny-chat did not answer" in result.stderr
    assert "not what was signed" in result.stderr


def test_an_unknown_model_is_told_with_where_to_look(market: FakeMarket, home: Home) -> None:
    result = chat(home, "big-chat", "-m", "Hi")
    assert result.exit_code == 1
    assert "404 model_not_found" in result.stderr
    assert "penstock chutes" in result.stderr


def test_another_gateway_may_be_named_even_when_no_market_runs_here(
    market: FakeMarket, stations: Stations, tmp_path: Path
) -> None:
    home = Home.at(str(tmp_path / "other"))
    home.make()
    home.api_key_file.write_text("sk-mine\n")
    result = chat(home, "-m", "Hi", "--gateway", stations.url)
    assert result.exit_code == 0
    assert stations.asked[0].bearer() == "sk-mine"


def test_without_a_key_chat_says_how_to_get_one(tmp_path: Path) -> None:
    result = invoke("chat", "-m", "Hi", "--gateway", "http://127.0.0.1:1", "--home", str(tmp_path))
    assert result.exit_code == 1
    assert "no API key" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "localhost"])
def test_a_gateway_that_is_not_there_is_told(home: Home, url: str) -> None:
    result = chat(home, "-m", "Hi", "--gateway", url)
    assert result.exit_code == 1
    assert f"{url} does not answer" in result.stderr


def says(*events: dict[str, Any]) -> Any:
    """A gateway that does not sign and sends these events."""

    async def answer(request: Request) -> Response | Stream:
        async def chunks() -> Any:
            for event in events:
                yield b"data: " + json.dumps(event).encode() + b"\n\n"

        return Stream(200, SSE_HEADERS, chunks())

    return answer


def test_an_answer_that_nobody_signed_is_called_so(stations: Stations, home: Home) -> None:
    stations.answers["POST", CHAT] = says({"choices": [{"delta": {"content": "Hi."}}]})
    result = chat(home, "-m", "Hi")
    assert result.stdout.splitlines()[0] == "Hi."
    assert "not signed" in result.stdout
    assert json.loads(chat(home, "-m", "Hi", "--json").stdout)["signed"] is False


def test_a_model_cannot_steer_the_terminal(stations: Stations, home: Home) -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jhello\r"
    stations.answers["POST", CHAT] = says({"choices": [{"delta": {"content": evil}}]})
    shown = chat(home, "-m", "Hi").stdout
    assert "hello" in shown
    assert not {"\x1b", "\x07", "\r"} & set(shown)
    assert json.loads(chat(home, "-m", "Hi", "--json").stdout)["text"] == evil


def test_a_gateways_error_text_cannot_steer_the_terminal(stations: Stations, home: Home) -> None:
    error = {"error": {"code": "x", "message": "\x1b[2Jgone"}}
    stations.says(CHAT, error, method="POST", status=503)
    result = chat(home, "-m", "Hi")
    assert "gone" in result.stderr
    assert "\x1b" not in result.output


def test_a_miner_lost_in_mid_answer_is_an_error(stations: Stations, home: Home) -> None:
    stations.answers["POST", CHAT] = says(
        {"choices": [{"delta": {"content": "Half an"}}]},
        {"error": {"code": "miner_failed", "message": "The miner was lost."}},
    )
    result = chat(home, "-m", "Hi")
    assert result.exit_code == 1
    assert "Half an" in result.stdout
    assert "miner_failed" in result.stderr


@pytest.fixture
def chute_file(tmp_path: Path) -> Path:
    path = tmp_path / "chute.toml"
    path.write_text(CHUTE_FILE)
    return path


def test_deploy_posts_a_manifest_signed_by_the_owner_of_this_home(
    stations: Stations, home: Home, chute_file: Path
) -> None:
    stations.says("/v1/chutes", {"chute": "sha256:ab", "created": True}, method="POST")
    result = invoke("deploy", str(chute_file), "--home", str(home.path))
    assert result.exit_code == 0
    assert "Deployed." in result.stdout
    assert f"penstock chutes{home.flag}" in result.stdout.replace("\n", " ")
    (posted,) = stations.bodies("/v1/chutes")
    manifest = open_signed(Manifest, parse_signed(posted), kind="manifest", verify=verify)
    check_manifest(manifest)
    owner = load_or_create_key(home.key_file("owner"), ENTROPY)
    assert manifest.owner == posted["signer"] == owner.identity
    assert chute_id(manifest) in result.stdout
    assert "$0.05 in, $0.20 out" in result.stdout


def test_deploying_the_same_again_says_that_nothing_changed(
    stations: Stations, home: Home, chute_file: Path
) -> None:
    stations.says("/v1/chutes", {"chute": "sha256:ab", "created": False}, method="POST")
    for _ in range(2):
        result = invoke("deploy", str(chute_file), "--home", str(home.path))
        assert "nothing changed" in result.stdout
    first, second = stations.bodies("/v1/chutes")
    assert first == second


def test_a_plan_deploys_nothing_and_needs_no_market(
    stations: Stations, tmp_path: Path, chute_file: Path
) -> None:
    home = tmp_path / "new home"
    result = invoke("deploy", "--plan", str(chute_file), "--home", str(home))
    assert result.exit_code == 0
    assert "nothing was deployed" in result.stdout
    assert "1 to 2 instances on cpu" in result.stdout
    found = json.loads(
        invoke("deploy", "--plan", "--json", str(chute_file), "--home", str(home)).stdout
    )
    assert found["planned"] is True
    assert found["created"] is False
    assert f"my-chat@{found['chute']}" in result.stdout
    assert stations.asked == []
    assert (home / "keys" / "owner.json").stat().st_mode & 0o077 == 0


def test_a_name_of_another_owner_is_told(stations: Stations, home: Home, chute_file: Path) -> None:
    error = {"error": {"code": "name_taken", "message": "my-chat belongs to another owner."}}
    stations.says("/v1/chutes", error, method="POST", status=409)
    result = invoke("deploy", str(chute_file), "--home", str(home.path))
    assert result.exit_code == 1
    assert "belongs to another owner" in result.stderr


def test_deploy_without_a_market_says_how_to_start_one(tmp_path: Path, chute_file: Path) -> None:
    result = invoke("deploy", str(chute_file), "--home", str(tmp_path / "home"))
    assert result.exit_code == 1
    assert "penstock up" in result.stderr


def test_an_owner_key_that_others_can_read_is_refused_in_words(
    home: Home, chute_file: Path
) -> None:
    load_or_create_key(home.key_file("owner"), ENTROPY)
    home.key_file("owner").chmod(0o644)
    result = invoke("deploy", "--plan", str(chute_file), "--home", str(home.path))
    assert result.exit_code == 1
    assert "owner.json" in result.stderr


def test_an_owner_key_that_is_damaged_is_refused_in_words(home: Home, chute_file: Path) -> None:
    home.key_file("owner").write_text('{"scheme": "ed25519", "seed": "abc"}')
    home.key_file("owner").chmod(0o600)
    result = invoke("deploy", "--plan", str(chute_file), "--home", str(home.path))
    assert result.exit_code == 1
    assert "owner.json" in result.stderr
    assert "abc" not in result.stderr


def test_two_stations_at_once_do_not_share_their_answers() -> None:
    with serving(Stations()) as first, serving(Stations()) as second:
        first.says("/v1/chutes", {"chutes": []})
        assert first.url != second.url
        assert second.answers == {}
