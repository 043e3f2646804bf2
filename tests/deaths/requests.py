"""What a worker's main process writes down of the jobs of the death matrix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery.worker.request import Request

from tests.deaths import diary


class WatchedRequest(Request):
    """Writes down that a message has been received, and that the pool has accepted its job, before that has effects."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._note(diary.RECEIVED)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The pool runs the job; a message that need not wait for its end is acknowledged now."""
        self._note(diary.ACCEPTED)
        super().on_accepted(pid, time_accepted)

    def _note(self, what: str) -> None:
        diary.write(Path(self.args[0]["folder"]), self.id, what, main_pid=os.getpid())
