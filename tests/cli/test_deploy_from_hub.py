"""deploy without model_digest: the hub that has the weights is asked, and every failure says what to do."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.weights.hub_server import REPO, Hub, gguf, safetensors, sha
from tests.adapters.weights.makers import folder_digest
from tests.cli.stations import Stations, invoke, serving

from penstock.cli.home import Home
from penstock.kit.wire.http import Request, Response, Stream

MODEL = gguf(5_000)
FOLDER = {"model.safetensors": safetensors(9_000), "config.json": b'{"a":1}'}
CHUTE = """
name = "mine"
modality = "chat"
engine = "{engine}"
source = "{source}"
hardware = "gpu"
instances_min = 1
instances_max = 2
[limits]
context_tokens_max = 100
output_tokens_max = 10
parallel_max = 2
[price_usd_per_million]
prompt = "0.05"
"""


@dataclass
class HubStation(Stations):
    """A hub where the command's own loop can reach it."""

    hub: Hub = field(default_factory=lambda: Hub({"a.gguf": MODEL}))
    denies: int = 0

    async def __call__(self, request: Request) -> Response | Stream:
        self.asked.append(request)
        if self.denies:
            return Response(self.denies)
        return await self.hub.serve(request)


@pytest.fixture
def hub() -> Iterator[HubStation]:
    with serving(HubStation()) as made:
        assert isinstance(made, HubStation)
        yield made


def plan(tmp_path: Path, source: str, hub: str, *, engine: str = "llamacpp") -> Any:
    """What deploy --plan says of a chute without a digest."""
    file = tmp_path / "chute.toml"
    file.write_text(CHUTE.format(engine=engine, source=source))
    home = str(tmp_path / "home")
    return invoke("deploy", "--plan", "--json", str(file), "--hub", hub, "--home", home)


def deployed_digest(result: Any, stations: Stations) -> str:
    assert result.exit_code == 0, result.output
    (posted,) = stations.bodies("/v1/chutes")
    return str(posted["body"]["model_digest"])


def test_a_file_of_a_hub_is_deployed_by_the_digest_that_the_hub_shows(
    hub: HubStation, stations: Stations, home: Home, tmp_path: Path
) -> None:
    stations.says("/v1/chutes", {"chute": "sha256:ab", "created": True}, method="POST")
    file = tmp_path / "chute.toml"
    file.write_text(CHUTE.format(engine="llamacpp", source=f"hf:{REPO}@main/a.gguf"))
    result = invoke("deploy", str(file), "--hub", hub.url, "--home", str(home.path))
    assert deployed_digest(result, stations) == sha(MODEL)


def test_a_folder_of_a_hub_is_deployed_by_the_digest_of_its_listing(
    hub: HubStation, stations: Stations, home: Home, tmp_path: Path
) -> None:
    hub.hub.files = FOLDER
    stations.says("/v1/chutes", {"chute": "sha256:ab", "created": True}, method="POST")
    file = tmp_path / "chute.toml"
    file.write_text(CHUTE.format(engine="vllm", source=f"hf:{REPO}@main"))
    result = invoke("deploy", str(file), "--hub", hub.url, "--home", str(home.path))
    assert deployed_digest(result, stations) == folder_digest(FOLDER)


def test_a_plan_asks_the_hub_too_so_that_its_chute_is_the_one_deployed(
    hub: HubStation, tmp_path: Path
) -> None:
    first = json.loads(plan(tmp_path, f"hf:{REPO}@main/a.gguf", hub.url).stdout)
    hub.hub.files = {"a.gguf": gguf(5_000, seed=2)}
    second = json.loads(plan(tmp_path, f"hf:{REPO}@main/a.gguf", hub.url).stdout)
    assert first["chute"] != second["chute"]


@pytest.mark.parametrize(
    ("status", "words"), [(404, "a.gguf"), (401, "gated or private"), (500, "500")]
)
def test_a_hub_that_refuses_is_told_with_the_way_out(
    hub: HubStation, tmp_path: Path, status: int, words: str
) -> None:
    hub.denies = status
    result = plan(tmp_path, f"hf:{REPO}@main/a.gguf", hub.url)
    assert result.exit_code == 1
    assert "could not be asked for" in result.stderr
    assert words in result.stderr
    assert "model_digest" in result.stderr


def test_without_a_network_it_says_how_to_deploy_all_the_same(tmp_path: Path) -> None:
    result = plan(tmp_path, f"hf:{REPO}@main/a.gguf", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "could not be asked for" in result.stderr
    assert f'write model_digest = "..." into {tmp_path / "chute.toml"}' in result.stderr


def test_a_url_has_nobody_to_ask(hub: HubStation, tmp_path: Path) -> None:
    result = plan(tmp_path, "https://mirror.example/a.gguf", hub.url)
    assert result.exit_code == 1
    assert "comes without a digest" in result.stderr
    assert hub.asked == []


def test_what_the_engine_cannot_load_is_refused_before_anybody_is_asked(
    hub: HubStation, tmp_path: Path
) -> None:
    result = plan(tmp_path, f"hf:{REPO}@main", hub.url)
    assert result.exit_code == 1
    assert hub.asked == []


def test_a_token_goes_to_the_hub_and_only_from_a_private_file(
    hub: HubStation, tmp_path: Path
) -> None:
    token, file = tmp_path / "token", tmp_path / "chute.toml"
    file.write_text(CHUTE.format(engine="llamacpp", source=f"hf:{REPO}@main/a.gguf"))
    token.write_text("hf_secret\n")
    arguments = ["deploy", "--plan", str(file), "--hub", hub.url, "--home", str(tmp_path / "home")]
    token.chmod(0o644)
    exposed = invoke(*arguments, "--hub-token-file", str(token))
    assert exposed.exit_code == 1
    assert hub.asked == []
    token.chmod(0o600)
    assert invoke(*arguments, "--hub-token-file", str(token)).exit_code == 0
    assert hub.asked[0].header("authorization") == "Bearer hf_secret"
