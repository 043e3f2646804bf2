"""Workers that are not started by the ``celery`` command: ``python -m tests.integration.embedded_worker HOW NAME``.

``main`` runs ``worker_main``; ``thread`` runs a worker in a thread; ``again`` does so twice, one after the other, and
``cut_off`` cuts the first off while a job of it runs. ``reloaded`` replaces the program by itself while a job runs, as
reloaders do that keep the process. Both do so when the file ``RUNS`` is there.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from celery.worker import WorkController, state

from tests.integration import jobs
from tests.waiting import wait_for

logger = logging.getLogger(__name__)

OPTIONS = ["--concurrency", "1", "--without-mingle", "--without-gossip", "--loglevel", "INFO"]


def main() -> None:
    how, name = sys.argv[1:]
    jobs.celery.set_default()  # the threads of the pool have no current app
    if how == "main":
        jobs.celery.worker_main(["worker", "--pool", "threads", "--hostname", name, *OPTIONS])
        return
    if how == "reloaded":
        start(name)
        wait_for(Path(os.environ["RUNS"]).exists, timeout=60)
        logger.warning("stopping")
        # "thread" is what it does next; nothing of this process but its id is left.
        os.execv(sys.executable, [sys.executable, "-m", "tests.integration.embedded_worker", "thread", name])
    if how != "thread":
        worker = start(name)
        wait_for(Path(os.environ["RUNS"]).exists if how == "cut_off" else has_run, timeout=60)
        stop(worker, cold=how == "cut_off")
    start(name)
    threading.Event().wait()


def start(name: str) -> Any:
    worker = WorkController(
        app=jobs.celery, pool_cls="threads", concurrency=1, hostname=name, without_mingle=True, without_gossip=True
    )
    worker.thread = threading.Thread(target=worker.start, daemon=True)
    worker.thread.start()
    return worker


def has_run() -> bool:
    """Tell whether a job has run, to its end: a worker's loop may fail, and so end the worker, while it is stopped."""
    return bool(state.total_count) and not state.active_requests


def stop(worker: Any, *, cold: bool) -> None:
    logger.warning("stopping")
    if cold:
        state.should_terminate = 0
        wait_for(lambda: not worker.thread.is_alive())
        state.should_terminate = None
    else:
        worker.stop()
        wait_for(lambda: not worker.thread.is_alive())


if __name__ == "__main__":
    main()
