"""The relay between the host's loopback and a task's own, with both ends on this loopback."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from penstock.adapters.runtimes.relay import Relay

BIG = os.urandom(1 << 20) * 8
DEADLINE_S = 30


@contextmanager
def relay_to(port: int, *, told_later: bool = False) -> Iterator[tuple[int, int]]:
    """(the port to call, the control end) of a relay that runs in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    outer = listener.getsockname()[1]
    there, here = os.pipe()
    relay = Relay(listener, there, 0 if told_later else port)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield outer, here
    finally:
        os.close(here)
        thread.join()
        os.close(there)
        relay.close()


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back all it gets, in the end also the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(one: socket.socket) -> None:
            # A caller may reset; then there is nobody to answer.
            with one, contextlib.suppress(ConnectionError):
                while data := one.recv(1 << 16):
                    one.sendall(data)

        def accept() -> None:
            while True:
                try:
                    one, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(one,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def call(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)


def exchange(one: socket.socket, data: bytes) -> bytes:
    """Send all, say that this is the end, read all."""

    def write() -> None:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    got = bytearray()
    while piece := one.recv(1 << 16):
        got += piece
    writer.join()
    return bytes(got)


def test_bytes_and_ends_pass_both_ways(echo: int) -> None:
    with relay_to(echo) as (port, _), call(port) as one:
        assert exchange(one, BIG) == BIG


def test_many_at_once_are_not_mixed(echo: int) -> None:
    with relay_to(echo) as (port, _):
        callers = [call(port) for _ in range(50)]
        for number, one in enumerate(callers):
            one.sendall(b"%03d" % number)
        for number, one in enumerate(callers):
            assert one.recv(3) == b"%03d" % number
        for one in callers:
            one.close()


def test_a_slow_reader_holds_up_nobody_else(echo: int) -> None:
    with relay_to(echo) as (port, _), call(port) as slow:
        filler = threading.Thread(target=lambda: slow.sendall(BIG))
        filler.start()
        with call(port) as other:
            assert exchange(other, b"hello") == b"hello"
        got = 0
        while got < len(BIG):
            got += len(slow.recv(1 << 16))
        filler.join()


def test_the_port_may_be_told_later(echo: int) -> None:
    with relay_to(echo, told_later=True) as (port, control), call(port) as early:
        os.write(control, b"%d\n" % echo)
        assert exchange(early, b"hello") == b"hello"


def test_a_caller_whose_engine_is_gone_is_cut_off(echo: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = silent.getsockname()[1]
    with relay_to(nobody) as (port, _), call(port) as one:
        assert one.recv(1) == b""


def test_a_caller_that_resets_leaves_nothing(echo: int) -> None:
    with relay_to(echo) as (port, _):
        for _ in range(20):
            one = call(port)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.sendall(b"x" * 1000)
            one.close()
        with call(port) as other:
            assert exchange(other, b"hello") == b"hello"
