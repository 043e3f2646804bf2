"""What a task logs says which job and project it is about."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from celery_realtime.job_logs import JobFilter, add_job, present_job
from celery_realtime.logs import RateLimitedLogger
from tests.recording import Studio

logger = logging.getLogger("tests.of_a_task")


class Lines(logging.Handler):
    """Remembers its lines, each with the job and the project."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(job_id)s %(project_id)s %(message)s"))
        self.addFilter(JobFilter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.fixture
def run() -> Callable[[Callable[[], Any]], str]:
    """Run something as a job of the project p, and return the job's id."""
    studio = Studio(history_url=None)

    def run(body: Callable[[], Any]) -> str:
        @studio.app.task(name=f"logs.{id(body)}", shared=False)
        def work() -> None:
            body()

        result = work.apply(headers={"project_id": "p"}, throw=True)
        return str(result.id)

    return run


def test_a_line_of_a_task_names_its_job(lines: list[str], run: Callable[..., str]) -> None:
    logger.warning("before")
    job = run(lambda: logger.warning("inside"))
    logger.warning("after")
    assert lines == ["  before", f"{job} p inside", "  after"]


def test_what_a_record_says_itself_stays(lines: list[str], run: Callable[..., str]) -> None:
    job = run(lambda: logger.warning("inside", extra={"project_id": "own"}))
    assert lines == [f"{job} own inside"]


def test_threads_and_coroutines_with_the_jobs_context_name_it_and_others_do_not(
    lines: list[str], run: Callable[..., str]
) -> None:
    async def say() -> None:
        await asyncio.to_thread(logger.warning, "to_thread")

    def body() -> None:
        asyncio.run(say())
        context = contextvars.copy_context()
        for target, args in ((context.run, (logger.warning, "context")), (logger.warning, ("bare",))):
            thread = threading.Thread(target=target, args=args)
            thread.start()
            thread.join(60)

    job = run(body)
    assert lines == [f"{job} p to_thread", f"{job} p context", "  bare"]


def test_a_processor_of_structlog_adds_them_inside_of_a_job_only(run: Callable[..., str]) -> None:
    seen: list[Any] = []
    assert add_job(None, "info", {"event": "outside"}) == {"event": "outside"}
    job = run(lambda: seen.append((add_job(None, "info", {"event": "e"}), add_job(None, "info", {"job_id": "own"}))))
    assert seen == [({"event": "e", "job_id": job, "project_id": "p"}, {"job_id": "own"})]  # it is not ours


def test_a_job_that_has_ended_is_present_no_more(run: Callable[..., str]) -> None:
    jobs: list[Any] = []
    job = run(lambda: jobs.append(present_job()))
    assert [each.job_id for each in jobs] == [job]
    assert present_job() is None


def test_a_record_about_another_job_is_given_no_project_of_this_one(lines: list[str], run: Callable[..., str]) -> None:
    def body() -> None:
        RateLimitedLogger(logger).warning("of another job", job_id="other")
        RateLimitedLogger(logger).warning("of another project", project_id="other")
        RateLimitedLogger(logger).warning("of both", job_id="other", project_id="others")

    run(body)
    assert lines == ["other  of another job", " other of another project", "other others of both"]


def test_a_logger_of_structlog_says_in_its_lines_which_job_they_are_about(run: Callable[..., str]) -> None:
    written = io.StringIO()
    processors = [add_job, structlog.processors.JSONRenderer()]
    log = structlog.wrap_logger(structlog.PrintLogger(written), processors=processors)
    log.info("before")
    job = run(lambda: log.info("inside", part=1))
    assert [json.loads(line) for line in written.getvalue().splitlines()] == [
        {"event": "before"},
        {"event": "inside", "part": 1, "job_id": job, "project_id": "p"},
    ]


def test_records_of_logging_have_them_in_structlogs_form_too(run: Callable[..., str]) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(["job_id", "project_id"]), add_job],
            processor=structlog.processors.JSONRenderer(),
        )
    )
    logger.addHandler(handler)
    try:
        job = run(lambda: (logger.warning("of a task"), RateLimitedLogger(logger).error("of another", job_id="other")))
    finally:
        logger.removeHandler(handler)
    seen = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [{name: line[name] for name in ("event", "job_id", "project_id") if name in line} for line in seen] == [
        {"event": "of a task", "job_id": job, "project_id": "p"},
        {"event": "of another", "job_id": "other"},
    ]
