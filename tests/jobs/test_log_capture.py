"""What jobs log and print is their stream ``log``, on a recorder: real tasks, a real outbox, no broker."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.exceptions import Retry, SoftTimeLimitExceeded
from celery.utils.log import LoggingProxy, get_task_logger

from celery_realtime.jobs.log_taps import Output
from celery_realtime.stream_parts import CLOSED, FAILED
from tests.log_records import logged_by
from tests.recording import Studio
from tests.stream_readers import Reader
from tests.waiting import wait_for

HEADERS = {"project_id": "p"}
names = (f"studio.logs{number}" for number in itertools.count())
logger = logging.getLogger("studio.work")

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """As in a worker with its default level, whatever the tests before have set."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.WARNING)
    yield
    root.setLevel(before)


def run(studio: Studio, function: Callable[..., Any], *args: Any, headers: Any = HEADERS, **options: Any) -> Any:
    """Run a function as a job, and return the eager result."""
    function.__name__ = "body"
    task = studio.app.task(function, **{"name": next(names), "shared": False, **options})
    return task.apply(args, headers=headers)


def read(studio: Studio, job_id: str | None = None) -> Reader:
    """Return what was told of a log; of the only one by default."""
    reader = Reader()
    assert studio.realtime.flush(60)
    for data in studio.wire.named("agent_stream"):
        if data["stream"] == "log" and job_id in (None, data["job_id"]):
            reader.take(data)
    return reader


def items(studio: Studio, job_id: str | None = None) -> list[Any]:
    return read(studio, job_id).value or []


def messages(studio: Studio, job_id: str | None = None) -> list[str]:
    return [item["message"] for item in items(studio, job_id)]


def steps(studio: Studio) -> list[str]:
    """Return what was told, however many chunks a log came in."""
    return [word for word, _ in itertools.groupby(studio.told())]


def said(function: Callable[[], Any], **settings: Any) -> list[str]:
    """Run a function as a job, and return the messages of its log."""
    studio = Studio(**{"capture_logs": "INFO", **settings})
    run(studio, function)
    return messages(studio)


# -- what is in it --------------------------------------------------------------------------------------------------


def test_what_a_job_logs_and_prints_is_its_log_and_ends_before_it() -> None:
    def work() -> None:
        logger.info("started %s", "well")
        logger.error("no %d", 3)
        print("on", "stdout")
        print("on stderr", file=sys.stderr)

    studio = Studio(capture_logs="INFO")
    run(studio, work)
    log = read(studio)
    shown = [(item["level"], item["logger"], item["message"]) for item in log.value]
    assert shown == [
        ("INFO", "studio.work", "started well"),
        ("ERROR", "studio.work", "no 3"),
        ("WARNING", "stdout", "on stdout"),
        ("WARNING", "stderr", "on stderr"),
    ]
    for item in log.value:
        assert set(item) == {"time", "level", "logger", "message"}
        assert TIME.fullmatch(item["time"])
    assert log.state == CLOSED
    assert steps(studio) == ["STARTED", "agent_stream", "SUCCESS"]


def test_by_default_nothing_is_captured_and_nothing_is_touched() -> None:
    def work() -> bool:
        logger.error("an error")
        print("a line")
        return isinstance(sys.stdout, Output)

    studio = Studio()
    assert run(studio, work).get() is False
    assert studio.told() == ["STARTED", "SUCCESS"]


def test_the_level_of_the_settings_counts_and_that_of_a_task_beats_it() -> None:
    def work() -> None:
        for say in (logger.debug, logger.info, logger.warning, logger.error, logger.critical):
            say(say.__name__)

    studio = Studio(capture_logs="warning")
    by_option = {
        "DEBUG": ["debug", "info", "warning", "error", "critical"],
        "info": ["info", "warning", "error", "critical"],
        logging.ERROR: ["error", "critical"],
        True: ["info", "warning", "error", "critical"],
        False: [],
        None: [],
    }
    for option, expected in by_option.items():
        assert messages(studio, run(studio, work, capture_logs=option).id) == expected, option
    assert messages(studio, run(studio, work).id) == ["warning", "error", "critical"]
    alone = Studio()
    run(alone, work, capture_logs="ERROR")
    assert messages(alone) == ["error", "critical"]


def test_an_option_that_is_no_level_is_named_and_the_job_runs(caplog: pytest.LogCaptureFixture) -> None:
    studio = Studio(capture_logs="INFO")
    assert run(studio, lambda: "ran", capture_logs="LOUD").get() == "ran"
    [line] = logged_by(caplog, "celery_realtime.jobs.log_capture")
    assert "must be a level such as \"INFO\", or None, not 'LOUD'" in line.getMessage()


def test_prints_have_the_level_at_which_celery_logs_them() -> None:
    def work() -> None:
        print("a line")

    assert said(work, capture_logs="ERROR") == []
    studio = Studio(capture_logs="ERROR")
    studio.app.conf.worker_redirect_stdouts_level = "ERROR"
    run(studio, work)
    assert [item["level"] for item in items(studio)] == ["ERROR"]


def test_levels_that_an_application_has_set_for_its_loggers_count_and_so_does_disabling() -> None:
    quiet, below, off = (logging.getLogger(name) for name in ("studio.quiet", "studio.quiet.below", "studio.off"))

    def work() -> None:
        for each in (quiet, below, off):
            each.info("an info")
            each.warning("a warning of %s", each.name)
        logging.disable(logging.INFO)
        logger.info("while it is disabled")
        logging.disable(logging.NOTSET)

    quiet.setLevel(logging.WARNING)
    off.disabled = True
    try:
        assert said(work) == ["a warning of studio.quiet", "a warning of studio.quiet.below"]
    finally:
        logging.disable(logging.NOTSET)
        quiet.setLevel(logging.NOTSET)
        off.disabled = False


def test_loggers_of_tasks_are_captured_below_the_level_of_the_worker() -> None:
    def work() -> None:
        get_task_logger("studio.tasks").info("of a task")
        logging.getLogger("celery.task.more").info("of one more")

    base = logging.getLogger("celery.task")
    before = base.level, base.propagate
    base.setLevel(logging.ERROR)
    base.propagate = False
    try:
        assert said(work) == ["of a task", "of one more"]
    finally:
        base.level, base.propagate = before


def test_what_is_not_the_jobs_is_not_in_its_log() -> None:
    def work() -> None:
        for name in ("celery_realtime.sending", "celery.app.trace", "celery.redirected", "kombu.transport", "amqp"):
            logging.getLogger(name).error("of another")
        logging.getLogger("celery_tasks").error("of the job")

    assert said(work) == ["of the job"]


def test_an_exception_is_its_last_line_and_a_traceback_only_with_the_setting() -> None:
    def work() -> None:
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("failed")

    assert said(work) == ["failed\nValueError: no"]
    [whole] = said(work, include_traceback=True)
    assert whole.startswith("failed\nTraceback (most recent call last):")


def test_what_cannot_be_filled_in_neither_raises_nor_is_lost() -> None:
    def work() -> None:
        logger.info("%d", "a word")
        logger.info("surrogate \udc80 %s", "\x00")

    first, second = said(work)
    assert first.startswith("%d (cannot be filled in: TypeError")
    assert second == "surrogate � \x00"


def test_a_record_that_was_made_elsewhere_need_not_be_whole() -> None:
    def work() -> None:
        for given in ({"name": "far"}, {"name": None}, {"name": 7, "created": "yesterday"}, {"created": 1e300}):
            logger.handle(logging.makeLogRecord({"msg": "handed over", "levelno": logging.INFO, **given}))

    studio = Studio(capture_logs="INFO")
    assert run(studio, work).state == "SUCCESS"
    assert [(item["logger"], item["message"]) for item in items(studio)] == [
        (name, "handed over") for name in ("far", "None", "7", "None")
    ]
    assert all(TIME.fullmatch(item["time"]) for item in items(studio))


def test_a_level_and_a_logger_of_ones_own_have_their_names() -> None:
    logging.addLevelName(25, "NOTICE")

    def work() -> None:
        logging.getLogger("n" * 300).log(25, "noted")
        logger.log(26, "odd")

    studio = Studio(capture_logs="NOTICE")
    run(studio, work)
    assert [(item["level"], item["logger"][:20]) for item in items(studio)] == [
        ("NOTICE", "n" * 20),
        ("Level 26", "studio.work"),
    ]
    assert len(items(studio)[0]["logger"]) == 200


# -- prints ---------------------------------------------------------------------------------------------------------


def test_prints_are_whole_lines_whether_or_not_celery_redirects_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        print("a", "b", 3)
        print("two\nlines")
        print("one ", end="")
        logger.info("between")
        print("line")
        print()
        print("no end", end="")
        sys.stdout.flush()

    expected = ["a b 3", "two", "lines", "between", "one line", "no end"]
    assert said(work) == expected
    proxy = LoggingProxy(logging.getLogger("celery.redirected"), logging.WARNING)
    monkeypatch.setattr(sys, "stdout", proxy)
    assert said(work) == expected
    assert sys.stdout is proxy


def test_output_is_as_before_when_the_job_has_ended() -> None:
    before = sys.stdout, sys.stderr

    def fail() -> None:
        assert isinstance(sys.stdout, Output)
        raise ValueError("no")

    run(Studio(capture_logs="INFO"), fail)
    assert (sys.stdout, sys.stderr) == before


# -- how much -------------------------------------------------------------------------------------------------------


def test_lines_beyond_the_rate_are_counted_where_they_are_missing_and_at_the_end() -> None:
    def work() -> None:
        for number in range(100):
            logger.info("line %d", number)

    studio = Studio(capture_logs="INFO", log_rate=0.001, log_burst=10)
    run(studio, work)
    *lines, last = items(studio)
    assert [item["message"] for item in lines] == [f"line {number}" for number in range(10)]
    assert {**last, "time": ""} == {
        "time": "",
        "level": "WARNING",
        "logger": "celery_realtime",
        "message": "90 lines were left out: more than 0.001 a second",
        "dropped": 90,
    }


def test_lines_and_those_that_are_counted_are_all_that_were_logged() -> None:
    def work() -> None:
        for number in range(5000):
            logger.info("%d", number)

    studio = Studio(capture_logs="INFO", log_rate=2000, log_burst=100)
    run(studio, work)
    expected = 0
    for item in items(studio):
        if "dropped" in item:
            expected += item["dropped"]
        else:
            assert int(item["message"]) == expected
            expected += 1
    assert expected == 5000


def test_a_long_message_is_cut_and_says_how_much_is_missing() -> None:
    def work() -> None:
        logger.info("%s", "x" * 1_000_000)
        print("y" * 1_000_000)

    studio = Studio(capture_logs="INFO", log_message_size=100)
    run(studio, work)
    assert [(item["message"], item["truncated"]) for item in items(studio)] == [
        ("x" * 100, 999_900),
        ("y" * 100, 999_900),
    ]


def test_no_item_is_larger_than_a_payload_may_be() -> None:
    def work() -> None:
        logger.info("%s", "\x00" * 5000)

    studio = Studio(capture_logs="INFO", max_payload=1000)
    run(studio, work)
    [item] = items(studio)
    assert len(item["message"]) + item["truncated"] == 5000
    assert 50 < len(item["message"]) < 200


# -- the filter -----------------------------------------------------------------------------------------------------


def test_a_filter_changes_or_drops_lines() -> None:
    def redact(item: dict[str, Any]) -> dict[str, Any] | None:
        if "private" in item["message"]:
            return None
        return {**item, "message": item["message"].replace("s3cret", "***")}

    def work() -> None:
        logger.info("password %s", "s3cret")
        print("private")
        print("s3cret")

    assert said(work, log_filter=redact) == ["password ***", "***"]


@pytest.mark.parametrize("bad", [ValueError("s3cret"), "no item", {"message": object()}, {"message": "x" * 100_000}])
def test_a_filter_that_fails_drops_the_line_which_is_counted_and_said_once(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(item: dict[str, Any]) -> Any:
        if "fine" in item["message"]:
            return item
        if isinstance(bad, Exception):
            raise bad
        return bad

    def work() -> str:
        for _ in range(3):
            logger.info("s3cret")
        logger.info("fine")
        return "done"

    studio = Studio(capture_logs="INFO", log_filter=broken)
    assert run(studio, work).get() == "done"
    notice, fine = items(studio)
    assert (notice["dropped"], fine["message"]) == (3, "fine")
    assert "realtime_log_filter raised an exception" in notice["message"]
    assert len(logged_by(caplog, "celery_realtime.jobs.log_capture")) == 1


def test_a_time_limit_that_comes_while_a_filter_runs_ends_the_job() -> None:
    def interrupted(_: dict[str, Any]) -> Any:
        raise SoftTimeLimitExceeded

    result = run(Studio(capture_logs="INFO", log_filter=interrupted), lambda: logger.info("a line"))
    assert isinstance(result.result, SoftTimeLimitExceeded)


def test_a_filter_that_logs_and_prints_does_not_come_in_a_circle(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    def chatty(item: dict[str, Any]) -> dict[str, Any]:
        calls.append(item["message"])
        logger.warning("of the filter")
        print("of the filter, too")
        return item

    assert said(lambda: (logger.info("a line"), print("another")), log_filter=chatty) == ["a line", "another"]
    assert calls == ["a line", "another"]
    assert [record.getMessage() for record in caplog.records].count("of the filter") == 2


def test_a_value_that_logs_while_it_is_formatted_does_not_either() -> None:
    class Chatty:
        def __str__(self) -> str:
            logger.warning("of a value %s", "within")
            return "a value"

    assert said(lambda: logger.info("%s", Chatty())) == ["a value"]


# -- how it ends ----------------------------------------------------------------------------------------------------


def test_the_log_of_a_job_that_fails_has_its_last_line_and_has_failed() -> None:
    def work() -> None:
        logger.info("last words")
        print("and the very last", end="")
        raise ValueError("no")

    studio = Studio(capture_logs="INFO")
    run(studio, work)
    log = read(studio)
    assert [item["message"] for item in log.value] == ["last words", "and the very last"]
    assert log.state == FAILED
    assert steps(studio) == ["STARTED", "agent_stream", "FAILURE"]


def test_each_attempt_has_a_log_of_its_own() -> None:
    def work(task: Any) -> None:
        logger.info("attempt %d", task.request.retries)
        print("unfinished", end="")
        if task.request.retries < 2:
            raise task.retry(countdown=0)

    studio = Studio(capture_logs="INFO")
    result = run(studio, work, bind=True)
    assert not isinstance(result.result, Retry)
    log = read(studio)
    assert log.starts[-1] == 2
    assert [item["message"] for item in log.value] == ["attempt 2", "unfinished"]


def test_what_is_logged_after_the_end_of_the_job_is_for_nobody() -> None:
    kept: list[Any] = []

    def work() -> None:
        kept.append(sys.stdout)
        logger.info("in time")

    studio = Studio(capture_logs="INFO")
    run(studio, work)
    logger.info("late")
    kept[0].write("late\n")
    assert messages(studio) == ["in time"]


# -- whose it is ----------------------------------------------------------------------------------------------------


def test_a_job_of_no_project_has_no_log_and_one_within_another_its_own() -> None:
    studio = Studio(capture_logs="INFO")

    def inner() -> None:
        print("inner")

    inner_task = studio.app.task(inner, name="studio.inner", shared=False)
    inner_off = studio.app.task(inner, name="studio.inner_off", shared=False, capture_logs=False)

    def outer() -> list[str]:
        print("before")
        ids = [inner_task.apply().id, inner_off.apply().id]
        inner_task()  # a plain call is no job
        return ids

    result = run(studio, outer)
    one, off = result.get()
    assert messages(studio, result.id) == ["before", "inner"]
    assert messages(studio, one) == ["inner"]
    assert messages(studio, off) == []
    assert run(studio, outer, headers={}).successful()


def test_threads_that_have_the_jobs_context_and_forked_processes_are_heard() -> None:
    def work() -> None:
        async def both() -> None:
            logger.info("in a loop")
            await asyncio.to_thread(logger.info, "in a thread")

        print("unfinished", end="")
        asyncio.run(both())
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

    assert said(work) == ["in a loop", "in a thread", "unfinished"]


def test_a_stream_of_the_same_name_is_the_same_or_is_in_the_way(caplog: pytest.LogCaptureFixture) -> None:
    def items_of_ones_own(task: Any) -> None:
        with task.stream("log", kind="json") as out:
            out.write({"message": "one's own"})
        logger.info("captured")

    def a_text(task: Any) -> str:
        task.stream("log")
        logger.info("nowhere")
        return "ran"

    studio = Studio(capture_logs="INFO")
    assert messages(studio, run(studio, items_of_ones_own, bind=True).id) == ["one's own", "captured"]
    assert run(studio, a_text, bind=True).get() == "ran"
    [line] = logged_by(caplog, "celery_realtime.jobs.log_capture")
    assert "cannot open the stream 'log'" in line.getMessage()


def test_threads_that_log_while_the_job_ends_do_not_open_its_log_again() -> None:
    over = threading.Event()
    threads: list[threading.Thread] = []

    def log_on() -> None:
        while not over.wait(0.0005):
            logger.info("a line")

    def work() -> None:
        run_here = contextvars.copy_context().run
        thread = threading.Thread(target=run_here, args=(log_on,))
        thread.start()
        threads.append(thread)
        wait_for(lambda: studio.wire.named("agent_stream"))

    studio = Studio(capture_logs="INFO", log_rate=10**6, log_burst=10**6)
    job = run(studio, work)
    assert read(studio, job.id).state == CLOSED
    run(studio, lambda: None)
    over.set()
    threads[0].join()
    assert read(studio, job.id).state == CLOSED
    assert studio.told()[-1] == "SUCCESS"


def test_where_nothing_is_enabled_nothing_is_captured() -> None:
    studio = Studio(capture_logs="INFO", enabled=False)
    assert run(studio, lambda: isinstance(sys.stdout, Output)).get() is False
