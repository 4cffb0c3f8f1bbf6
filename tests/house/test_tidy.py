"""The house rules hold in the whole package, and each rule catches a planted breach."""

from pathlib import Path, PurePosixPath

import pytest
from tools.tidy import RULES, TEST_RULES, check, check_tests, check_tree, main, outline, parse

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "src" / "penstock"

LONG = '"""Long."""\n' + "x = 1\n" * 400
LONG_FUNCTION = '"""Long."""\ndef f():\n' + "    x = 1\n" * 60
SEVEN = "def f(a, b, *, c, d, e, f, g): ...\n"
BEGUN = "try:\n    f()\n"

BREACHES = [
    ("file-length", "kit/a.py", LONG),
    ("file-name", "kit/utils.py", ""),
    ("file-name", "spec/base.py", ""),
    ("module-docstring", "kit/a.py", "x = 1\n" * 21),
    ("function-length", "kit/a.py", LONG_FUNCTION),
    ("function-length", "kit/a.py", LONG_FUNCTION.replace("def", "async def")),
    ("parameters", "kit/a.py", SEVEN),
    ("keyword-only", "kit/a.py", "def f(a, b, c, d): ...\n"),
    ("keyword-only", "kit/a.py", "class A:\n    def f(self, a, b, c, d): ...\n"),
    ("mutable-default", "kit/a.py", "def f(a=[]): ...\n"),
    ("mutable-default", "kit/a.py", "def f(*, a=dict()): ...\n"),
    ("mutable-default", "kit/a.py", "from collections import deque\ndef f(a=deque()): ...\n"),
    ("swallowed", "kit/a.py", BEGUN + "except Exception:\n    log()\n"),
    ("swallowed", "kit/a.py", BEGUN + "except (KeyError, BaseException):\n    log()\n"),
    ("swallowed", "kit/a.py", BEGUN + "except:\n    log()\n"),
    ("swallowed", "kit/a.py", BEGUN + "except Exception as e:\n    raise KeyError from e\n"),
    ("swallowed", "kit/a.py", BEGUN + "except KeyError:\n    pass\n"),
    ("swallowed", "kit/a.py", BEGUN + "except KeyError:\n    ...\n"),
    ("swallowed", "kit/a.py", "from contextlib import suppress\nsuppress(Exception)\n"),
    ("ambient", "kit/a.py", "import time\ntime.time()\n"),
    ("ambient", "kit/a.py", "from time import monotonic as now\nnow()\n"),
    ("ambient", "kit/a.py", "import time\nclock = time.monotonic\n"),
    ("ambient", "kit/a.py", "from datetime import datetime\ndatetime.now(tz)\n"),
    ("ambient", "kit/a.py", "import random\nrandom.choice([1])\n"),
    ("ambient", "kit/a.py", "import secrets\nsecrets.token_hex()\n"),
    ("ambient", "kit/a.py", "import uuid\nuuid.uuid4()\n"),
    ("ambient", "kit/a.py", "import os\nos.environ['A']\n"),
    ("ambient", "adapters/a.py", "from os import getenv\ngetenv('A')\n"),
    ("bare-task", "kit/a.py", "import asyncio\nasyncio.create_task(f())\n"),
    ("bare-task", "kit/a.py", "import asyncio\nasyncio.ensure_future(f())\n"),
    ("bare-task", "kit/a.py", "import asyncio\nasyncio.get_running_loop().create_task(f())\n"),
    ("bare-task", "kit/a.py", "self.loop.create_task(f())\n"),
    ("unbounded-queue", "kit/a.py", "import asyncio\nasyncio.Queue()\n"),
    ("banned-import", "kit/a.py", "import pickle\n"),
    ("banned-import", "kit/a.py", "from marshal import loads\n"),
    ("class-name", "kit/a.py", "class OrderManager: ...\n"),
    ("class-name", "kit/a.py", "class Helper: ...\n"),
    ("banned-word", "kit/a.py", "x = 1  # " + "TO" + "DO: later\n"),
    ("banned-word", "kit/a.py", '"""' + "FIX" + 'ME."""\n'),
    ("silenced", "kit/a.py", "x = 1  # noqa\n"),
    ("silenced", "kit/a.py", "x = 1  # noqa: E501\n"),
    ("silenced", "kit/a.py", "x = 1  # type: ignore[arg-type]\n"),
    ("pure-law", "spec/a.py", "x = 0.5\n"),
    ("pure-law", "spec/a.py", "x = a / b\n"),
    ("pure-law", "spec/a.py", "x /= 2\n"),
    ("pure-law", "spec/a.py", "x = float(y)\n"),
    ("pure-law", "spec/a.py", "open('a')\n"),
    ("pure-law", "spec/a.py", "async def f(): ...\n"),
    ("pure-law", "spec/a.py", "def f():\n    global x\n"),
]

ALLOWED = [
    ("spec/a.py", "x = a // b\n"),
    ("kit/a.py", "x = a / 0.5\n"),
    ("kit/tasks.py", BEGUN + "except Exception as error:\n    log(error)\n"),
    ("kit/a.py", BEGUN + "except BaseException:\n    close()\n    raise\n"),
    ("kit/a.py", BEGUN + "except KeyError:\n    pass  # somebody else was first\n"),
    ("kit/tasks.py", "import asyncio\nasyncio.create_task(f())\n"),
    ("kit/a.py", "async with asyncio.TaskGroup() as group:\n    group.create_task(f())\n"),
    ("kit/a.py", "import asyncio\nasyncio.Queue(maxsize=5)\n"),
    ("kit/a.py", "import random\ndef f(chance: random.Random): return chance.random()\n"),
    ("adapters/a.py", "import time\ntime.monotonic()\n"),
    ("kit/environment.py", "import os\nos.environ\n"),
    ("kit/a.py", "def time(): ...\ntime()\n"),
    ("kit/a.py", "def f(a, b, c, *, d): ...\n"),
    ("kit/a.py", "class A:\n    def f(self, a, b, c, *, d, e, f): ...\n"),
    ("kit/a.py", "x = 1  # noqa: E501 -- the address of a paper\n"),
    ("kit/a.py", "def f(a, b, c, d): ...  # tidy: keyword-only -- the interface is not ours\n"),
]


def rules_broken(path: str, source: str) -> set[str]:
    return {breach.rule for breach in check(parse(PurePosixPath(path), source))}


@pytest.mark.parametrize(("rule", "path", "source"), BREACHES)
def test_a_planted_breach_is_found(rule: str, path: str, source: str) -> None:
    assert rules_broken(path, source) == {rule}


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_what_the_rules_allow_is_not_found(path: str, source: str) -> None:
    assert rules_broken(path, source) == set()


def test_every_rule_has_a_planted_breach() -> None:
    assert {rule for rule, _, _ in BREACHES} == set(RULES)


@pytest.mark.parametrize(
    "excuse", ["# tidy: parameters -- the interface is not ours", "# tidy: keyword-only -- no"]
)
def test_an_excuse_for_another_rule_or_without_a_reason_does_not_count(excuse: str) -> None:
    assert rules_broken("kit/a.py", f"def f(a, b, c, d): ...  {excuse}\n") == {"keyword-only"}


def test_the_command_prints_each_breach_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text("import pickle\n")
    assert main([str(tmp_path)]) == 1
    assert "a.py:1: banned-import" in capsys.readouterr().out
    (tmp_path / "a.py").write_text("")
    assert main([str(tmp_path)]) == 0


def test_the_whole_package_is_tidy() -> None:
    assert [str(breach) for breach in check_tree(PACKAGE)] == []


def test_no_file_of_tests_is_too_long_or_named_for_nothing() -> None:
    assert [str(breach) for breach in check_tests(TESTS)] == []


def test_a_test_is_held_to_the_length_of_files_and_not_to_all_rules() -> None:
    long = outline(PurePosixPath("kit/test_a.py"), LONG + "import pickle\n")
    assert {breach.rule for breach in check(long, TEST_RULES)} == {"file-length"}
