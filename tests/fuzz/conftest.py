"""Say at the end of a run how much has been tried."""

from __future__ import annotations

import pytest

#: The name of a property of a test: a line that is written at the end of the run.
RECORDED = "tried"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what tests have recorded, also of those that passed."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.getreports(key)]
    lines = [value for report in reports for name, value in report.user_properties if name == RECORDED]
    if lines:
        terminalreporter.section("stories of isolation")
    for line in lines:
        terminalreporter.write_line(str(line))
