"""PostgresServer: a real PostgreSQL of our own, in HOME/postgres, run by our supervisor.

It listens on 127.0.0.1 only, with scram-sha-256 and a generated password in HOME/postgres/pgpass
(0600, libpq's format). The URL names that file, so the secret is in no URL, argument or variable.
fsync stays on: a commit that was answered survives a power cut.

PostgreSQL refuses to run as root. A root parent runs it as `uid` (default 65534, nobody) and gives
that user the folder HOME/postgres/data and nothing else. HOME may lie where that user cannot go:
the process enters the data folder as root (its working folder), drops to the user, and knows the
folder as /proc/self/cwd, which Linux resolves without walking the path.
"""

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg

from penstock.adapters.child_process import CHECK_EVERY_MS, ChildProcess, Command
from penstock.adapters.errors import NotReady, ProgramFailed
from penstock.adapters.files import sync_folder
from penstock.adapters.leftovers import end_leftovers
from penstock.adapters.postgres_install import PostgresInstall, find_install, is_reachable
from penstock.adapters.secret_file import load_or_create_secret, read_secret
from penstock.kit.ports import Entropy

HOST = "127.0.0.1"
USER = "penstock"
DATABASE = "penstock"
NOBODY_UID = 65534
CONNECTIONS_MAX = 100
PASSWORD_BYTES = 24
INITDB_DEADLINE_MS = 120_000
LEFTOVERS_DEADLINE_MS = 20_000
CONNECT_DEADLINE_MS = 2_000
CWD = "/proc/self/cwd"
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
# The server answers, but not yet, or its connection broke: ask again until the deadline.
NOT_YET = (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)


@dataclass(slots=True)
class PostgresServer:
    """`await prepare()` before every start, then start `command`, then `await wait_ready(...)`.

    home: the folder of this installation. uid: who runs it when the parent is root. cache: where
    the programs are copied if that user cannot reach them (default: the temporary folder).
    """

    home: Path
    port: int
    uid: int = NOBODY_UID
    cache: Path | None = None
    connections_max: int = CONNECTIONS_MAX
    entropy: Entropy = os.urandom
    _install: PostgresInstall | None = field(default=None, init=False)

    @property
    def data(self) -> Path:
        return self.home.resolve() / "postgres" / "data"

    @property
    def pgpass(self) -> Path:
        return self.home.resolve() / "postgres" / "pgpass"

    @property
    def log(self) -> Path:
        return self.home / "logs" / "postgres.log"

    @property
    def url(self) -> str:
        """For asyncpg and psql; it names the password file instead of the password."""
        where = f"{HOST}:{self.port}/{DATABASE}"
        # No TLS to ourselves, and so no look at certificates in somebody's home folder.
        return f"postgresql://{USER}@{where}?passfile={quote(str(self.pgpass))}&sslmode=disable"

    @property
    def command(self) -> Command:
        """How the supervisor starts it. SIGINT is PostgreSQL's fast shutdown; SIGQUIT, sent when
        the parent dies, its immediate one (the next start recovers from the log).
        """
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self.connections_max),
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "logging_collector": "off",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._command(str(self._programs().postgres), "-D", self._data_name(), *flags)

    async def prepare(self) -> None:
        """Make the database folder if there is none; wait for leftovers of a killed server.

        Raises ProgramMissing, ProgramFailed, FolderUnsafe, FolderInUse.
        """
        self._install = await asyncio.to_thread(find_install, uid=self._run_uid(), cache=self.cache)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        password = self.entropy(PASSWORD_BYTES).hex()
        load_or_create_secret(self.pgpass, f"{HOST}:*:*:{USER}:{password}\n".encode())
        if not self.data.exists():
            await self._initdb()
        self._give_to_user(self.data)
        await end_leftovers(self.data, deadline_ms=LEFTOVERS_DEADLINE_MS)
        # Nobody works in the folder, so the file is stale. PostgreSQL would refuse to start if
        # another process happened to have the process number that is written in it.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    async def wait_ready(self, *, deadline_ms: int) -> None:
        """Return once the database `penstock` takes connections; makes it the first time.

        Raises NotReady.
        """
        why = "it never answered"
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while True:
                    try:
                        await self._touch_database()
                    except (*NOT_YET, TimeoutError) as error:
                        why = str(error)
                        await asyncio.sleep(CHECK_EVERY_MS / 1000)
                    else:
                        return
        except TimeoutError as error:
            raise NotReady("postgres", deadline_ms, self.log, why) from error
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            why = f"the server on port {self.port} is another one: it refuses our password"
            raise NotReady("postgres", deadline_ms, self.log, why) from error

    async def _touch_database(self) -> None:
        try:
            connection = await self._connect(DATABASE)
        except asyncpg.InvalidCatalogNameError:
            connection = await self._connect("postgres")
            try:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
            except asyncpg.DuplicateDatabaseError:
                pass  # Another process made it first.
            finally:
                await connection.close()
        else:
            await connection.close()

    async def _connect(self, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            host=HOST,
            port=self.port,
            user=USER,
            passfile=str(self.pgpass),
            database=database,
            timeout=CONNECT_DEADLINE_MS / 1000,
            ssl=False,
        )

    async def _initdb(self) -> None:
        """Make the folder beside and rename it: an interrupted initdb leaves nothing behind."""
        building = self.data.with_name("data.new")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        self._give_to_user(building)
        # initdb reads the password from a file that the unprivileged user must be able to reach.
        with tempfile.TemporaryDirectory(prefix="penstock-pw-") as folder:
            password_file = Path(folder) / "password"
            password = read_secret(self.pgpass).decode().strip().rsplit(":", 1)[1]
            password_file.write_text(password + "\n")
            password_file.chmod(0o600)
            self._give_to_user(Path(folder))
            command = self._command(
                *(str(self._programs().initdb), "-D", self._data_name(building)),
                *(f"--username={USER}", f"--pwfile={password_file}", "--auth=scram-sha-256"),
                *("--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                cwd=building,
            )
            child = await ChildProcess.start(command)
            try:
                async with asyncio.timeout(INITDB_DEADLINE_MS / 1000):
                    status = await child.wait()
            finally:
                await child.kill()
        if status != 0:
            raise ProgramFailed(program="initdb", status=status, output=child.log_tail())
        building.rename(self.data)
        sync_folder(self.data.parent)

    def _command(self, *argv: str, cwd: Path | None = None) -> Command:
        uid = self._run_uid()
        return Command(
            argv=argv,
            env=ENVIRONMENT,
            cwd=cwd or self.data,
            log=self.log,
            uid=uid,
            gid=None if uid is None else group_of(uid),
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGQUIT,
        )

    def _programs(self) -> PostgresInstall:
        assert self._install is not None, "prepare() comes first"
        return self._install

    def _run_uid(self) -> int | None:
        return self.uid if os.geteuid() == 0 else None

    def _data_name(self, folder: Path | None = None) -> str:
        """The plain path where it works (kind to people with pg_ctl), else the working folder."""
        path = folder or self.data
        return str(path) if self._run_uid() is None or is_reachable(path.parent) else CWD

    def _give_to_user(self, folder: Path) -> None:
        uid = self._run_uid()
        if uid is None or folder.stat().st_uid == uid:
            return
        gid = group_of(uid)
        for inside, folders, names in os.walk(folder):
            for name in (*folders, *names):
                os.lchown(Path(inside) / name, uid, gid)
        # Last, so that an interrupted change starts over.
        os.chown(folder, uid, gid)


def group_of(uid: int) -> int:
    """The user's own group; a user that the machine does not know gets the same number."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid
