"""The client without await: streams left early, loops that already run, and its end."""

import threading

import pytest
from tests.client.replayed import TEXT, Played, played, signed_stream

import penstock
from penstock.client.errors import ApiError, ClientClosed, InsideLoop, Unreachable
from penstock.client.testing import FakeMarket
from penstock.kit.errors import ConnectFailed


def client(transport: Played | FakeMarket) -> penstock.Client:
    return penstock.Client("http://gateway", "sk-test", transport=transport)


async def test_inside_a_loop_it_says_what_to_use_instead() -> None:
    calls = client(FakeMarket({"m": TEXT}))
    for use in (
        calls.models,
        calls.balance,
        calls.close,
        lambda: calls.chat("m", "Hi"),
        lambda: list(calls.stream_chat("m", "Hi")),
    ):
        with pytest.raises(InsideLoop, match="AsyncClient"):
            use()
    closing = threading.Thread(target=calls.close)
    closing.start()
    closing.join()
    with pytest.raises(ClientClosed):
        calls.models()


def test_it_works_in_a_thread_beside_others() -> None:
    texts: list[str] = []

    def ask(text: str) -> None:
        with client(FakeMarket({"m": text})) as calls:
            texts.append(calls.chat("m", "Hi").text)

    threads = [threading.Thread(target=ask, args=(f"answer {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == [f"answer {n}" for n in range(4)]


async def test_a_stream_that_is_left_early_is_cancelled_at_the_gateway() -> None:
    data = await signed_stream()
    transport = played(data[:200], data[200:])

    def leave() -> None:
        calls = client(transport)
        pieces = calls.stream_chat("m", "Hi")
        assert next(pieces)
        assert transport.left == 0
        pieces.close()  # type: ignore[attr-defined]  # an iterator to callers, a generator here
        assert transport.left == 1
        calls.close()

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert (transport.left, transport.closed) == (1, 1)


def test_leaving_the_context_closes_the_transport_once() -> None:
    transport = played()
    with client(transport) as calls:
        pass
    calls.close()
    assert transport.closed == 1


def test_a_stream_of_a_closed_client_is_refused() -> None:
    calls = client(played())
    calls.close()
    with pytest.raises(ClientClosed, match="make another one"):
        next(calls.stream_chat("m", "Hi"))
    assert "http://gateway" in str(ClientClosed("http://gateway"))


def test_errors_are_those_of_the_async_client() -> None:
    with client(played(b"{}", status=401)) as calls:
        for use in (calls.models, calls.balance, lambda: list(calls.stream_chat("m", "Hi"))):
            with pytest.raises(ApiError):
                use()
    lost = played()
    lost.refuses = ConnectFailed("gateway", 80)
    with client(lost) as calls, pytest.raises(Unreachable, match="cannot connect"):
        calls.receipt("o-1")


def test_balance_receipt_and_prove_come_from_the_gateway() -> None:
    with client(played(b'{"account":"you","available_nano":5,"held_nano":1}')) as calls:
        assert calls.balance()["available_nano"] == 5
    with client(FakeMarket({"m": TEXT})) as calls:
        order_id = calls.chat("m", "Hi").order_id
        assert calls.receipt(order_id)["record"]["order"]["body"]["order_id"] == order_id
        assert calls.prove(order_id).judgement.order.order_id == order_id
