"""The embedded servers: secrets, folders that nobody may enter, leftovers, clean stops."""

import asyncio
import os
import shutil
import signal
import stat
import sys
from pathlib import Path

import asyncpg
import pytest
from tests.servers import RunningServer, free_port, nats_in, postgres_in

from penstock.adapters.child_process import ChildProcess, Command, is_port_open
from penstock.adapters.embedded_nats import NatsServer
from penstock.adapters.embedded_postgres import PostgresServer
from penstock.adapters.errors import FolderInUse, FolderUnsafe, NotReady
from penstock.adapters.leftovers import end_leftovers, pids_working_in
from penstock.adapters.postgres_install import COMPLETE, copy_install, find_install

IS_ROOT = os.geteuid() == 0
DEADLINE_S = 60


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestPostgres:
    async def test_it_runs_with_home_below_a_folder_that_only_we_can_enter(
        self, tmp_path: Path
    ) -> None:
        """A root parent drops to nobody, who cannot walk to the data; it works all the same."""
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        server = RunningServer(postgres_in(closed / "home"))
        await server.start()
        try:
            connection = await asyncpg.connect(server.url)
            assert await connection.fetchval("SELECT current_database()") == "penstock"
            await connection.close()
            if IS_ROOT:
                data = closed / "home" / "postgres" / "data"
                assert data.stat().st_uid == 65534
                assert (closed / "home" / "postgres").stat().st_uid == 0
                status = Path(f"/proc/{server.pid}/status").read_text()
                assert "Uid:\t65534\t65534\t65534\t65534" in status
        finally:
            assert await server.stop() == 0

    @pytest.mark.skipif(not IS_ROOT, reason="only root needs the copy")
    async def test_it_runs_from_a_copy_where_its_user_cannot_reach_the_programs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("penstock.adapters.postgres_install.is_reachable", lambda path: False)
        cache = Path("/tmp") / f"penstock-test-{os.getpid()}"
        postgres = PostgresServer(tmp_path / "home", free_port(), cache=cache)
        server = RunningServer(postgres)
        try:
            await server.start()
            assert str(cache) in postgres.command.argv[0]
            assert await server.stop() == 0
        finally:
            await asyncio.to_thread(shutil.rmtree, cache, ignore_errors=True)

    async def test_the_password_is_in_no_argument_and_in_no_url(self, tmp_path: Path) -> None:
        postgres = postgres_in(tmp_path)
        await postgres.prepare()
        password = postgres.pgpass.read_text().strip().rsplit(":", 1)[1]
        assert len(password) == 48
        assert mode_of(postgres.pgpass) == 0o600
        command = postgres.command
        assert password not in " ".join((*command.argv, *command.env.values(), postgres.url))

    async def test_a_stranger_with_a_wrong_password_is_refused(self, postgres_url: str) -> None:
        plain = postgres_url.split("?", maxsplit=1)[0].replace("penstock@", "penstock:wrong@")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(plain)

    async def test_another_server_on_its_port_is_named_as_such(
        self, tmp_path: Path, postgres_url: str
    ) -> None:
        port = int(
            postgres_url.split("?", maxsplit=1)[0].rsplit(":", 1)[1].split("/", maxsplit=1)[0]
        )
        other = PostgresServer(tmp_path, port)
        await other.prepare()
        with pytest.raises(NotReady, match="another one"):
            await other.wait_ready(deadline_ms=30_000)

    async def test_an_interrupted_initdb_leaves_nothing_that_is_taken_for_data(
        self, tmp_path: Path
    ) -> None:
        half = tmp_path / "postgres" / "data.new"
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("18")
        server = RunningServer(postgres_in(tmp_path))
        await server.start()
        assert await server.stop() == 0
        assert not half.exists()

    async def test_a_second_start_on_live_data_is_refused(self, tmp_path: Path) -> None:
        server = RunningServer(postgres_in(tmp_path))
        await server.start()
        try:
            with pytest.raises(FolderInUse, match=str(server.pid)):
                await end_leftovers(tmp_path / "postgres" / "data", deadline_ms=500)
        finally:
            assert await server.stop() == 0

    async def test_a_busy_worker_of_a_killed_server_does_not_stop_the_next_start(
        self, tmp_path: Path
    ) -> None:
        """The worker counts in one long statement, so it does not see that its server is gone."""
        server = RunningServer(postgres_in(tmp_path))
        await server.start()
        connection = await asyncpg.connect(server.url)
        counting = asyncio.ensure_future(
            connection.execute("SELECT sum(a) FROM generate_series(1, 20000000) a")
        )
        worker = connection.get_server_pid()
        data = tmp_path / "postgres" / "data"
        await busy(worker)
        await server.kill()
        assert worker in pids_working_in(data)
        await server.start()
        assert worker not in pids_working_in(data)
        assert await server.stop() == 0
        # It may have got its answer still, or not.
        await asyncio.wait([counting])
        counting.exception()
        connection.terminate()


class TestInstallCopy:
    def test_the_copy_is_made_once_and_can_be_read_by_everybody(self, tmp_path: Path) -> None:
        root = find_install(uid=None).root
        first = copy_install(root, tmp_path)
        marker = first.parent.parent / COMPLETE
        made = marker.stat().st_mtime_ns
        assert copy_install(root, tmp_path) == first
        assert marker.stat().st_mtime_ns == made
        assert mode_of(first / "bin" / "postgres") == 0o755
        assert mode_of(first / "bin") == 0o755
        assert [entry.name for entry in tmp_path.iterdir()] == [marker.parent.name]

    def test_half_a_copy_is_replaced(self, tmp_path: Path) -> None:
        root = find_install(uid=None).root
        copied = copy_install(root, tmp_path)
        (copied / "bin" / "postgres").unlink()
        (copied.parent.parent / COMPLETE).unlink()
        assert (copy_install(root, tmp_path) / "bin" / "postgres").is_file()

    def test_a_copy_that_others_can_write_to_is_never_run(self, tmp_path: Path) -> None:
        root = find_install(uid=None).root
        copied = copy_install(root, tmp_path)
        copied.parent.parent.chmod(0o777)
        with pytest.raises(FolderUnsafe, match="rm -rf"):
            copy_install(root, tmp_path)


class TestNats:
    async def test_the_token_is_in_no_argument_and_in_no_url(self, tmp_path: Path) -> None:
        nats = nats_in(tmp_path)
        await nats.prepare()
        token = nats.token_file.read_text()
        assert len(token) == 48
        assert mode_of(nats.token_file) == mode_of(nats.configuration) == 0o600
        assert token in nats.configuration.read_text()
        command = nats.command
        assert token not in " ".join((*command.argv, *command.env.values(), nats.url))

    async def test_a_restart_keeps_the_token_and_takes_a_new_port(self, tmp_path: Path) -> None:
        first = NatsServer(tmp_path, 1111)
        await first.prepare()
        second = NatsServer(tmp_path, 2222)
        await second.prepare()
        assert first.token_file.read_text() == second.token_file.read_text()
        assert "port: 2222" in second.configuration.read_text()

    async def test_it_stops_cleanly(self, tmp_path: Path) -> None:
        server = RunningServer(nats_in(tmp_path))
        await server.start()
        assert await server.stop() == 0

    async def test_it_is_not_ready_when_nobody_listens(self, tmp_path: Path) -> None:
        with pytest.raises(NotReady, match="nats-server"):
            await nats_in(tmp_path).wait_ready(deadline_ms=200)

    async def test_every_answered_write_is_on_disk(self, tmp_path: Path) -> None:
        nats = nats_in(tmp_path)
        await nats.prepare()
        assert "sync_interval: always" in nats.configuration.read_text()


async def test_a_leftover_without_a_first_process_is_ended(tmp_path: Path) -> None:
    """Somebody works in the folder and no lock file names him: he is an orphan."""
    process = await asyncio.create_subprocess_exec("sleep", "600", cwd=tmp_path)
    try:
        assert pids_working_in(tmp_path) == (process.pid,)
        await end_leftovers(tmp_path, deadline_ms=2_000)
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()


PARENT = """
import asyncio, sys, time
from pathlib import Path
from penstock.adapters.child_process import ChildProcess
from penstock.adapters.embedded_nats import NatsServer
from penstock.adapters.embedded_postgres import PostgresServer

async def main():
    home = Path(sys.argv[1])
    for server in (PostgresServer(home, int(sys.argv[2])), NatsServer(home, int(sys.argv[3]))):
        await server.prepare()
        child = await ChildProcess.start(server.command)
        await server.wait_ready(deadline_ms=60_000)
    print("all ready", flush=True)
    time.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a death signal")
async def test_servers_die_with_a_killed_parent_and_start_again(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    home, ports = tmp_path / "home", (free_port(), free_port())
    parent = await ChildProcess.start(
        Command(
            argv=(sys.executable, str(script), str(home), *map(str, ports)),
            env={"PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            log=tmp_path / "parent.log",
        )
    )
    await parent.wait_line("all ready", deadline_ms=60_000)
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    for server in (PostgresServer(home, ports[0]), NatsServer(home, ports[1])):
        async with asyncio.timeout(DEADLINE_S):
            while await is_port_open("127.0.0.1", server.port):
                await asyncio.sleep(0.02)
        again = RunningServer(server)
        await again.start()
        assert await again.stop() == 0


async def busy(pid: int) -> None:
    """Wait until a process has used the processor for a tenth of a second."""
    async with asyncio.timeout(DEADLINE_S):
        while int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11]) < 10:
            await asyncio.sleep(0.01)
