"""Every command of docs/call.md does what the page says, pasted as it stands."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.market import RunningMarket

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/call.md"
BATCH_PAGE = PAGE.with_name("batch.md")
FENCE = re.compile(r"```bash\n(curl .*?)```", re.DOTALL)
COMMANDS = FENCE.findall(PAGE.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: speech that one command saves is transcribed by the next."""
    return tmp_path_factory.mktemp("calls")


def ran(command: str, market: RunningMarket, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "URL": market.gateway, "KEY": market.api_key},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.parametrize("place", range(len(COMMANDS)))
def test_a_command_of_the_page_works_as_pasted(
    place: int, market: RunningMarket, folder: Path
) -> None:
    command = COMMANDS[place]
    answer = ran(command, market, folder)
    assert '"error":{"message"' not in answer, answer
    assert '"type":"error"' not in answer, answer
    if "-o speech.wav" in command:
        assert (folder / "speech.wav").read_bytes()[:4] == b"RIFF"
    elif "audio/tr" in command:
        assert "the market is open" in answer
    else:
        assert answer.strip()


def test_the_page_calls_every_path_that_is_served(market: RunningMarket, folder: Path) -> None:
    document: dict[str, Any] = json.loads(ran("curl -s $URL/openapi.json", market, folder))
    called = "\n".join(COMMANDS)
    left_out = {
        "/v1/audio/translations",
        "/v1/rerank",
        "/rerank",
        "/v1/receipts/{id}",
        "/v1/models/{id}",
    }
    batch_page = BATCH_PAGE.read_text()
    for path in set(document["paths"]) - left_out:
        if path.startswith(("/v1/files", "/v1/batches")):
            assert f" {path}`" in batch_page, f"docs/batch.md does not name {path}"
        else:
            assert f"$URL{path}" in called, f"docs/call.md has no call of {path}"
