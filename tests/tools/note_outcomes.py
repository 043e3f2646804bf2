"""A pytest plugin: write how each test ends into a file as it ends, so that a run that is killed has told what it knew.

The environment variable ``NOTE_OUTCOMES`` names the file. A test that begins is a line without an end. Tests of which
there is a line already are left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = Path(os.environ["NOTE_OUTCOMES"])


def _note(**line: Any) -> None:
    with FILE.open("a") as file:
        file.write(json.dumps(line) + "\n")


def pytest_collection_modifyitems(items: list[Any], config: Any) -> None:
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    known = {json.loads(line)["test"] for line in lines}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in known])
    items[:] = [item for item in items if item.nodeid not in known]


def pytest_runtest_logstart(nodeid: str) -> None:
    _note(test=nodeid, end=None)


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcome = "error" if report.when != "call" and report.outcome == "failed" else report.outcome
        _note(test=report.nodeid, end=outcome, seconds=round(report.duration, 1))


def pytest_sessionfinish() -> None:
    _note(test=None, end="over")
