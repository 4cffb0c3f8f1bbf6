"""The suites: what each needs, how it is run, and how its report is read."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.grounds import (
    FOLDER,
    GROUNDS,
    Sdist,
    Unavailable,
    environment,
    locked_version,
    npm_folder,
    npm_version,
    source_tree,
    virtual_environment,
)
from conformance.market import Target
from conformance.results import Case, Outcome, canary_cases, junit_cases, provider_cases
from conformance.scope import read_scope, stale

ROOT = FOLDER.parent
SCOPES = FOLDER / "scopes"
REPORTS = GROUNDS / "reports"
RUN_DEADLINE_S = 900
CHAT, REAL_CHAT = "echo/chat", "tiny-chat"
EMBEDDINGS, REAL_EMBEDDINGS = "echo/embeddings", "minilm"
SAID_CHARS_MAX = 2_000

Run = Callable[[Target], list[Case]]


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite. `run` raises Unavailable where it cannot be had; `hurry`, if there is a shorter way, runs
    the same tests without counting what is out of scope.
    """

    name: str
    version: Callable[[], str]
    run: Run
    hurry: Run | None = None


@dataclass(frozen=True, slots=True)
class Foreign:
    """A source distribution's own tests. `base` is what its client takes for a base URL."""

    name: str
    sdist: Sdist
    base: str
    arguments: tuple[str, ...] = ()

    @property
    def scope(self) -> Path:
        return SCOPES / f"{self.name}.toml"

    def run(self, target: Target) -> list[Case]:
        """Everything; a pattern of the scope list that no test has is a failure too."""
        cases = self._cases(target)
        unused = stale([case.name for case in cases], read_scope(self.scope.read_text()))
        return cases + [
            Case(f"scope/{self.scope.name}", Outcome.FAILED, f"no test is named {pattern}")
            for pattern in unused
        ]

    def hurry(self, target: Target) -> list[Case]:
        """Only files that hold anything in scope."""
        return self._cases(target, CONFORMANCE_QUICK="1")

    def _cases(self, target: Target, **more: str) -> list[Case]:
        python = virtual_environment(self.name)
        tree = source_tree(python, self.sdist)
        report = _fresh(f"{self.name}-suite.xml")
        # In one process: reading 400 files takes longer than the tests, and each worker reads them.
        argv = [
            *(str(python), "-m", "pytest", "-o", "addopts=", "-o", "junit_family=xunit1", "-q"),
            *("--tb=short", "-p", "conformance.plugin", f"--junitxml={report}"),
            *(*self.arguments, "tests/api_resources"),
        ]
        told = environment(
            PYTHONPATH=str(ROOT),
            TEST_API_BASE_URL=target.url + self.base,
            CONFORMANCE_KEY=target.key,
            CONFORMANCE_SCOPE=str(self.scope),
            **more,
        )
        return _junit(report, _said(argv, folder=tree, told=told))


def python_client(name: str, file: str) -> Run:
    """Our own tests of a stock client, in the environment of that client."""

    def run(target: Target) -> list[Case]:
        python = virtual_environment(name)
        report = _fresh(f"{name}-client.xml")
        argv = [
            *(str(python), "-m", "pytest", "-c", str(FOLDER / "clients" / "pytest.ini"), "-q"),
            *(f"--junitxml={report}", "-o", "junit_family=xunit1", "--tb=short"),
            *("-p", "no:cacheprovider", file),
        ]
        return _junit(
            report, _said(argv, folder=FOLDER / "clients", told=_client_environment(target))
        )

    return run


def node_client(file: str) -> Run:
    """Our own tests of an npm client, by node's own test runner."""

    def run(target: Target) -> list[Case]:
        home = npm_folder()
        report = _fresh(f"{file}.xml")
        argv = [
            *("node", "--test", "--test-reporter=junit", f"--test-reporter-destination={report}"),
            file,
        ]
        return _junit(report, _said(argv, folder=home, told=_client_environment(target)))

    return run


def canary(target: Target) -> list[Case]:
    """Compatcanary's modern profile: chat, streams, tools, schemas, responses."""
    home = npm_folder()
    report = _fresh("compatcanary.json")
    argv = [
        *("node", "node_modules/compatcanary/src/cli.js", "scan", "--base-url", f"{target.url}/v1"),
        *("--model", CHAT, "--profile", "modern", "--format", "json", "--fail-on", "never"),
        *("--output", str(report)),
    ]
    said = _said(argv, folder=home, told=environment(OPENAI_API_KEY=target.key))
    return canary_cases(_json(report, said))


def provider_check(target: Target) -> list[Case]:
    """trustedrouter-provider-check, tiers 1 to 5 (6 measures speed)."""
    python = virtual_environment("trustedrouter")
    report = _fresh("trustedrouter.json")
    argv = [
        *(str(python.with_name("trustedrouter-provider-check")), "--base-url", f"{target.url}/v1"),
        *("--model", CHAT, "--tier", "5", "--json", str(report)),
    ]
    said = _said(argv, folder=FOLDER, told=environment(TR_PROVIDER_API_KEY=target.key))
    expected = {
        pattern: entry.reason
        for entry in read_scope((SCOPES / "trustedrouter.toml").read_text())
        for pattern in entry.where
    }
    return provider_cases(_json(report, said), expected)


def schemathesis(target: Target) -> list[Case]:
    """Requests made of our own OpenAPI document, good and bad, and the answers held against it."""
    python = virtual_environment("schemathesis")
    report = _fresh("schemathesis.xml")
    argv = [
        *(str(python.with_name("st")), "--config-file", str(FOLDER / "schemathesis.toml"), "run"),
        *(f"{target.url}/openapi.json", "--url", target.url),
        *("-H", f"Authorization: Bearer {target.key}"),
        *("--report", "junit", "--report-junit-path", str(report)),
    ]
    return _junit(report, _said(argv, folder=GROUNDS, told=environment()))


OPENAI_2 = Foreign(
    "openai-2",
    Sdist("openai==2.54.0", "e3e6f8bc1ba30ddf381ace1a14340eed381cb984a1a59bd0f34b5be3b5d49cfa"),
    "/v1",
)
OPENAI_3 = Foreign(
    "openai-3",
    Sdist("openai==3.54.0", "2e393e63f8a38be6452806f9ef0b6534fecd6d41ab3b2165180dfce3599249cd"),
    "/v1",
)
ANTHROPIC = Foreign(
    "anthropic",
    Sdist("anthropic==2.12.0", "571e6d250bcd6bbaf5fd5f3c764b8e11af9901ad2e44b025f8e773c6cc7a7173"),
    "",
    ("-p", "tests._alias_httpx"),
)


def _locked(name: str, package: str) -> Callable[[], str]:
    return lambda: locked_version(name, package)


def _packed(package: str) -> Callable[[], str]:
    return lambda: npm_version(npm_folder(), package)


SUITES = (
    Suite("openai-3 suite", _locked("openai-3", "openai"), OPENAI_3.run, OPENAI_3.hurry),
    Suite("openai-2 suite", _locked("openai-2", "openai"), OPENAI_2.run, OPENAI_2.hurry),
    Suite("anthropic suite", _locked("anthropic", "anthropic"), ANTHROPIC.run, ANTHROPIC.hurry),
    Suite("openai-3", _locked("openai-3", "openai"), python_client("openai-3", "test_openai.py")),
    Suite("openai-2", _locked("openai-2", "openai"), python_client("openai-2", "test_openai.py")),
    Suite(
        "anthropic",
        _locked("anthropic", "anthropic"),
        python_client("anthropic", "test_anthropic.py"),
    ),
    Suite("litellm", _locked("litellm", "litellm"), python_client("litellm", "test_litellm.py")),
    Suite(
        "langchain-openai",
        _locked("langchain", "langchain-openai"),
        python_client("langchain", "test_langchain.py"),
    ),
    Suite("ai (npm)", _packed("ai"), node_client("ai.test.mjs")),
    Suite("@openrouter/sdk", _packed("@openrouter/sdk"), node_client("openrouter.test.mjs")),
    Suite("compatcanary", _packed("compatcanary"), canary),
    Suite(
        "trustedrouter",
        _locked("trustedrouter", "trustedrouter-provider-check"),
        provider_check,
    ),
    Suite("schemathesis", _locked("schemathesis", "schemathesis"), schemathesis),
)


def _client_environment(target: Target) -> dict[str, str]:
    return environment(
        CONFORMANCE_URL=target.url,
        CONFORMANCE_KEY=target.key,
        CONFORMANCE_CHAT=CHAT,
        CONFORMANCE_REAL_CHAT=REAL_CHAT,
        CONFORMANCE_EMBEDDINGS=EMBEDDINGS,
        CONFORMANCE_REAL_EMBEDDINGS=REAL_EMBEDDINGS,
        PYTHONDONTWRITEBYTECODE="1",
        # LiteLLM and LangChain would else ask the network for price lists and send traces.
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LANGSMITH_TRACING="false",
    )


def _fresh(name: str) -> Path:
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / name
    report.unlink(missing_ok=True)
    return report


def _said(argv: list[str], *, folder: Path, told: dict[str, str]) -> str:
    """Run a suite to its end, whatever its exit code: its report is what counts."""
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=told,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_DEADLINE_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"{argv[0]} is not installed here.") from error
    except subprocess.TimeoutExpired as error:
        return f"not done in {RUN_DEADLINE_S} s: {error.output or b''!r}"[-SAID_CHARS_MAX:]
    return done.stdout[-SAID_CHARS_MAX:]


def _junit(report: Path, said: str) -> list[Case]:
    try:
        return junit_cases(report.read_bytes()) or [_silent(said)]
    except (FileNotFoundError, ET.ParseError):
        return [_silent(said)]


def _json(report: Path, said: str) -> dict[str, Any]:
    try:
        return dict(json.loads(report.read_text()))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise SuiteBroke(said) from error


class SuiteBroke(Exception):
    """A suite ended without a report; the text is what it said."""


def _silent(said: str) -> Case:
    sys.stderr.write(said + "\n")
    return Case("report", Outcome.FAILED, f"The suite left no report. It said: {said}")
