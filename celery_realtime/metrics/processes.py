"""Know the other processes of prometheus_client's multiprocess mode, whose values are in files of one directory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

#: The file of gauges that end with their process, as prometheus_client names it.
_LIVE_GAUGES = re.compile(r"gauge_live[a-z]+_(\d+)\.db")


def directory() -> str | None:
    """Return the directory of the files; None where each process is scraped by itself."""
    return os.environ.get(VARIABLE) or None


def bury_dead() -> None:
    """Mark the processes dead that are gone, as children of a pool that are recycled, or were killed, do not."""
    path = directory()
    if path is None:
        return
    from prometheus_client import multiprocess

    for pid in set(_pids(path)):
        if not _is_there(pid):
            try:
                multiprocess.mark_process_dead(pid, path)  # type: ignore[no-untyped-call]
            except FileNotFoundError:  # another process has done so meanwhile
                continue


def _pids(path: str) -> Iterator[int]:
    for file in Path(path).glob("gauge_live*.db"):
        match = _LIVE_GAUGES.fullmatch(file.name)
        if match is not None:
            yield int(match[1])


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
