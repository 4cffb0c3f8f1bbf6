"""A miner that nobody can dial, in a network namespace: it serves, and finds back by itself from whatever
happens to its gateway, its link and its connections.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests.e2e.market import UP_DEADLINE_S, RunningMarket
from tests.e2e.namespaces import Namespace, NoNamespaces, inside, namespace

from penstock.cli.home import is_port_free

FIRST_PORT = 20_000
BACK_S = 60
"""The deadline of a hopeless test; what it took is printed."""
FLAP_S = 1.5
SILENT_S = 15
FAR_AWAY_S = 12
"""Longer than pings need to find out."""


@dataclass
class Hidden:
    """The market, the namespace, and the miner's process in it."""

    market: RunningMarket
    space: Namespace
    config: Path
    log: Path
    miner: subprocess.Popen[bytes]

    def health(self) -> Any:
        """What the miner says of itself; only from inside."""
        port = json.loads(self.config.read_text())["port"]
        asked = self.space.argv(
            *(sys.executable, "-c", "import sys,urllib.request as u;"),
            f"http://127.0.0.1:{port}/health",
        )
        asked[-2] += "print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def serves(self) -> bool:
        return self.market.chat("Hello?", max_tokens=4).status_code == 200

    def back_after(self, what: str, act: Callable[[], None]) -> None:
        """Do something, and wait until requests are served again, by both workers."""
        act()
        began_s = time.monotonic()
        self.market.until(self.serves, f"requests are served after {what}", BACK_S)
        print(f"{what}: served again after {time.monotonic() - began_s:.1f} s")
        for _ in range(6):
            self.market.until(self.serves, f"requests go on being served after {what}", BACK_S)

    def stream(self, during: Callable[[], None]) -> list[str]:
        """The data of one streamed answer, with something done after its first event."""
        body = {
            "model": "tiny-chat",
            "messages": [{"role": "user", "content": "Tell me about water."}],
            "stream": True,
            "max_tokens": 200,
        }
        headers = {"authorization": f"Bearer {self.market.api_key}"}
        url = f"{self.market.gateway}/v1/chat/completions"
        data = []
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", url, json=body, headers=headers) as reply,
        ):
            assert reply.status_code == 200
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    data.append(line.removeprefix("data: "))
                if len(data) == 1:
                    during()
        return data


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hidden]:
    """A market here, and a miner there that has the only instance of the chat model."""
    try:
        with namespace() as space:
            yield from _hidden(space, tmp_path_factory.mktemp("nat"))
    except NoNamespaces as error:
        pytest.skip(f"a miner behind NAT needs network namespaces: {error}")


def _hidden(space: Namespace, folder: Path) -> Iterator[Hidden]:
    home = folder / "home"
    (home / "overrides").mkdir(parents=True)
    first = _free_row(7)
    gateway_port, market_port, ledger_port, front_port = range(first, first + 4)
    (home / "ports.json").write_text(json.dumps({"market": market_port, "ledger": ledger_port}))
    everywhere = {"host": "0.0.0.0"}
    overrides = {
        "ledger": everywhere,
        "market": {
            **everywhere,
            "ledger_url": f"http://{space.here}:{ledger_port}",
            "gateway_urls": [f"http://{space.here}:{gateway_port}"],
        },
        "gateway": {**everywhere, "tunnel": {"port": front_port + 1}},
    }
    for name, values in overrides.items():
        (home / "overrides" / f"{name}.json").write_text(json.dumps(values))
    config = {
        "name": "hidden",
        "network": "local",
        "market_url": f"http://{space.here}:{market_port}",
        "home": str(folder / "miner"),
        "key_file": str(folder / "miner-key.json"),
        "port": front_port,
        "chutes": ["tiny-chat"],
        "tunnel": {"mode": "only"},
        "log_json": False,
    }
    path = folder / "miner.json"
    path.write_text(json.dumps(config))
    market = RunningMarket(home, gateway_port)
    options = ("--miners", "0", "--validators", "0", "--gateway-workers", "2")
    up = ("up", "--detach", "--port", str(gateway_port), *options)
    command = (sys.executable, "-m", "penstock.miner.app", "--config", str(path))
    done = market.command(*up, deadline_s=UP_DEADLINE_S)
    try:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        with inside(space, command, folder / "miner.log") as miner:
            found = Hidden(market, space, path, folder / "miner.log", miner)
            market.until(found.serves, "the miner behind NAT serves")
            yield found
    finally:
        market.command("down")


def _free_row(count: int) -> int:
    """The first of so many free ports in a row, below those that systems give out by themselves."""
    start = FIRST_PORT + os.getpid() % 4_000
    return next(
        first
        for first in range(start, start + 1_000, count)
        if all(is_port_free(first + index) for index in range(count))
    )


pytestmark = pytest.mark.slow


def test_it_serves_whole_answers_and_streams(hidden: Hidden) -> None:
    data = hidden.stream(lambda: None)
    assert data[-1] == "[DONE]"
    assert len(data) > 5
    assert hidden.market.chat("Hello?", max_tokens=8).json()["choices"]


def test_nothing_of_it_can_be_dialled(hidden: Hidden) -> None:
    loopback = {"0100007F", "00000000000000000000000001000000"}
    assert set(hidden.space.listeners()) <= loopback
    port = json.loads(hidden.config.read_text())["port"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{hidden.space.there}:{port}/health", timeout=5)


def until_every_worker_has_links(hidden: Hidden) -> None:
    def keeps() -> bool:
        listed = (hidden.health() or {}).get("tunnels", [])
        gateways = {one["gateway"] for one in listed if one["links"] >= 4}
        return len(gateways) == 2

    hidden.market.until(keeps, "both workers have connections that rest")


def test_it_keeps_connections_to_every_worker(hidden: Hidden) -> None:
    until_every_worker_has_links(hidden)
    listed = hidden.health()["tunnels"]
    assert len(listed) == 3, "one address is there for renewals"
    assert len([one for one in listed if "cannot be dialled" in one["why"]]) == 1


def test_a_gateway_that_is_killed_is_found_again(hidden: Hidden) -> None:
    hidden.back_after("kill -9 of the gateway", lambda: _kill_gateway(hidden.market))


def test_a_renewal_of_the_gateway_loses_nobody(hidden: Hidden) -> None:
    # After a kill one worker serves before the other has been dialled.
    until_every_worker_has_links(hidden)
    failed = []
    renewal = subprocess.Popen(
        [
            *(sys.executable, "-m", "penstock.cli.main", "restart", "gateway", "--json"),
            *("--home", str(hidden.market.home)),
        ]
    )
    while renewal.poll() is None:
        reply = hidden.market.chat("Hello?", max_tokens=4)
        if reply.status_code != 200:
            failed.append(reply.text)
    assert renewal.returncode == 0
    assert failed == []


def test_a_stream_outlives_a_short_flap_of_the_link(hidden: Hidden) -> None:
    def flap() -> None:
        hidden.space.unplug()
        time.sleep(FLAP_S)
        hidden.space.plug()

    data = hidden.stream(flap)
    assert data[-1] == "[DONE]"
    hidden.back_after("a short flap", lambda: None)


def test_a_long_cut_of_the_link_heals(hidden: Hidden) -> None:
    def cut() -> None:
        hidden.space.unplug()
        time.sleep(SILENT_S)
        assert not hidden.serves(), "nobody else has the model"
        hidden.space.plug()

    hidden.back_after(f"{SILENT_S} s without a link", cut)


def test_half_open_connections_of_a_gateway_that_died_unseen_are_replaced(hidden: Hidden) -> None:
    def die_unseen() -> None:
        hidden.space.swallow()
        _kill_gateway(hidden.market)  # its resets are swallowed: the miner's ends stay open
        time.sleep(FAR_AWAY_S)
        hidden.space.release()

    hidden.back_after("a gateway that died unseen", die_unseen)


def test_half_open_connections_to_a_miner_that_died_unseen_are_noticed(hidden: Hidden) -> None:
    hidden.space.swallow()
    hidden.miner.kill()
    hidden.miner.wait()
    began_s = time.monotonic()
    market = hidden.market
    market.until(lambda: _refused_at_once(market), "the gateway knows that the miner is gone")
    print(f"a miner that died unseen: known after {time.monotonic() - began_s:.1f} s")
    hidden.space.release()
    command = (sys.executable, "-m", "penstock.miner.app", "--config", str(hidden.config))
    with inside(hidden.space, command, hidden.log) as miner:
        hidden.miner = miner
        hidden.back_after("the miner's new life", lambda: None)
        _stop_and_go_on(hidden)


def _stop_and_go_on(hidden: Hidden) -> None:
    """A process that hangs while its kernel acknowledges everything."""
    market, pid = hidden.market, _miner_pid(hidden)
    os.kill(pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        market.until(lambda: _refused_at_once(market), "the gateway knows that the miner hangs")
        print(f"a miner that hangs: known after {time.monotonic() - began_s:.1f} s")
    finally:
        os.kill(pid, signal.SIGCONT)
    hidden.back_after("kill -CONT", lambda: None)


def _miner_pid(hidden: Hidden) -> int:
    """`ip netns exec` becomes the command it is given."""
    return hidden.miner.pid


def _refused_at_once(market: RunningMarket) -> bool:
    """No request is sent there any more: a refusal takes no time."""
    began_s = time.monotonic()
    reply = market.chat("Hello?", max_tokens=4)
    return reply.status_code in {429, 503} and time.monotonic() - began_s < 1


def _kill_gateway(market: RunningMarket) -> None:
    pid = market.kill("gateway")
    market.until(lambda: market.is_back("gateway", pid), "the gateway is back")
