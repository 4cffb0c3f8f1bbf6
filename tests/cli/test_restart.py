"""penstock restart gateway: asks the running one, waits for the end, and tells a failure."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.stations import Stations, invoke, running_home, serving

from penstock.cli.home import Home
from penstock.cli.restart import renewals

METRICS = "/metrics"
EXPORT = (
    'gateway_renewals_total{{result="complete"}} {}\ngateway_renewals_total{{result="failed"}} {}\n'
)
WAITS = "import signal, sys; print('up', flush=True); signal.sigwait([signal.SIGHUP]); print('hup')"


@pytest.fixture
def stations() -> Iterator[Stations]:
    with serving(Stations()) as served:
        yield served


@contextmanager
def gateway_process(stations: Stations, after: str) -> Iterator[int]:
    """A process that takes one SIGHUP; then the gateway exports `after`."""
    code = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP]); {WAITS}"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"

    def answer() -> None:
        child.wait()
        stations.answers["GET", METRICS] = after.encode()

    waiting = threading.Thread(target=answer)
    waiting.start()
    try:
        yield child.pid
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGHUP)
        waiting.join()
        child.stdout.close()


@contextmanager
def gateway_home(path: Path, stations: Stations, pid: int | None) -> Iterator[Home]:
    """A running market whose gateway is this process."""
    row = {"name": "gateway", "pid": pid, "state": "ready", "restarts": 0}
    with running_home(path, stations) as home:
        home.write_state({**home.read_state(), "stations": [row]})
        yield home


def test_it_signals_the_gateway_and_waits_for_the_renewal(
    stations: Stations, tmp_path: Path
) -> None:
    stations.answers["GET", METRICS] = EXPORT.format(4, 1).encode()
    with (
        gateway_process(stations, EXPORT.format(5, 1)) as pid,
        gateway_home(tmp_path, stations, pid) as home,
    ):
        result = invoke("restart", "gateway", "--home", str(home.path))
        assert result.exit_code == 0, result.output
        assert "new processes" in result.output
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_renewal_that_failed_is_told_with_the_next_command(
    stations: Stations, tmp_path: Path
) -> None:
    stations.answers["GET", METRICS] = EXPORT.format(0, 0).encode()
    with (
        gateway_process(stations, EXPORT.format(0, 1)) as pid,
        gateway_home(tmp_path, stations, pid) as home,
    ):
        result = invoke("restart", "gateway", "--home", str(home.path))
        assert result.exit_code != 0
        assert "the old processes go on" in result.output
        assert "penstock logs gateway" in result.output


def test_without_a_market_or_a_running_gateway_it_says_so(
    stations: Stations, tmp_path: Path
) -> None:
    assert invoke("restart", "gateway", "--home", str(tmp_path / "none")).exit_code != 0
    with gateway_home(tmp_path / "some", stations, None) as home:
        result = invoke("restart", "gateway", "--home", str(home.path))
    assert result.exit_code != 0
    assert "does not run just now" in result.output


def test_only_what_can_be_renewed_is_taken() -> None:
    assert invoke("restart", "ledger").exit_code == 2


def test_renewals_are_read_from_the_export_and_nobody_there_is_none(stations: Stations) -> None:
    stations.answers["GET", METRICS] = EXPORT.format(3, 2).encode()
    assert renewals(stations.url) == {"complete": 3, "failed": 2}
    assert renewals("http://127.0.0.1:1") == {}
