"""Request parsing does not depend on how the network cut the bytes."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.wire.http import Response
from penstock.kit.wire.intake import Arrived, Intake, Phase
from penstock.kit.wire.limits import IntakeLimits

LIMITS = IntakeLimits(head_bytes_max=4096, body_bytes_max=4096)

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nGET /v1/models?a=b&c=%20d HTTP/1.1\r\nHost: a\r\nX-Many: 1\r\nx-many:  2 \t\r\n\r\n",
    b'POST /v1/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n{"a": "\r\n"}',
    (
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    ),
    b"PUT /e HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"GET http://host:80/abs?q HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DELETE /d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET /bad HTTP/1.1\r\nHost : a\r\n\r\n",
    b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    b"POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n",
    b"POST /chunky HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


def taken(arrived: Arrived) -> tuple[object, ...]:
    head = arrived.head
    return (
        head.method,
        head.path,
        head.query,
        head.headers,
        arrived.body,
        head.keep_alive,
        head.minor,
    )


def parse(parts: list[bytes]) -> tuple[list[tuple[object, ...]], Response | None, Phase]:
    intake = Intake(LIMITS)
    items = [item for part in parts for item in intake.feed(part)]
    requests = [taken(item) for item in items if isinstance(item, Arrived)]
    return requests, intake.refusal, intake.phase


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6),
    st.lists(st.integers(0, 10_000), max_size=30),
)
def test_any_cut_of_any_requests_gives_the_same_parse(
    requests: list[bytes], places: list[int]
) -> None:
    data = b"".join(requests)
    assert parse(cut(data, places)) == parse([data])


@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4))
def test_byte_by_byte_gives_the_same_parse(requests: list[bytes]) -> None:
    data = b"".join(requests)
    assert parse([bytes([byte]) for byte in data]) == parse([data])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_arbitrary_bytes_are_parsed_or_refused_but_never_raise(
    data: bytes, places: list[int]
) -> None:
    requests, refusal, phase = parse(cut(data, places))
    assert (refusal is not None) == (phase is Phase.REFUSED)
    assert all(isinstance(request[0], str) for request in requests)


@given(st.sampled_from(REQUESTS), st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_damaged_request_never_raises(request: bytes, place: int, junk: bytes) -> None:
    at = place % len(request)
    requests, refusal, _ = parse([request[:at] + junk + request[at + len(junk) :]])
    assert refusal is None or refusal.status in {400, 405, 413, 417, 431, 505}
    assert len(requests) <= 2


def test_headers_are_lower_case_trimmed_and_joined() -> None:
    (request,), refusal, _ = parse([REQUESTS[1]])
    assert refusal is None
    assert request[:4] == (
        "GET",
        "/v1/models",
        "a=b&c=%20d",
        {b"host": b"a", b"x-many": b"1, 2"},
    )


def test_an_absolute_target_loses_its_host() -> None:
    (request,), _, _ = parse([REQUESTS[5]])
    assert request[1:3] == ("/abs", "q")


def test_nothing_is_taken_after_the_clients_last_request() -> None:
    requests, refusal, _ = parse([REQUESTS[8] + REQUESTS[0]])
    assert [request[1] for request in requests] == ["/last"]
    assert refusal is None


def test_nothing_is_taken_after_a_refusal() -> None:
    requests, refusal, phase = parse([REQUESTS[0], REQUESTS[10], REQUESTS[0]])
    assert [request[1] for request in requests] == ["/"]
    assert refusal is not None
    assert (refusal.status, phase) == (400, Phase.REFUSED)


def test_other_versions_and_proxying_are_refused() -> None:
    statuses = []
    for raw in [
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    ]:
        _, refusal, _ = parse([raw])
        assert refusal is not None
        statuses.append(refusal.status)
    assert statuses == [505, 505, 405]


def test_a_body_of_exactly_the_bound_is_taken() -> None:
    body = b"x" * LIMITS.body_bytes_max
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    (request,), refusal, _ = parse([head, body])
    assert request[4] == body
    assert refusal is None


def test_a_large_body_in_small_reads_is_not_mistaken_for_an_endless_head() -> None:
    body = b"x" * LIMITS.body_bytes_max
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [b"%x\r\n%b\r\n" % (64, body[at : at + 64]) for at in range(0, len(body), 64)]
    (request,), refusal, _ = parse([head, *parts, b"0\r\n\r\n"])
    assert request[4] == body
    assert refusal is None
