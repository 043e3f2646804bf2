"""Tell what a result backend has of a job: one place for each id, in which whatever ran under that id has stored."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from typing import Any


def is_older(done: Any, since: float | None) -> bool:
    """Tell whether a stored end is older than a time, and so that of an earlier job of the same id.

    Args:
        done: What backends have as ``date_done``; what is no time is not older.
        since: In seconds since the epoch; None if unknown.
    """
    with contextlib.suppress(TypeError, ValueError):
        at = done if isinstance(done, datetime) else datetime.fromisoformat(done)
        # Without a zone it is UTC, or, with Celery's enable_utc off, the host's time: the later one counts.
        readings = [at] if at.tzinfo else [at, at.replace(tzinfo=timezone.utc)]
        return since is not None and max(reading.timestamp() for reading in readings) < since
    return False
