"""A miner's earnings by the public log: proven before they are believed, read once, added up right."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.agents import SUM, agent_at
from tests.cli.stations import Stations, invoke, serving
from tests.client.altered_files import with_segment
from tests.client.memory_log import DictSource
from tests.client.published_log import CHUTES, EPOCHS, LAST, MINERS, STRANGER, make_log

from penstock.cli.home import write_json
from penstock.cli.miner_books import Books, EpochBooks, totals
from penstock.cli.miner_earnings import print_books
from penstock.cli.miner_home import MinerHome
from penstock.client.errors import Difference
from penstock.kit.wire.http import Request, Response, json_response
from penstock.spec.canon import from_plain
from penstock.spec.entries import EntryKind, parse_leaf
from penstock.spec.messages import Settlement
from penstock.spec.params import LOCAL
from penstock.spec.pricing import split_charge

ME = MINERS[0].identity
LOG = asyncio.run(make_log())
FILES = LOG.published


def books(folder: Path, source: Any = None, identity: str = ME) -> Books:
    return Books(source or DictSource(FILES), identity, LOCAL.fees, folder)


def read(one: Books, *, newest: int = LAST, since_ms: int = 0) -> list[EpochBooks]:
    return asyncio.run(one.read(newest, since_ms=since_ms, told=lambda _n, _epoch: None))


def expected(identity: str) -> tuple[int, int, int]:
    """(gross, own, payouts) straight from the log."""
    gross = own = payouts = 0
    for one in LOG.log.entries_:
        if one.row is not None and one.row.miner == identity:
            gross += one.row.charge_nano
            own += split_charge(one.row.earned_nano, LOCAL.fees).miner_nano
        if one.kind is EntryKind.SETTLEMENT:
            settlement = from_plain(Settlement, parse_leaf(one.leaf).body["body"])
            payouts += sum(
                each.amount_nano for each in settlement.payouts if each.identity == identity
            )
    return gross, own, payouts


@pytest.mark.parametrize("miner", MINERS)
def test_the_sums_are_those_of_the_log(tmp_path: Path, miner: Any) -> None:
    found = totals(read(books(tmp_path, identity=miner.identity)))
    gross, own, payouts = expected(miner.identity)
    assert gross > own > 0
    assert (found["gross_nano"], found["own_nano"], found["payout_nano"]) == (gross, own, payouts)
    assert found["fees_nano"] == gross - own
    assert payouts > 0
    assert {one["chute"] for one in found["chutes"]} == set(CHUTES)
    assert sum(one["gross_nano"] for one in found["chutes"]) == gross


def test_a_stranger_earned_nothing(tmp_path: Path) -> None:
    found = totals(read(books(tmp_path, identity=STRANGER.identity)))
    assert (found["orders"], found["gross_nano"], found["payout_nano"]) == (0, 0, 0)


def test_epochs_that_are_not_settled_are_told_apart_and_asked_again(tmp_path: Path) -> None:
    found = read(books(tmp_path))
    assert [one.epoch for one in found] == sorted(EPOCHS, reverse=True)
    assert [one.payout_nano is None for one in found] == [False, True, True]
    again = DictSource(FILES)
    read(books(tmp_path, again))
    asked = {name.split("/")[1] for name in again.asked if name.startswith("epochs/")}
    assert f"{LAST:08d}" not in asked, "what is settled was kept"
    assert f"{EPOCHS[0]:08d}" in asked


def test_what_was_kept_for_one_identity_is_not_shown_to_another(tmp_path: Path) -> None:
    read(books(tmp_path))
    other = totals(read(books(tmp_path, identity=MINERS[1].identity)))
    assert other["gross_nano"] == expected(MINERS[1].identity)[0]


def test_a_damaged_copy_is_read_anew(tmp_path: Path) -> None:
    first = read(books(tmp_path))
    for path in tmp_path.rglob("*.json"):
        path.write_bytes(b"{broken")
    assert read(books(tmp_path)) == first


def test_a_log_that_does_not_hold_is_not_believed(tmp_path: Path) -> None:
    data = FILES[f"epochs/{EPOCHS[0]:08d}/segment.parquet"]
    with pytest.raises(Difference):
        read(books(tmp_path, DictSource(with_segment(FILES, LAST, data))))


def test_only_as_far_back_as_was_asked(tmp_path: Path) -> None:
    whole = read(books(tmp_path))
    since_ms = whole[0].closed_ms
    assert read(books(tmp_path), since_ms=since_ms) == [
        one for one in whole if one.closed_ms >= since_ms
    ]
    assert read(books(tmp_path), since_ms=10**15) == []


class Ledger(Stations):
    """A market and a ledger that publish this log."""

    def __init__(self) -> None:
        super().__init__()
        self.says("/v1/epochs", {"epoch": LAST + 1, "settled": LAST})
        for name in FILES:
            self.answers["GET", f"/files/{name}"] = self.file

    async def file(self, request: Request) -> Response:
        return Response(200, FILES[request.path.removeprefix("/files/")])

    async def info(self, _: Request) -> Response:
        return json_response(200, {"ledger_url": self.url})


@pytest.fixture
def home(tmp_path: Path) -> Any:
    with serving(Ledger()) as ledger:
        assert isinstance(ledger, Ledger)
        ledger.answers["GET", "/v1/info"] = ledger.info
        ledger.says("/v1/chutes", {"chutes": [{"chute": CHUTES[0], "name": "first\x1b[2J"}]})
        made = MinerHome.at(str(tmp_path / "m"))
        made.make()
        # The identities of this log are toys, which no key file holds: an empty result is real too.
        made.key_file.write_text(json.dumps({"scheme": "ed25519", "seed": "09" * 32}))
        made.key_file.chmod(0o600)
        config = {"key_file": str(made.key_file), "market_url": ledger.url, "network": "local"}
        write_json(made.config_file, config, mode=0o600)
        yield made


def test_the_command_reads_the_log_and_asks_the_running_miner_for_its_costs(
    home: MinerHome,
) -> None:
    agent = Stations()
    agent.says("/v1/earnings", {"sum": SUM, "waiting_claims": 3})
    at = ("--home", str(home.path), "--days", "366")
    with agent_at(home, agent):
        told = json.loads(invoke("miner", "earnings", "--json", *at).output)
    assert told["power_nano"] == SUM["power_nano"]
    assert told["waiting_claims"] == 3
    assert told["net_nano"] == -SUM["power_nano"]
    assert agent.asked[-1].query_value("hours") == str(31 * 24)
    alone = invoke("miner", "earnings", *at)
    assert alone.exit_code == 0
    assert "the miner does not run" in alone.output
    assert invoke("miner", "earnings", "--csv", *at).output.startswith("epoch,closed_ms,chute")


def test_without_a_miner_or_a_market_it_says_what_to_do(home: MinerHome, tmp_path: Path) -> None:
    none = invoke("miner", "earnings", "--home", str(tmp_path / "none"))
    assert none.exit_code == 1
    assert "penstock miner up" in none.output
    config = {**home.config(), "market_url": "http://127.0.0.1:9"}
    write_json(home.config_file, config, mode=0o600)
    away = invoke("miner", "earnings", "--home", str(home.path))
    assert away.exit_code == 1
    assert "cannot be read" in away.output


def test_the_books_are_told_with_what_each_line_means(capsys: pytest.CaptureFixture[str]) -> None:
    chute = {"name": "x\x1b[2J", "orders": 2, "gross_nano": 1_000_000, "own_nano": 700_000}
    found = {
        "miner": ME,
        "days": 7,
        "epochs": 3,
        "unsettled_epochs": 1,
        "waiting_claims": 2,
        "gross_nano": 1_000_000,
        "fees_nano": 300_000,
        "own_nano": 700_000,
        "payout_nano": 5,
        "power_nano": 900_000,
        "rent_nano": 0,
        "net_nano": -199_995,
        "chutes": [chute],
    }
    print_books(found)
    text = capsys.readouterr().out
    assert "\x1b[2J" not in text
    for wanted in ("-$0.0003", "net", "-$0.000199995", "1 closed epoch", "2 receipt(s)"):
        assert wanted in text, wanted
