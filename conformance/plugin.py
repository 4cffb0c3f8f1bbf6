"""A pytest plugin for foreign suites: `-p conformance.plugin`, inside their own environments.

It skips what the scope list leaves out, with its reason, and gives the suite an API key of this
market: the suites bring a made-up one.
"""

import os
from pathlib import Path

import pytest
from conformance.scope import read_scope, reason_of

SCOPE_FILE = "CONFORMANCE_SCOPE"
QUICK = "CONFORMANCE_QUICK"
"""Set: files of which nothing is in scope are not even read, so their tests are not counted."""
KEY = "CONFORMANCE_KEY"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if QUICK not in os.environ or collection_path.suffix != ".py":
        return None
    file = collection_path.relative_to(config.rootpath).as_posix()
    entries = read_scope(Path(os.environ[SCOPE_FILE]).read_text())
    return any(entry.holds_all_of(file) for entry in entries) or None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for module in config.pluginmanager.get_plugins():
        # The suites' conftest.py, from whose names its fixtures make their clients.
        if hasattr(module, "api_key") and hasattr(module, "base_url"):
            module.api_key = os.environ[KEY]
    entries = read_scope(Path(os.environ[SCOPE_FILE]).read_text())
    for item in items:
        reason = reason_of(item.nodeid, entries)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
