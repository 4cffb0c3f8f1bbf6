"""The Network port on one Unix socket: how a person's commands reach an agent of this machine.

Whoever connects is checked by the kernel's word: the same user, or root. The path may be longer than
the 107 bytes that a socket's address holds: it is reached through its folder.
"""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.kit.errors import PortTaken
from penstock.kit.ports import Listener
from penstock.kit.tasks import Errands

BACKLOG_MAX = 128
"""Generous: to a socket whose backlog is full nobody waits to be connected, he is told off."""
ACCEPTS_MAX = 16
"""Connections that are taken in at one turn of the loop."""
ROOT_UID = 0
ADDRESS_BYTES_MAX = 107
ACCEPT_CLOSE_MS = 1_000

MayConnect = Callable[[int], bool]
"""uid of the process at the other end -> may it?"""


class LocalSockets:
    """Implements `ports.Network` for one path; host and port are only names here."""

    def __init__(self, path: Path, *, may_connect: MayConnect | None = None) -> None:
        self._path = path
        self._may_connect = may_connect if may_connect is not None else is_own_user

    async def connect(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        tls: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial. Raises OSError: nobody listens there, or we may not."""
        del host, port
        assert not tls, "this socket does not leave the machine"
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            with short_address(self._path) as address:
                await loop.sock_connect(sock, address)
            return await loop.create_connection(factory, sock=sock)
        except BaseException:
            sock.close()
            raise

    async def listen(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept connections until closed; a socket that a killed process left is replaced.

        Raises PortTaken when a process listens there, and other OSErrors.
        """
        del port
        assert tls is None, "this socket does not leave the machine"
        assert not reuse_port, "one process listens at a path"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            with short_address(self._path) as address:
                self._clear(address, host)
                sock.bind(address)
                self._path.chmod(0o600)
            sock.listen(BACKLOG_MAX)
        except BaseException:
            sock.close()
            raise
        return LocalListener(sock, self._path, factory=factory, may_connect=self._may_connect)

    def _clear(self, address: str, name: str) -> None:
        """Remove what a killed process left. Raises PortTaken when a process listens there."""
        if self._path.exists() and answers(address):
            raise PortTaken(name, 0)
        self._path.unlink(missing_ok=True)


class LocalListener:
    """An open listening socket at a path."""

    def __init__(
        self,
        sock: socket.socket,
        path: Path,
        *,
        factory: Callable[[], asyncio.Protocol],
        may_connect: MayConnect,
    ) -> None:
        self._sock = sock
        self._path = path
        self._factory = factory
        self._may_connect = may_connect
        self._errands = Errands()
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept)

    @property
    def port(self) -> int:
        """There is none."""
        return 0

    async def close(self) -> None:
        """Stop accepting; open connections go on. The path goes too."""
        if self._sock.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._path.unlink(missing_ok=True)
        self._sock.close()
        await self._errands.close(deadline_ms=ACCEPT_CLOSE_MS)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                taken, _ = self._sock.accept()
            except OSError:
                return  # Nobody waits any more, or we are out of files: the next turn tries again.
            if not self._may_connect(peer_uid(taken)):
                taken.close()
                continue
            taken.setblocking(False)
            self._errands.start("accept", self._adopt(taken))

    async def _adopt(self, taken: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._factory, taken)


def peer_uid(sock: socket.socket) -> int:
    """The user of the process at the other end, as the kernel knows it; -1 where it does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return -1
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])


def is_own_user(uid: int) -> bool:
    """This process's user, or root. Where the kernel does not say, the path's mode must do."""
    return uid in {-1, ROOT_UID, os.geteuid()}


def answers(address: str) -> bool:
    """Does a process listen there?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """What to bind or connect to for this path, good while the context is open. Raises OSError."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
