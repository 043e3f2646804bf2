"""In processes whose threads are greenlets, jobs wait for a moment, so that what they report can leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.processes import ROOT, python_path
from tests.recording import Studio

#: Runs a job that computes and reports, and says what had left by then, seen from inside of the task.
PROGRAM = """
import json, sys, time
{patch}
from tests.recording import Studio

studio = Studio(progress_interval=0)
left = []

@studio.app.task(bind=True)
def compute(self):
    left.append(len(studio.wire.sent))
    for number in range(3):
        self.update_progress(10 * number)
        self.emit("line", {{"number": number}})
        started = time.monotonic()
        while time.monotonic() - started < 0.3:
            sum(range(1000))
        left.append(len(studio.wire.sent))

studio.realtime.manager.preload()
studio.realtime.manager.emit_to_project("p", "warm", {{}})
studio.realtime.flush(60)
before = len(studio.wire.sent)
compute.apply(headers={{"project_id": "p"}})
json.dump([number - before for number in left], sys.stdout)
"""

PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "threads": "",
}


@pytest.mark.parametrize("kind", PATCHES)
def test_what_a_job_reports_leaves_while_it_computes(kind: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(patch=PATCHES[kind])],
        cwd=ROOT,
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    at_start, *later = json.loads(ran.stdout)
    if kind != "threads":
        assert at_start == 1  # that it runs, before the first line of the task
    # Its progress; its first line follows with the next report.
    assert all(number > 1 + 2 * place for place, number in enumerate(later)), later


def test_where_threads_are_threads_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    studio, waits = Studio(progress_interval=0), []
    monkeypatch.setattr(studio.realtime.manager.outbox.waits, "until_drained", waits.append)

    @studio.app.task(bind=True)
    def report(self: Any) -> None:
        self.update_progress(10)

    report.apply(headers={"project_id": "p"})
    assert waits == []
