"""Draw the picture of ``celery realtime top`` that the documentation has: ``python -m tests.tools.top_screenshot``."""

from __future__ import annotations

import asyncio
import random
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from celery import Celery

from celery_realtime import Realtime, events
from celery_realtime.cli.top.follower import Follower
from celery_realtime.cli.top.view import Top
from celery_realtime.events import Job, Outgoing
from celery_realtime.jobs.progress import Progress, progress_update
from tests.services import RedisServer
from tests.waiting import wait_for

PICTURE = Path(__file__).parents[2] / "docs" / "top.svg"

SIZE = (132, 26)

#: Project, task, state, percent, what it says, and how many of such jobs there are.
JOBS = (
    ("apollo", "studio.transcribe", "STARTED", 72, "Transcribing", 3),
    ("apollo", "studio.summarise", "STARTED", 15, "Reading the transcript", 2),
    ("gemini", "studio.render", "STARTED", 40, "Frame 960 of 2400", 2),
    ("gemini", "studio.render", "PENDING", None, None, 4),
    ("mercury", "studio.import_files", "RETRY", None, "ConnectionError: the store is away", 1),
    ("apollo", "studio.transcribe", "FAILURE", None, "ValueError: no audio in this file", 2),
    ("mercury", "studio.import_files", "REVOKED", None, "cancelled", 1),
    ("apollo", "studio.transcribe", "SUCCESS", None, None, 8),
)


def main() -> None:
    """Fill a history, show it, and draw that."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder)).start()
        try:
            app = Celery("studio", broker=server.url(), set_as_current=False)
            realtime = Realtime(app, history_url=server.url())
            history = realtime.manager.history
            assert history is not None
            history.append(_events())
            count = sum(each for *_, each in JOBS)
            with Follower(realtime, None, 1000) as follower:
                wait_for(
                    lambda: follower.is_hearing and follower.feeds.are_whole and len(follower.feeds.jobs()) == count
                )
                PICTURE.write_text(asyncio.run(_draw(follower)))
        finally:
            server.kill()
    print(PICTURE)


async def _draw(follower: Follower) -> str:
    def refuse(*_: str) -> dict[str, Any]:
        raise NotImplementedError

    view = Top(follower, refuse, None)
    async with view.run_test(size=SIZE) as pilot:
        await pilot.press("down")
        await pilot.pause()
        return view.export_screenshot(title="celery -A studio realtime top")


def _events() -> list[Outgoing]:
    chance, now = random.Random(1), datetime.now(timezone.utc)
    made = []
    for project, task, state, percent, text, count in JOBS:
        for _ in range(count):
            worker = None if state == "PENDING" else f"celery@worker-{chance.randrange(1, 4)}"
            job_id = f"{chance.getrandbits(32):08x}"
            job = Job(job_id=job_id, project_id=project, task=task, worker=worker)
            at = now - timedelta(seconds=chance.randrange(5, 300))
            timestamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            error = text if percent is None else None
            made.append(events.outgoing_status(events.status_change(job, state, error=error, timestamp=timestamp)))
            if percent is not None:
                report = Progress(min(100, percent + chance.randrange(25)), text)
                made.append(events.outgoing_progress(progress_update(job, report)))
    return made


if __name__ == "__main__":
    main()
