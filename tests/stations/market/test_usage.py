"""Usage: running totals become an epoch's counts, whatever is lost, repeated or restarted."""

import json

import pytest
from tests.market_makers import CHUTE

from penstock.market.usage import COUNT_MAX, Counted, UsageBook


def totals(requests: int, refused: int = 0, busy_us: int = 0, chute: str = CHUTE) -> bytes:
    said = {"chute": chute, "requests": requests, "refused": refused, "busy_us": busy_us}
    return json.dumps(said).encode()


def test_the_epoch_counts_what_was_added_since_the_last_one() -> None:
    book = UsageBook(10)
    assert book.take("demand.g.c", totals(5, 1, 700), is_old=False)
    assert book.close() == {CHUTE: Counted(5, 1, 700)}
    book.take("demand.g.c", totals(7, 1, 900), is_old=False)
    book.take("demand.g.c", totals(7, 1, 900), is_old=False)
    assert book.close() == {CHUTE: Counted(2, 0, 200)}
    assert book.close() == {}


def test_gateways_add_up() -> None:
    book = UsageBook(10)
    book.take("demand.g.c", totals(5), is_old=False)
    book.take("demand.h.c", totals(6), is_old=False)
    assert book.close() == {CHUTE: Counted(requests=11)}


def test_what_was_there_before_the_market_started_is_where_counting_begins() -> None:
    book = UsageBook(10)
    book.take("demand.g.c", totals(500), is_old=True)
    book.take("demand.g.c", totals(503), is_old=True)
    assert book.close() == {CHUTE: Counted(requests=3)}


def test_a_gateway_that_starts_anew_counts_from_zero() -> None:
    book = UsageBook(10)
    book.take("demand.g.c", totals(500, 2, 900), is_old=False)
    book.close()
    book.take("demand.g.c", totals(4, 1, 30), is_old=False)
    assert book.close() == {CHUTE: Counted(4, 1, 30)}


def test_a_removed_key_is_forgotten() -> None:
    book = UsageBook(1)
    book.take("demand.g.c", totals(5), is_old=False)
    assert not book.take("demand.h.c", totals(5), is_old=False)
    assert book.take("demand.g.c", b"", is_old=False)
    assert book.take("demand.h.c", totals(5), is_old=False)


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b"\xff",
        b'{"chute":"c"}',
        totals(-1),
        totals(COUNT_MAX + 1),
        b'{"chute":"c","requests":1.5,"refused":0,"busy_us":0}',
    ],
)
def test_nonsense_is_not_counted(value: bytes) -> None:
    book = UsageBook(10)
    assert not book.take("demand.g.c", value, is_old=False)
    assert book.close() == {}
