"""The self-test measures this very machine, and says in words what it could not."""

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.stations import Stations, invoke, serving
from tests.makers import MANIFEST
from tests.stations.miner.world import CHARTER, HARDWARE

from penstock.cli.errors import Stop
from penstock.cli.miner_checks import (
    LINE_SAMPLE_BYTES_MAX,
    check_disk,
    check_engine,
    check_line,
    check_market,
    check_port,
    check_sandbox,
    line_speed,
)
from penstock.cli.miner_forecast import outlook, outlook_lines, outlook_plain, percent
from penstock.cli.miner_market import check_market as market_told
from penstock.cli.miner_market import find_market, look_at
from penstock.cli.miner_test import UNFIT
from penstock.kit.clock import SystemClock
from penstock.kit.keys import Ed25519Key
from penstock.kit.wire.http import Request, Response, json_response
from penstock.miner.preflight import Mark
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import chute_id

OPERATOR, OWNER = Ed25519Key(bytes([1]) * 32), Ed25519Key(bytes([2]) * 32)
MANIFEST_HERE = replace(
    MANIFEST, owner=OWNER.identity, engine="llamacpp", source="builtin:tiny-chat"
)


class Market(Stations):
    """A gateway, its market and its ledger at one address."""

    def __init__(self, **market: Any) -> None:
        super().__init__()
        self.market = market
        charter = replace(CHARTER, operator=OPERATOR.identity)
        self.charter = to_plain(sign("charter", charter, OPERATOR))
        self.answers["GET", "/market"] = self.about
        self.answers["GET", "/v1/info"] = self.info
        self.says("/livez", {})
        self.answers["GET", "/openapi.json"] = b"x" * 100_000
        target = {"instances": 2, "price_ppm": 1_000_000, "busy_us": 60_000_000, "requests": 9}
        listed = {
            "chute": chute_id(MANIFEST_HERE),
            "name": "tiny-chat",
            "manifest": to_plain(sign("manifest", MANIFEST_HERE, OWNER)),
            "target": target,
            "serving": 0,
        }
        self.says("/v1/targets", {"chutes": [listed], "miners": []})
        self.says("/v1/miners", {"miners": []})
        self.says("/v1/epochs", {"settled": -1})

    async def about(self, _: Request) -> Response:
        said = {
            "market_url": self.url,
            "operator": OPERATOR.identity,
            "network": "local",
            "now_ms": SystemClock().now_ms(),
        }
        return json_response(200, said | self.market)

    async def info(self, _: Request) -> Response:
        return json_response(200, {"charter": self.charter, "ledger_url": self.url})


@pytest.fixture
def market() -> Iterator[Market]:
    with serving(Market()) as made:
        assert isinstance(made, Market)
        yield made


def test_a_market_is_found_by_its_gateways_url(market: Market) -> None:
    found = asyncio.run(find_market(market.url))
    assert found.operator == OPERATOR.identity
    assert found.market_url == found.ledger_url == market.url
    assert found.is_local
    assert not found.has_tunnels
    assert abs(found.skew_ms) < 2_000


def test_tunnels_and_clocks_are_seen(market: Market) -> None:
    market.says("/tunnels", {"gateway": "x", "addresses": [{"host": "", "port": 1}]})
    market.market = {"now_ms": SystemClock().now_ms() - 60_000}
    found = asyncio.run(find_market(market.url))
    assert found.has_tunnels
    assert found.skew_ms > 50_000


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"network": "elsewhere"}, "no market that this release knows"),
        ({"market_url": "file:///etc/passwd"}, "no market that this release knows"),
        ({"market_url": 7}, "no market that this release knows"),
        ({"operator": "ed25519:" + "9" * 64}, "charter does not hold"),
    ],
)
def test_a_gateway_that_misleads_is_not_followed(changes: dict[str, Any], why: str) -> None:
    with serving(Market(**changes)) as made, pytest.raises(Stop, match=why):
        asyncio.run(find_market(made.url))


def test_a_market_on_the_gateways_own_machine_cannot_be_joined_from_afar() -> None:
    said = {"market_url": "http://127.0.0.1:1", "network": "local"}
    assert market_told("http://localhost:8400", said) == ("http://127.0.0.1:1", "local")
    with pytest.raises(Stop, match="its own machine") as caught:
        market_told("https://gateway.example", said)
    assert "market_public_url" in caught.value.then


def test_a_charter_under_another_law_is_refused(market: Market) -> None:
    charter = replace(CHARTER, operator=OPERATOR.identity, params_digest="0" * 64)
    market.charter = to_plain(sign("charter", charter, OPERATOR))
    with pytest.raises(Stop, match="other numbers"):
        asyncio.run(find_market(market.url))


def test_no_gateway_is_a_finding_and_the_rest_is_left_out() -> None:
    found, finding = asyncio.run(check_market("http://127.0.0.1:9"))
    assert found is None
    assert (finding.mark, finding.code) == (Mark.FAIL, "market_unreachable")
    findings = asyncio.run(check_line(None, lambda _: None))
    assert [one.mark for one in findings] == [Mark.SKIPPED, Mark.SKIPPED]


def test_the_lines_sample_is_bounded(market: Market) -> None:
    bits_per_s, round_trip_ms = asyncio.run(line_speed(market.url))
    assert bits_per_s > 0
    assert round_trip_ms >= 0
    sent = sum(one.path == "/openapi.json" for one in market.asked) * 100_000
    assert 0 < sent <= LINE_SAMPLE_BYTES_MAX + 100_000


def test_the_disk_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    finding = check_disk(tmp_path)
    assert finding.mark in {Mark.OK, Mark.WARN}
    assert list(tmp_path.iterdir()) == []
    assert check_disk(tmp_path / "none").code == "disk_unusable"


def test_a_port_that_is_taken_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        assert check_port("127.0.0.1", port).code == "port_taken"
    assert check_port("127.0.0.1", 0).mark is Mark.OK


def test_the_sandbox_is_looked_at() -> None:
    assert asyncio.run(check_sandbox()).check == "sandbox"


@pytest.mark.slow  # a real engine is started
def test_the_default_engine_is_started_and_nothing_is_left(tmp_path: Path) -> None:
    finding = asyncio.run(check_engine(tmp_path))
    assert finding.mark in {Mark.OK, Mark.WARN}, finding
    assert list(tmp_path.iterdir()) == []


def test_a_forecast_says_how_it_was_computed(market: Market) -> None:
    found = asyncio.run(find_market(market.url))
    seen = asyncio.run(look_at(found))
    one = outlook(seen, HARDWARE, found.params, names=(), miner="me")
    assert [view.manifest.name for view in one.chutes] == ["tiny-chat"]
    assert outlook_plain(one)["score_ppm"] == 950_000
    text = "\n".join(outlook_lines(one))
    assert "95.00 %" in text
    assert "demand stays" in text
    none = outlook(seen, HARDWARE, found.params, names=("unknown",), miner="me")
    assert "would wait" in outlook_lines(none)[0]
    assert percent(1_234) == "0.12 %"


@pytest.mark.slow  # a real engine is started
def test_the_command_tells_marks_remedies_and_earnings(market: Market, tmp_path: Path) -> None:
    at = ("--home", str(tmp_path / "m"), "--gateway", market.url)
    bundle = tmp_path / "b.tgz"
    told = invoke("miner", "test", "--json", "--bundle", str(bundle), *at)
    found = json.loads(told.stdout)
    assert told.exit_code == 0
    assert found["fit"] is True
    assert found["forecast"]["chutes"] == ["tiny-chat"]
    assert bundle.exists()
    assert not (tmp_path / "m" / "key.json").exists(), "a test makes no key"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        unfit = invoke("miner", "test", "--port", port, *at)
    assert unfit.exit_code == UNFIT
    assert "✗ port" in unfit.stdout
    assert "→ choose another: --port N" in unfit.stdout


def test_an_up_without_a_market_says_so_and_leaves_no_configuration(tmp_path: Path) -> None:
    home = tmp_path / "m"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        result = invoke("miner", "up", "--gateway", url, "--home", str(home))
    assert result.exit_code == UNFIT
    assert "✗ market" in result.stdout
    assert not (home / "miner.json").exists()
