"""Several processes on one port: renewed under load without a failed request, and kept alive."""

import asyncio
import os
import re
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.kit.test_tls import write_certificate
from tests.servers import RunningServer, free_port
from tests.stations.gateway.script import Script
from tests.stations.gateway.test_app import (
    DEADLINE_S,
    SAID,
    Stage,
    booked,
    command,
    nats,
    stage,
    write_config,
)
from tests.stations.gateway.world import ALIAS, CHAT, SECRET

from penstock.adapters.child_process import ChildProcess
from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.spec.receipts import Outcome

__all__ = ["nats"]  # the fixture
pytestmark = pytest.mark.slow

BODY: Any = {
    "model": ALIAS,
    "messages": [{"role": "user", "content": "What does water do?"}],
    "max_tokens": 16,
}
WORKER = re.compile(r'gateway_build_info\{.*worker="([^"]+)"')


async def exported(on: Stage) -> str:
    """What the gateway exports; "" while nobody answers."""
    client = HttpClient(Sockets())
    try:
        return (await client.call("GET", f"{on.url}/metrics", deadline_ms=10_000)).body.decode()
    except WireError:
        return ""
    finally:
        await client.close()


def value(text: str, line: str) -> int:
    found = re.search(rf"^{re.escape(line)} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


async def until_exported(on: Stage, line: str, wanted: int) -> str:
    """Wait until this line has this value."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            text = await exported(on)
            if value(text, line) == wanted:
                return text
            await asyncio.sleep(0.05)


class Load:
    """Callers that ask one after the other, on kept and on new connections, whole and streamed."""

    def __init__(self, on: Stage) -> None:
        self._on = on
        self._stopped = asyncio.Event()
        self.answered = 0
        self.failures: list[str] = []

    async def until(self, answered: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.answered < answered and not self.failures:
                await asyncio.sleep(0.02)

    async def run(self, *, is_streamed: bool, keeps: bool) -> None:
        headers = {"authorization": f"Bearer {SECRET}"}
        body = {**BODY, "stream": is_streamed}

        def make() -> httpx.AsyncClient:
            return httpx.AsyncClient(base_url=self._on.url, headers=headers, timeout=DEADLINE_S)

        client = make()
        try:
            while not self._stopped.is_set():
                try:
                    reply = await client.post(CHAT, json=body)
                    whole = b"[DONE]" in reply.content if is_streamed else SAID in reply.text
                    if reply.status_code == 200 and whole:
                        self.answered += 1
                    else:
                        self.failures.append(f"{reply.status_code} {reply.text[-200:]}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                if not keeps:
                    await client.aclose()
                    client = make()
        finally:
            await client.aclose()

    def stop(self) -> None:
        self._stopped.set()


async def test_a_renewal_under_load_fails_no_request_and_leaves_nothing_held(
    nats: RunningServer, tmp_path: Path
) -> None:
    async with stage(nats, tmp_path, workers=2) as on:
        on.miner.default = Script(word_ms=20)
        load = Load(on)
        async with asyncio.TaskGroup() as group:
            for is_streamed in (False, True):
                for keeps in (False, True, True):
                    group.create_task(load.run(is_streamed=is_streamed, keeps=keeps))
            await load.until(20)
            before = await exported(on)
            on.child.send(signal.SIGHUP)
            after = await until_exported(on, 'gateway_renewals_total{result="complete"}', 1)
            await load.until(load.answered + 20)
            load.stop()
        assert load.failures == []
        assert set(WORKER.findall(before)) == {"gw", "gw-2"}
        assert set(WORKER.findall(after)) < {"gw", "gw-2", "gw-3"}
        assert "gw-3" in after
        on.child.send(signal.SIGTERM)
        assert await on.child.wait() == 0
        await booked(on.ledger, load.answered)
        outcomes = {judged.outcome for judged in on.ledger.judgements.values()}
        assert outcomes == {Outcome.COMPLETE}
        assert len({judged.order.gateway for judged in on.ledger.judgements.values()}) >= 2
        async with asyncio.timeout(DEADLINE_S):
            while on.ledger.held_nano:
                await asyncio.sleep(0.05)


async def test_a_worker_that_dies_is_started_again_and_the_others_go_on(
    nats: RunningServer, tmp_path: Path
) -> None:
    async with stage(nats, tmp_path, workers=2) as on:
        await until_exported(on, "gateway_workers", 2)
        pids = workers_of(on.child.pid)
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGKILL)
        text = await until_exported(on, "gateway_worker_crashes_total", 1)
        assert await on.ask() == SAID
        await until_exported(on, "gateway_workers", 2)
        assert set(WORKER.findall(text)) <= {"gw", "gw-2"}
        assert set(WORKER.findall(await exported(on))) == {"gw", "gw-2"}
        assert await on.ask(stream=True) == SAID


async def test_a_renewal_that_does_not_come_up_leaves_the_old_ones_serving(
    nats: RunningServer, tmp_path: Path
) -> None:
    async with stage(nats, tmp_path, workers=1) as on:
        pids = workers_of(on.child.pid)
        config = tmp_path / "gateway.json"
        config.write_text(config.read_text().replace('"operator"', '"no_such_setting"'))
        on.child.send(signal.SIGHUP)
        await until_exported(on, 'gateway_renewals_total{result="failed"}', 1)
        assert workers_of(on.child.pid) == pids
        assert await on.ask() == SAID
    log = (tmp_path / "gateway.log").read_text()
    assert "no_such_setting" in log, "the reason is told"


async def test_workers_die_with_the_one_that_keeps_them(
    nats: RunningServer, tmp_path: Path
) -> None:
    async with stage(nats, tmp_path, workers=2) as on:
        pids = workers_of(on.child.pid)
        os.kill(on.child.pid, signal.SIGKILL)
        await on.child.wait()
        await gone(pids)


@pytest.mark.parametrize("workers", [0, 1])
async def test_whoever_reaches_a_restarted_gateway_first_finds_every_model(
    nats: RunningServer, tmp_path: Path, workers: int
) -> None:
    """A client that is told of no such model does not ask again."""
    async with stage(nats, tmp_path, workers=workers) as on:
        pids = workers_of(on.child.pid)
        assert len(pids) == workers
        await on.child.kill()
        await gone(pids)
        on.child = await ChildProcess.start(on.child.command)
        heard = None
        async with asyncio.timeout(DEADLINE_S), on.client() as client:
            while heard is None:
                try:
                    heard = await client.chat.completions.create(**BODY)
                except openai.APIConnectionError:
                    await asyncio.sleep(0.001)
        assert heard.choices[0].message.content == SAID


@pytest.mark.parametrize("workers", [0, 1])
async def test_https_is_served_by_certificate_files_and_a_renewed_one_is_taken_up(
    nats: RunningServer, tmp_path: Path, workers: int
) -> None:
    certificate = write_certificate(tmp_path)
    files = {
        "tls_certificate_file": str(certificate.certificate_path),
        "tls_key_file": str(certificate.key_path),
    }
    async with stage(nats, tmp_path, workers=workers, **files) as on:
        assert await on.ask() == SAID
        assert await on.ask(stream=True) == SAID
        with pytest.raises(openai.APIConnectionError):
            await replace(on, ca="").ask()
        write_certificate(tmp_path)
        on.child.send(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    assert await on.ask() == SAID
                except openai.APIConnectionError:
                    await asyncio.sleep(0.05)  # it still shows the former one
                else:
                    break


async def test_a_first_worker_that_cannot_start_ends_the_gateway_with_its_reason(
    tmp_path: Path,
) -> None:
    config = write_config(
        tmp_path,
        market_url="http://127.0.0.1:1",
        nats_url="nats://x:1",
        port=free_port(),
        workers=2,
        tls_certificate_file="/nowhere/cert.pem",
        tls_key_file="/nowhere/key.pem",
    )
    async with asyncio.timeout(DEADLINE_S), command(config) as child:
        _, said = await child.communicate()
    assert child.returncode == 1
    assert b"cannot serve TLS with /nowhere/cert.pem" in said
    assert b"ended with 1 before it served" in said


async def test_a_port_that_is_taken_is_told_by_the_one_that_keeps_the_workers(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = write_config(
            tmp_path, market_url="http://x", nats_url="nats://x:1", port=port, workers=2
        )
        async with asyncio.timeout(DEADLINE_S), command(config) as child:
            _, said = await child.communicate()
    assert child.returncode == 1
    assert str(port).encode() in said


def workers_of(pid: int) -> list[int]:
    """The processes that a keeper has started, oldest first."""
    return sorted(int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def gone(pids: list[int]) -> None:
    """Wait until these processes have ended."""
    async with asyncio.timeout(DEADLINE_S):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await asyncio.sleep(0.02)
