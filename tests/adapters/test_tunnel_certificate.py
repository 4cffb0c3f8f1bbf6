"""Certificates of tunnel ports, on real TLS: what both ends see, and what stays out of files."""

import socket
import ssl
import stat
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.kit.tunnels import until
from tests.kit.world import HOST, Raw

from penstock.adapters.tunnel_certificate import tunnel_certificate
from penstock.kit.wire.sockets import Sockets
from penstock.kit.wire.tunnel_road import (
    KEEP_IDLE_S,
    USER_TIMEOUT_MS,
    dialling_context,
    shown_channel,
    stay_alert,
)


def play(story: Coroutine[Any, Any, None]) -> None:
    """On the loop that stations run on; asyncio's leaves a handshake that failed for the collector."""
    uvloop.run(story)


def test_every_process_has_a_certificate_of_its_own() -> None:
    assert tunnel_certificate()[1] != tunnel_certificate()[1]


def test_the_key_is_in_no_file_afterwards_and_was_readable_by_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    load = ssl.SSLContext.load_cert_chain

    def watched(context: ssl.SSLContext, path: Path) -> None:
        modes.extend([stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)])
        load(context, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tunnel_certificate()
    assert modes == [0o600, 0o700]
    assert list(tmp_path.iterdir()) == []


def test_who_dials_sees_the_channel_that_the_port_has() -> None:
    async def main() -> None:
        context, channel = tunnel_certificate()
        network = Sockets(tls_context=dialling_context())
        served: list[Raw] = []

        def made() -> Raw:
            served.append(Raw())
            return served[-1]

        listener = await network.listen(HOST, 0, made, tls=context)
        seen = []
        for _ in range(2):
            transport, raw = await network.connect(HOST, listener.port, Raw, tls=True)
            seen.append(shown_channel(transport))
            assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
            await until(lambda: hasattr(served[-1], "transport"))  # its handshake ends later
            served[-1].transport.write(b"hello\n")
            assert isinstance(raw, Raw)
            await raw.until(b"\n")
            assert shown_channel(served[-1].transport) == "", "who dialled shows none"
            transport.abort()
            await served[-1].lost.wait()
            await raw.lost.wait()
        assert seen == [channel, channel]
        await listener.close()

    play(main())


def test_there_is_no_channel_without_tls() -> None:
    async def main() -> None:
        served: list[Raw] = []

        def made() -> Raw:
            served.append(Raw())
            return served[-1]

        listener = await Sockets().listen(HOST, 0, made)
        transport, raw = await Sockets().connect(HOST, listener.port, Raw)
        assert isinstance(raw, Raw)
        assert shown_channel(transport) == ""
        stay_alert(transport)
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEP_IDLE_S
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT_MS
        transport.abort()
        await raw.lost.wait()
        await until(lambda: served and served[0].lost.is_set())
        await listener.close()

    play(main())


def test_an_older_tls_is_refused() -> None:
    context, _ = tunnel_certificate()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert dialling_context().minimum_version is ssl.TLSVersion.TLSv1_3
