"""The kit at its edges: logs that strangers write into, tasks that crash oddly, cut streams."""

import asyncio
import io
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.clock import OffsetClock
from penstock.kit.log import MASK, configure, events, masked
from penstock.kit.metrics import Metrics
from penstock.kit.sse import EventSplitter, event_data, is_comment, parse_comment
from penstock.kit.tasks import Backoff, Errands, Scope, supervise
from penstock.sim.loop import VirtualClock, VirtualLoop, run

SECRET = "sk-penstock-do-not-show"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@pytest.fixture
def restore_logging() -> Iterator[None]:
    root = logging.getLogger("penstock")
    handlers, level, propagate = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    root.propagate = propagate


@pytest.fixture(params=[True, False], ids=["json", "plain"])
def out(request: pytest.FixtureRequest, restore_logging: None) -> io.StringIO:
    stream = io.StringIO()
    configure(as_json=request.param, stream=stream)
    return stream


def play(main: Coroutine[Any, Any, None]) -> None:
    run(main, VirtualLoop())


def nested(levels: int) -> Any:
    value: Any = {"api_key": SECRET}
    for level in range(levels):
        value = {"inner": value} if level % 2 else [value]
    return value


@pytest.mark.parametrize("levels", range(9))
def test_a_secret_is_masked_however_deep_it_lies(out: io.StringIO, levels: int) -> None:
    events("gateway").info("x", body=nested(levels))
    assert out.getvalue()
    assert SECRET not in out.getvalue()


def test_what_lies_too_deep_is_said_to_and_the_rest_is_shown() -> None:
    shown = masked("body", {"a": 1, "b": nested(6)})
    assert isinstance(shown, dict)
    assert shown["a"] == 1
    assert "nested too deeply" in str(shown)


@given(st.text(max_size=40), JSON)
def test_masking_gives_what_json_can_hold(name: str, value: Any) -> None:
    assert msgspec.json.encode(masked(name, value))


@given(
    st.sampled_from(["key", "api_key", "X-Token", "password", "set-cookie"]), st.text(min_size=4)
)
def test_no_text_under_a_secret_name_ever_shows(name: str, text: str) -> None:
    assert masked(name, text) == MASK
    assert masked("fields", {"deep": {name: [text]}}) in (
        {"deep": {name: [MASK]}},
        {"deep": {name: MASK}},
    )


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\x00\x1b[2J", "\u2028line", "x" * 5_000])
def test_the_text_of_a_stranger_is_one_line(out: io.StringIO, text: str) -> None:
    events("gateway").info("asked", model=text)
    line = out.getvalue()
    assert line.count("\n") == 1
    assert "asked" in line
    if line.startswith("{"):
        assert msgspec.json.decode(line)["model"]
        assert "\x1b" not in line
    else:
        assert line[:-1].isprintable()


def test_masking_does_not_change_what_was_given() -> None:
    fields = {"api_key": SECRET, "list": [{"token": SECRET}]}
    masked("body", fields)
    assert fields == {"api_key": SECRET, "list": [{"token": SECRET}]}


def test_configuring_again_replaces_and_does_not_double(restore_logging: None) -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(as_json=False, stream=first)
    configure(as_json=False, stream=second)
    events("gateway").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["a_total", "b_total"]), st.text(max_size=8), st.integers(0, 9)),
        max_size=30,
    )
)
def test_every_rendered_line_is_one_metric_whatever_the_labels(
    counts: list[tuple[str, str, int]],
) -> None:
    metrics = Metrics()
    for name, label, n in counts:
        metrics.count(name, n, who=label)
    text = metrics.render().decode()
    assert text.endswith("\n")
    values = 0
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            assert line.split()[1] == "TYPE"
        else:
            values += int(line.rpartition(" ")[2])
    assert values == sum(n for _, _, n in counts)


def test_equal_states_render_to_equal_bytes_in_any_order() -> None:
    first, second = Metrics(), Metrics()
    for metrics, order in ((first, (1, 2, 3)), (second, (3, 1, 2))):
        for number in order:
            metrics.count("a_total", number, k=str(number))
            metrics.observe("b_ms", number, k=str(number))
            metrics.gauge("c", number, k=str(number))
    assert first.render() == second.render()


def test_a_type_is_declared_once_for_all_series_of_a_name() -> None:
    metrics = Metrics()
    for number in range(3):
        metrics.observe("b_ms", 10**9, k=str(number))
    text = metrics.render().decode()
    assert text.count("# TYPE b_ms histogram") == 1
    assert text.count('le="+Inf"} 1') == 3


def test_a_full_house_still_counts_what_it_knows() -> None:
    metrics = Metrics(series_max=1)
    metrics.gauge("open", 1)
    metrics.gauge("open", 2)
    metrics.observe("b_ms", 1)
    assert metrics.value("open") == 2
    assert b"b_ms" not in metrics.render()
    assert b"metrics_series_dropped_total 1\n" in metrics.render()


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 200))
def test_a_wait_never_shrinks_while_crashes_go_on(low: int, more: int, crashes: int) -> None:
    backoff = Backoff(delay_ms_min=low, delay_ms_max=low + more)
    assert low <= backoff.delay_ms(crashes) <= backoff.delay_ms(crashes + 1) <= low + more


def test_a_cancelled_supervision_reports_no_crash() -> None:
    async def main() -> None:
        reported: list[str] = []
        entered = asyncio.Event()

        async def forever() -> None:
            entered.set()
            await asyncio.Event().wait()

        async with Scope() as scope:
            scope.supervise("x", forever, on_event=lambda name, _: reported.append(name))
            await entered.wait()
            scope.cancel()
        assert reported == []

    play(main())


def test_a_cancel_during_the_wait_ends_the_supervision() -> None:
    async def main() -> None:
        crashed = asyncio.Event()
        starts: list[int] = []

        async def crashing() -> None:
            starts.append(1)
            raise ValueError("again")

        def report(name: str, error: Exception) -> None:
            crashed.set()

        async with Scope() as scope:
            scope.supervise(
                "x", crashing, on_event=report, backoff=Backoff(60_000, 60_000, 600_000)
            )
            await crashed.wait()
            scope.cancel()
        assert starts == [1]

    play(main())


def test_a_loop_that_breaks_out_of_everything_is_not_restarted() -> None:
    """SystemExit and KeyboardInterrupt are the process's business."""

    class Out(BaseException):
        pass

    async def main() -> None:
        starts: list[int] = []

        async def leaving() -> None:
            starts.append(1)
            raise Out

        with pytest.raises(Out):
            await supervise("x", leaving, on_event=lambda name, error: starts.append(2))
        assert starts == [1]

    play(main())


def test_members_started_by_members_are_waited_for_too() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def child() -> None:
            await asyncio.sleep(5)
            ended.append("child")

        async with Scope() as scope:

            async def parent() -> None:
                scope.start("child", child())

            scope.start("parent", parent())
        assert ended == ["child"]

    play(main())


def test_an_error_in_the_body_of_a_scope_cancels_its_members() -> None:
    async def main() -> None:
        cancelled: list[str] = []

        async def waiting() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append("waiting")

        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - raised on leaving
            async with Scope() as scope:
                scope.start("waiting", waiting())
                await asyncio.sleep(0)
                raise ValueError("body")
        assert [str(error) for error in caught.value.exceptions] == ["body"]
        assert cancelled == ["waiting"]

    play(main())


def test_closing_errands_when_none_run_is_at_once() -> None:
    async def main() -> None:
        errands = Errands()
        await errands.close(deadline_ms=1_000_000)
        assert asyncio.get_running_loop().time() == 0
        assert len(errands) == 0

    play(main())


@given(st.lists(st.integers(-(10**12), 10**12), max_size=8))
def test_offsets_of_offsets_add_up(offsets: list[int]) -> None:
    loop = VirtualLoop()
    inner = VirtualClock(loop)
    clock: OffsetClock | VirtualClock = inner
    for offset in offsets:
        clock = OffsetClock(clock, offset)
    assert clock.now_ms() - inner.now_ms() == sum(offsets)
    assert clock.mono_us() == inner.mono_us()
    loop.close()


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_a_splitter_never_loses_or_makes_up_a_byte(parts: list[bytes]) -> None:
    splitter = EventSplitter()
    events_ = [event for part in parts for event in splitter.feed(part)]
    assert b"".join(events_) + splitter.finish() == b"".join(parts)
    assert splitter.finish() == b""


@given(st.binary(max_size=60))
def test_what_is_our_comment_holds_no_data(event: bytes) -> None:
    """A comment that also carried data could be shown by one reader and skipped by another."""
    if parse_comment(event) is not None:
        assert is_comment(event)
        assert event_data(event) == b""


@pytest.mark.parametrize(
    "event",
    [
        b": penstock-receipt {}\rdata: x\n\n",
        b": penstock-receipt {}\r\ndata: x\r\n\r\n",
        b": penstock-receipt {}\n: more\n\n",
    ],
)
def test_a_comment_with_anything_beside_it_is_not_ours(event: bytes) -> None:
    assert parse_comment(event) is None
