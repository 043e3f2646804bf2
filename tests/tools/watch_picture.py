"""Draw the picture of ``celery realtime watch`` that the documentation has: ``python -m tests.tools.watch_picture``."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from celery_realtime.cli.live.board import Board
from celery_realtime.cli.live.drawing import Drawing
from celery_realtime.events import PROGRESS_EVENT

PICTURE = Path(__file__).parents[2] / "docs" / "watch.svg"

WIDTH, NOW = 104, datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def main() -> None:
    """Draw jobs that run, wait and have ended."""
    with io.StringIO() as terminal:
        console = Console(file=terminal, force_terminal=True, color_system="standard", width=WIDTH, record=True)
        drawing, board = Drawing(console, NOW.timestamp), Board()
        jobs = {job["job_id"]: job for job in _jobs()}
        workflow = {"total": 8, "queued": 4, "running": 1, "done": 3, "failed": 0, "progress": 44}
        board.show(jobs, {"f1": workflow})
        for second in range(6):
            board.heard(PROGRESS_EVENT, {**jobs["0a1b2c3d"], "progress": 62 + 2 * second}, float(second))
        view = board.view(10, 5.0)
        ended = [drawing.ended(job) for job in jobs.values() if job["status"] in ("success", "error")]
        lines = [*ended, *(drawing.entry(entry, WIDTH) for entry in view.entries), *drawing.sums(view, "", WIDTH)]
        for line in lines:
            console.print(Text.from_ansi(line.written), soft_wrap=True)
        console.save_svg(str(PICTURE), title="celery -A studio realtime watch apollo", unique_id="watch")
    print(PICTURE)


def _jobs() -> list[dict[str, Any]]:
    return [
        _job("5f0e9d21", "success", 0, label="Transcribe monday.wav", runtime=74, result={"words": 8112}),
        _job("77ab01cd", "error", 0, task="studio.import_files", runtime=3, error="ConnectionError: the store is away"),
        _job("0a1b2c3d", "running", 95, label="Transcribe tuesday.wav", progress=72, message="Part 18 of 25"),
        _job("9c8d7e6f", "running", 42, task="studio.render", progress=35, stage="encode", message="Frame 840 of 2400"),
        _job("f1", "success", 71, label="Publish the album", root_id="f1", result=None),
        _job("f2", "running", 30, label="Master track 4", root_id="f1", progress=50, message="Second pass"),
        _job("b2c3d4e5", "running", 12, task="studio.summarise"),
        _job("c3d4e5f6", "queued", 8, task="studio.render"),
        _job("d4e5f6a7", "queued", 5, label="Transcribe wednesday.wav"),
    ]


def _job(job_id: str, status: str, age: float, **more: Any) -> dict[str, Any]:
    at = (NOW - timedelta(seconds=age)).isoformat()
    state = {"running": "STARTED", "queued": "PENDING", "success": "SUCCESS", "error": "FAILURE"}[status]
    blank = {"job_id": job_id, "root_id": job_id, "attempt": 0, "status": status, "state": state, "timestamp": at}
    return {**blank, "started_at": at, "queued_at": at, **more}


if __name__ == "__main__":
    main()
