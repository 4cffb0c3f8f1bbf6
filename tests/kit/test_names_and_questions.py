"""Names on the bus, questions from a queue, and what engines may be: each with its bounds."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit import bus_names
from penstock.kit.engine import EngineFailed, EngineLimits
from penstock.kit.questions import ANSWERS_MAX, QUESTIONS_MAX, Question, answering, question_queue
from penstock.sim.loop import VirtualLoop, run


def play(main: Coroutine[Any, Any, None]) -> None:
    run(main, VirtualLoop())


LEVELS = st.text("abcXYZ019_:=/+@~-", min_size=1, max_size=8)


@given(st.lists(LEVELS, min_size=1, max_size=5))
def test_every_subject_of_allowed_levels_is_taken_as_it_is(levels: list[str]) -> None:
    subject = ".".join(levels)
    assert bus_names.check_subject(subject) == subject
    assert bus_names.check_pattern(f"{subject}.>") == f"{subject}.>"
    assert bus_names.check_prefix(f"{subject}.") == subject
    assert bus_names.is_match(subject, subject)
    assert bus_names.is_match(f"{subject}.>", f"{subject}.x.y")
    assert not bus_names.is_match(f"{subject}.>", subject)
    assert not bus_names.is_match(f"{subject}.>", f"{subject}x.y")
    assert bus_names.is_below(subject, f"{subject}.x")
    assert not bus_names.is_below(subject, f"{subject}x")


@pytest.mark.parametrize(
    "subject", ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a\n", "\u00e9", "a" * 513]
)
def test_what_is_no_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        bus_names.check_subject(subject)


@pytest.mark.parametrize("group", ["", "a.b", "a b", "a" * 65, "a>", "\u00e9"])
def test_what_is_no_group_is_refused(group: str) -> None:
    with pytest.raises(ValueError, match="group"):
        bus_names.check_group(group)


def test_groups_and_messages_within_their_bounds_are_taken() -> None:
    assert bus_names.check_group("a" * 64) == "a" * 64
    assert bus_names.check_prefix("") == ""
    assert bus_names.is_below("", "anything")
    largest = bytes(bus_names.MESSAGE_BYTES_MAX)
    assert bus_names.check_message(largest) is largest
    with pytest.raises(ValueError, match="too many"):
        bus_names.check_message(largest + b"x")


def test_questions_are_answered_several_at_a_time_but_not_without_bound() -> None:
    async def main() -> None:
        queue = question_queue()
        at_work, most, answers = 0, 0, []
        all_in = asyncio.Event()

        async def handler(data: bytes) -> bytes:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(1)
            at_work -= 1
            return data.upper()

        async def reply(data: bytes) -> None:
            answers.append(data)
            if len(answers) == QUESTIONS_MAX:
                all_in.set()

        for _ in range(QUESTIONS_MAX):
            queue.put_nowait(Question(b"hi", reply))
        with pytest.raises(asyncio.QueueFull):
            queue.put_nowait(Question(b"one too many", reply))
        async with answering(queue, handler):
            await all_in.wait()
        assert most == ANSWERS_MAX
        assert set(answers) == {b"HI"}

    play(main())


def test_a_handler_that_raises_closes_the_context_with_its_own_error() -> None:
    async def main() -> None:
        queue = question_queue()
        replied: list[bytes] = []

        async def handler(data: bytes) -> bytes:
            raise KeyError("a bug")

        async def reply(data: bytes) -> None:
            replied.append(data)

        queue.put_nowait(Question(b"hi", reply))
        with pytest.raises(KeyError, match="a bug"):
            async with answering(queue, handler):
                await asyncio.Event().wait()
        assert replied == []

    play(main())


def test_the_callers_own_error_comes_out_as_it_was_raised() -> None:
    async def main() -> None:
        async def handler(data: bytes) -> bytes:
            return data

        with pytest.raises(LookupError, match="mine"):
            async with answering(question_queue(), handler):
                raise LookupError("mine")

    play(main())


@pytest.mark.parametrize(
    "limits", [{"slots_max": 0}, {"context_tokens_max": 0}, {"threads": -1}, {"slots_max": -5}]
)
def test_an_engine_without_room_is_no_engine(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EngineLimits(**limits)


def test_a_failed_engine_tells_what_happened_what_to_do_and_its_last_words() -> None:
    told = str(EngineFailed(reason="It ended.", log_tail="out of memory", remedy="Buy more."))
    assert told == "It ended. Buy more.\nIts last words:\nout of memory"
    assert str(EngineFailed(reason="It ended.", log_tail="", remedy="Look.")) == "It ended. Look."
