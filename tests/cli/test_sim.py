"""`penstock sim`: what it prints, what it remembers, how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from penstock.cli import sim as command
from penstock.cli.main import main


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["sim", *arguments])


def a_result(seed: int, *broken: dict[str, Any]) -> str:
    result = {
        "seed": seed,
        "trace": "ab" * 32,
        "events": 12,
        "virtual_ms": 1_000,
        "counts": {"requests": 3, "fault bus_down": 1},
        "outcomes": {"complete": 3},
        "epochs_settled": 1,
        "epochs_audited": 1,
        "checks": 2,
        "broken": list(broken),
    }
    return json.dumps({"result": result, "wall_ms": 5})


BROKEN = {"check": "the books sum to zero", "at_ms": 61_500, "detail": "they sum to 1"}


def test_a_good_seed_is_told_in_numbers() -> None:
    result = invoke("--seed", "5", "--hours", "0.003")
    assert result.exit_code == 0, result.output
    for words in ("seed 5", "trace ", "requests", "faults", "epochs settled", "every rule held"):
        assert words in result.output


def test_json_is_one_object() -> None:
    result = invoke("--seed", "5", "--hours", "0.002", "--json")
    value = json.loads(result.output)
    assert value["failed"] == 0
    assert value["runs"][0]["seed"] == 5
    assert len(value["runs"][0]["trace"]) == 64


def test_several_seeds_are_played_in_other_processes() -> None:
    result = invoke("--seeds", "2", "--from", "5", "--hours", "0.002", "--json")
    assert result.exit_code == 0, result.output
    runs = json.loads(result.output)["runs"]
    assert [run["seed"] for run in runs] == [5, 6]


def test_a_broken_rule_is_shown_remembered_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seeds = tmp_path / "tests" / "sim" / "seeds.txt"
    seeds.parent.mkdir(parents=True)
    seeds.write_text("# seeds\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "play", lambda seed, hours, show=None: a_result(seed, BROKEN))
    for _ in range(2):
        result = invoke("--seed", "9", "--hours", "0.5")
        assert result.exit_code == 1
        for words in ("the books sum to zero", "61.500 s", "penstock sim --seed 9 --hours 0.5"):
            assert words in result.output
    assert seeds.read_text("utf-8") == "# seeds\n9 0.5\n"
