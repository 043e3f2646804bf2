"""A worker's main process may be interrupted anywhere, by a signal in whose handler Celery shuts the worker down."""

from __future__ import annotations

import subprocess
import sys


def test_a_worker_that_is_shut_down_in_the_middle_of_a_message_goes_on() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.jobs.interrupted_worker"]
    worker = subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)
    assert worker.returncode == 0, worker.stderr
    assert int(worker.stdout.split()[0]) > 100
    assert "Traceback" not in worker.stderr, worker.stderr
