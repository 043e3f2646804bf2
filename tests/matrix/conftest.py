"""The theatre, and what its worker said where a test fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.launcher import Brokers
from tests.matrix.stage import Theatre


@pytest.fixture(scope="module")
def theatre(brokers: Brokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Keeps the stages of the tests of a file, and takes back what they set in the environment, as each file has to."""
    theatre = Theatre(brokers.make, tmp_path_factory.mktemp)
    yield theatre
    theatre.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    theatre = getattr(item, "funcargs", {}).get("theatre")
    if report.failed and theatre is not None:
        report.sections.append(("log of the worker", theatre.log))
        theatre.end_worker()  # who knows in what state the test has left it
    return report
