"""Say which test files take how much processor time: ``pytest -p tests.tools.processor_time``, also with ``-n``.

What counts is the time of the process of the tests, of its children that have ended, and of those that live on, such as
servers that tests share. What nobody has waited for is not seen, such as a browser that its driver has killed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import psutil
import pytest

#: How many files are shown.
MOST = 60

spent: Counter[str] = Counter()
before = 0.0


def total() -> float:
    """Return the seconds that this process, its children and theirs have taken so far."""
    times = os.times()
    taken = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            taken += sum(child.cpu_times()[:4])  # its own, and those of its children that have ended
        except psutil.Error:  # it has ended meanwhile
            continue
    return taken


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Note, after the last test of a file, what its tests and fixtures have taken."""
    global before  # noqa: PLW0603 - a plugin is a module
    before = before or total()
    outcome = yield
    if nextitem is None or nextitem.path != item.path:
        now = total()
        spent[item.nodeid.partition("::")[0]] += max(0, round((now - before) * 100))
        before = now
    return outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over, in a process of pytest-xdist, what was noted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["processor_time"] = dict(spent)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of pytest-xdist has noted."""
    spent.update(getattr(node, "workeroutput", {}).get("processor_time", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the files that have taken most."""
    terminalreporter.section(f"processor time: {sum(spent.values()) / 100:.0f} s")
    for name, hundredths in spent.most_common(MOST):
        terminalreporter.write_line(f"{hundredths / 100:7.1f} s  {name}")
