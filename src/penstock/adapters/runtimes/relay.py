"""The relay of a task that has a loopback of its own: from a socket of the host to the engine's port.

It is forked by the cell, after the network was unshared: the listening socket it holds was made by the
holder on the host's loopback, while everything it dials lies in the task's own network. Standard library
only. One thread, no copy of a byte more than the two sockets ask for.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys

HOST = "127.0.0.1"
CONNECTIONS_MAX = 512
PIECE_BYTES_MAX = 1 << 16
PORT_BYTES_MAX = 16


def detach(listening: int, control: int, port: int) -> None:
    """Start the relay as a process of nobody's (its parent ends), and return in the caller.

    port: where the engine will listen; 0: it is read from `control`, as decimal digits and a newline.
    The relay ends when the other end of `control` is closed.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(listening)
        os.close(control)
        return
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for engines in (0, 1):
        os.dup2(nothing, engines)
    status = 1
    try:
        Relay(socket.socket(fileno=listening), control, port).run()
        status = 0
    except OSError as error:
        sys.stderr.write(f"the relay ended: {error}\n")
    finally:
        os._exit(status)


class Half:
    """One direction of a connection: what was read here and not yet written there."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.waiting = b""
        self.is_over = False

    def move(self) -> bool:
        """Read and write what is possible now. False when the connection is broken."""
        try:
            if not self.waiting and not self.is_over:
                self.waiting = self.source.recv(PIECE_BYTES_MAX)
                if not self.waiting:
                    self.is_over = True
                    self.target.shutdown(socket.SHUT_WR)
            if self.waiting:
                self.waiting = self.waiting[self.target.send(self.waiting) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


class Relay:
    """Serves until `control` is closed."""

    def __init__(self, listener: socket.socket, control: int, port: int) -> None:
        self._listener = listener
        self._control = control
        self._port = port
        self._told = b""
        self._events = selectors.DefaultSelector()
        self._halves: dict[socket.socket, tuple[Half, Half]] = {}
        """By socket: what is read from it, and what is written to it."""

    def run(self) -> None:
        self._listener.setblocking(False)
        os.set_blocking(self._control, False)
        self._events.register(self._control, selectors.EVENT_READ)
        if self._port:
            self._listen()
        while True:
            for key, _ in self._events.select():
                if key.fileobj == self._control:
                    if not self._hear():
                        return
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._halves:
                    self._serve(key.fileobj)

    def close(self) -> None:
        """Let go of every socket; the process's end does the same."""
        self._close(*list(self._halves))
        self._events.close()
        self._listener.close()

    def _listen(self) -> None:
        self._events.register(self._listener, selectors.EVENT_READ)

    def _hear(self) -> bool:
        """The port, or the end."""
        data = os.read(self._control, PORT_BYTES_MAX)
        self._told += data
        if self._told.endswith(b"\n") and not self._port:
            self._port = int(self._told)
            self._listen()
        return bool(data)

    def _accept(self) -> None:
        try:
            outer, _ = self._listener.accept()
        except OSError:
            return  # The caller has gone meanwhile, or files are short: the next one may do.
        inner = socket.socket()
        try:
            if len(self._halves) >= 2 * CONNECTIONS_MAX:
                raise ConnectionRefusedError
            inner.connect((HOST, self._port))  # the loopback answers at once
        except OSError:
            inner.close()
            outer.close()
            return
        there, back = Half(outer, inner), Half(inner, outer)
        self._halves[outer] = (there, back)
        self._halves[inner] = (back, there)
        for end in (outer, inner):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._events.register(end, selectors.EVENT_READ)

    def _serve(self, end: socket.socket) -> None:
        reads, writes = self._halves[end]
        other = reads.target
        is_alive = (not writes.waiting or writes.move()) and reads.move()
        if not is_alive or (reads.is_over and writes.is_over and not writes.waiting):
            self._close(end, other)
            return
        for one in (end, other):
            self._watch(one)

    def _watch(self, end: socket.socket) -> None:
        """Read when there is room, write when there is something left."""
        reads, writes = self._halves[end]
        wanted = 0 if reads.waiting or reads.is_over else selectors.EVENT_READ
        wanted |= selectors.EVENT_WRITE if writes.waiting else 0
        registered = end in self._events.get_map()
        if wanted and registered:
            self._events.modify(end, wanted)
        elif wanted:
            self._events.register(end, wanted)
        elif registered:
            self._events.unregister(end)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            self._halves.pop(end, None)
            # One whose both directions wait was not being watched.
            with contextlib.suppress(KeyError):
                self._events.unregister(end)
            end.close()
