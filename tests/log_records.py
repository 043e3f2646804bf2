"""What one module has logged: other tests of the process may have left threads that log too."""

from __future__ import annotations

import logging

import pytest


def logged_by(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    """Return the records of a logger, and of those below it."""
    return [record for record in caplog.records if f"{record.name}.".startswith(f"{name}.")]
