"""A station's process: how it starts, stops, waits for others, and what it tells at its end."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from penstock.kit.ports import BusDown, StoreDown
from penstock.kit.process import (
    config_parser,
    refused_config,
    run_process,
    stop_asked,
    when_up,
)


class Left(Exception):
    """What a person acts on."""


def ended(*, group: BaseException | None = None) -> tuple[int, list[str]]:
    """(exit status, what was told) of a process whose work raises this."""
    told: list[str] = []

    async def work() -> None:
        if group is not None:
            raise group

    return run_process(work(), stoppers=(Left, OSError), tell=told.append), told


def test_work_that_ends_is_a_0() -> None:
    assert ended() == (0, [])


def test_a_reason_alone_or_in_groups_is_told_and_is_a_1() -> None:
    assert ended(group=Left("no key")) == (1, ["no key"])
    deep = ExceptionGroup("a", [Left("one"), ExceptionGroup("b", [OSError("two")])])
    assert ended(group=deep) == (1, ["one", "two"])


def test_anything_else_is_a_bug_and_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        ended(group=ZeroDivisionError())
    with pytest.raises(ExceptionGroup) as caught:
        ended(group=ExceptionGroup("a", [Left("one"), ZeroDivisionError()]))
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_asked_to_stop_by_a_signal(number: signal.Signals) -> None:
    async def work() -> None:
        stop = stop_asked()
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            await stop.wait()

    assert run_process(work(), stoppers=(), tell=print) == 0


async def test_it_waits_for_servers_that_are_not_up_yet() -> None:
    answers: list[Exception | None] = [StoreDown("no"), BusDown("no"), None]

    async def prepare() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    await when_up("store", prepare, retry_ms=0)
    assert answers == []


async def test_what_is_no_absence_is_not_waited_for() -> None:
    async def prepare() -> None:
        raise Left("wrong key")

    with pytest.raises(Left):
        await when_up("store", prepare)


def test_the_configuration_is_named_and_needed(capsys: pytest.CaptureFixture[str]) -> None:
    parser = config_parser("penstock-x", "What it does.")
    assert parser.parse_args(["--config", "a/b.json"]).config == Path("a/b.json")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([])
    assert caught.value.code == refused_config(Path("a.json"), ValueError("no port")) == 2
    told = capsys.readouterr().err
    assert "--config" in told
    assert "The configuration a.json cannot be used: no port. Correct it." in told
