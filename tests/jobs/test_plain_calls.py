"""A plain call of a shared task, in a process where no Realtime is ever made, is no job and no error."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from celery_realtime import Realtime
from celery import Celery, shared_task

@shared_task(bind=True)
def transcribe(self, parts):
    self.update_progress(25, "Downloading")
    self.emit("line", {"text": "..."})
    for part in self.track(parts):
        pass
    try:
        self.update_progress(250)
    except ValueError:
        return "done"

assert transcribe(["a"]) == "done"
app = Celery("studio", broker="memory://", set_as_current=True)
assert transcribe(["a"]) == "done"
assert not hasattr(app, "realtime")
"""


def test_the_methods_are_there_and_only_check_their_arguments() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
