"""Keep what a job logs and prints as its stream ``log``: not too many lines, none too long, and filtered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import Token
from typing import Any, NamedTuple

from celery import Celery

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import encode, encode_strict, text_of
from celery_realtime.events import Job
from celery_realtime.forks import after_fork
from celery_realtime.jobs.log_lines import Line, LineGate, PrintedLines, message_of, or_instead, within
from celery_realtime.jobs.log_taps import OUTPUTS, taps
from celery_realtime.jobs.seams import is_celerys_own_logger
from celery_realtime.jobs.streams import ItemStream, Stream, are_two_starts
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.settings import LogRule, Settings, log_level
from celery_realtime.stream_parts import OPEN

logger = logging.getLogger(__name__)

STREAM = "log"

#: The task's attribute that beats the setting.
OPTION = "capture_logs"

#: Whose lines are not the job's: this package, Celery, and the libraries by which these send; but not ``celery.task``.
SILENT = frozenset(("celery_realtime", "celery", "kombu", "amqp", "billiard", "redis", "vine"))

#: What the line that says how many are missing is from.
OWN_NAME = "celery_realtime"

#: Characters of the name of a logger, or of a level.
MAX_NAME = 200

#: Jobs that are captured at a time in a process.
REMEMBERED = 10_000

_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}

OpenStream = Callable[[Job], Stream | None]


class LogRules(NamedTuple):
    """What is kept of what a job says.

    Attributes:
        level: From which level on.
        print_level: The level of what is printed.
        settings: The settings.
    """

    level: int
    print_level: int
    settings: Settings


class JobLog:
    """The log of one start of a job's task.

    Nothing of it raises into the task, unless a method of what the task logs raises what is no ``Exception``.

    Args:
        job: The job.
        rules: What is kept.
        open_stream: Opens the stream when the first line comes; returns None of a job of no project.
        failures: Where it is said that a filter has raised.
    """

    def __init__(self, job: Job, rules: LogRules, open_stream: OpenStream, failures: RateLimitedLogger) -> None:
        settings = rules.settings
        self.job = job
        self._rules = rules
        self._settings = settings
        self._open_stream = open_stream
        self._failures = failures
        self._stream: Stream | None = None
        self._gate = LineGate(settings.log_rate, settings.log_burst)
        self._printed = {name: PrintedLines(settings.log_message_size) for name in OUTPUTS}
        self._has_ended = False
        self.start_over()

    def start_over(self) -> None:
        """Forget what is the parent's to say: done in the child of a fork."""
        self._lock = threading.RLock()
        #: By the reason, how many lines were left out since it was told last.
        self._left_out: dict[str, int] = {}
        for printed in self._printed.values():
            printed.start_over()

    # -- what comes ---------------------------------------------------------------------------------------------

    def wants(self, logger: logging.Logger, level: int) -> bool:
        """Return whether a record is to be made though the level of the root logger, or of all tasks', is against it.

        What the application has set for a logger of its own counts here too, and so does ``logging.disable``.
        """
        if level < self._rules.level or self._has_ended or logger.disabled or logger.manager.disable >= level:
            return False
        return not _is_silent(logger.name) and _is_let_pass(logger, level)

    def take(self, record: logging.LogRecord) -> None:
        """Add a record, if it is of this job, and its level is high enough."""
        level, name = record.levelno, text_of(record.name)
        if level < self._rules.level or self._has_ended or _is_silent(name) or not self._admits():
            return
        text = message_of(record, with_traceback=self._settings.include_traceback)
        self._say(_time_of(record), level, name, within(text, self._settings.log_message_size))

    def take_print(self, output: str, text: str) -> None:
        """Add the lines that are finished by a piece that was printed."""
        if self._rules.print_level < self._rules.level or self._has_ended:
            return
        for line in self._printed[output].add(text):
            if self._admits():
                self._say(events.now(), self._rules.print_level, output, line)

    def finish(self) -> None:
        """Add what was printed last, without the end of a line, and how much is missing; nothing comes after that."""
        if self._has_ended:
            return
        for output, printed in self._printed.items():
            for line in printed.finish():
                self._say(events.now(), self._rules.print_level, output, line)
        self._tell_left_out()
        with self._lock:
            self._has_ended = True

    # -- what is left out ---------------------------------------------------------------------------------------

    def _admits(self) -> bool:
        if self._gate.admit():
            return True
        self._leave_out(f"more than {self._settings.log_rate:g} a second")
        return False

    def _leave_out(self, reason: str) -> None:
        with self._lock:
            self._left_out[reason] = self._left_out.get(reason, 0) + 1

    def _tell_left_out(self) -> None:
        with self._lock:
            left_out, self._left_out = self._left_out, {}
        if left_out:
            count = sum(left_out.values())
            lines = "1 line was" if count == 1 else f"{count} lines were"
            message = f"{lines} left out: {', '.join(left_out)}"
            item = _item(events.now(), logging.WARNING, OWN_NAME, Line(message))
            self._write(encode({**item, "dropped": count}))

    # -- what is said -------------------------------------------------------------------------------------------

    def _say(self, when: str, level: int, name: str, line: Line) -> None:
        item = _item(when, level, name, line)
        encoded = encode(item) if self._settings.log_filter is None else self._filtered(self._settings.log_filter, item)
        if encoded is not None and len(encoded) > self._settings.max_payload and len(line.text) > 1:
            self._say(when, level, name, within(line.text, len(line.text) // 2, line.cut))
        elif encoded is not None:
            if self._left_out:
                self._tell_left_out()
            self._write(encoded)

    def _filtered(self, rule: LogRule, item: dict[str, Any]) -> bytes | None:
        """Return what the filter leaves of an item, encoded; None for nothing."""

        def left() -> bytes | None:
            visible = rule(item)
            return None if visible is None else _encoded(visible, self._settings.max_payload)

        def note(error: Exception) -> None:
            self._leave_out("realtime_log_filter raised an exception")
            self._failures.error(
                "log_filter raised an exception, so a line of a job's log is left out; mend the filter: %s",
                describe(error),
                job_id=self.job.job_id,
                project_id=self.job.project_id,
            )

        return or_instead(left, note)

    def _write(self, encoded: bytes) -> None:
        for _ in range(2):
            stream = self._stream
            if stream is None or stream.state != OPEN:
                with self._lock:
                    stream = self._open()
            if not isinstance(stream, ItemStream):
                return
            try:
                stream.add(encoded)
            except ValueError:  # the task has the same stream, and closes it just now, in another thread
                continue
            return
        self._leave_out("the stream was closed")

    def _open(self) -> Stream | None:
        """Return the stream, opened if the job has not ended: that closes it for good."""
        if self._has_ended:
            return None
        try:
            self._stream = self._open_stream(self.job)
        except ValueError as error:
            self._has_ended = True
            self._failures.error(
                "cannot open the stream 'log' of task %s, so what it logs is not captured; give streams of its own "
                "other names, and see streams_per_job: %s",
                *(self.job.task, error),
                job_id=self.job.job_id,
                project_id=self.job.project_id,
            )
        return None if self._has_ended else self._stream


def _time_of(record: logging.LogRecord) -> str:
    """Return when a record was made; now if it does not say, as one of ``logging.makeLogRecord`` need not."""
    try:
        return events.at(int(record.created * 1000))
    except (TypeError, ValueError, OverflowError, OSError):
        return events.now()


def _item(when: str, level: int, name: str, line: Line) -> dict[str, Any]:
    # By the number: formatters put colours into the name that a record has.
    level_name = _LEVELS.get(level) or str(logging.getLevelName(level))[:MAX_NAME]
    item = {"time": when, "level": level_name, "logger": name[:MAX_NAME], "message": line.text}
    return {**item, "truncated": line.cut} if line.cut else item


def _encoded(item: object, limit: int) -> bytes:
    """Return what a filter has returned, encoded.

    Raises:
        TypeError, ValueError: It is no item, or not fit for JSON, or too large.
    """
    if not isinstance(item, dict):
        raise TypeError(f"it returned {type(item).__name__}, and not the item or None")
    return encode_strict(item, "the item", limit)


def _is_silent(name: str) -> bool:
    first, _, rest = name.partition(".")
    return first in SILENT and not (first == "celery" and rest.partition(".")[0] == "task")


def _is_let_pass(of: logging.Logger, level: int) -> bool:
    """Return whether the level that the application has set for a logger, or one above it, lets a record pass."""
    above: logging.Logger | None = of
    while above is not None:
        if above.level and not is_celerys_own_logger(above):
            return level >= above.level
        above = above.parent
    return True


class _Captured(NamedTuple):
    """A start of a job, while its task runs.

    Attributes:
        job: The job.
        log: Its log; None if nothing of it is captured, in a job that is.
        token: Of :meth:`~celery_realtime.jobs.log_taps.Taps.begin`.
    """

    job: Job
    log: JobLog | None
    token: Token[Any]


class LogCapture:
    """The logs of the jobs of an app that run in this process, where the settings, or their tasks, want them.

    Args:
        app: The Celery app.
        settings: Returns the settings.
        open_stream: As that of :class:`JobLog`.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings], open_stream: OpenStream) -> None:
        self._app = app
        self._settings = settings
        self._open_stream = open_stream
        self._log = RateLimitedLogger(logger)
        #: By project and job, the starts of its task: an eager retry runs within the attempt before.
        self._captured: BoundedDict[tuple[str | None, str], list[_Captured]] = BoundedDict(REMEMBERED)
        after_fork(self._start_over)

    def _start_over(self) -> None:
        for key in self._captured.names():
            for captured in self._captured.get(key) or ():
                if captured.log is not None:
                    captured.log.start_over()

    def begin(self, job: Job, task: Any) -> None:
        """Begin to capture what a job logs and prints in this context, if that is wanted.

        Args:
            job: The job.
            task: Its task; None of a job that runs in a batch, of which nobody knows which line is whose.
        """
        level = None if task is None else self._level_of(task)
        if level is None and taps.is_idle:
            return
        log = None if level is None else JobLog(job, self._rules(level), self._open_stream, self._log)
        captured = _Captured(job, log, taps.begin(log))
        key = job.project_id, job.job_id
        self._captured[key] = [*(self._captured.get(key) or ()), captured]

    def _level_of(self, task: Any) -> int | None:
        settings = self._settings()
        if not settings.enabled:
            return None
        level = getattr(task, OPTION, settings.capture_logs)
        try:
            return log_level(level)
        except ValueError as error:
            self._log.warning(
                "capture_logs of task %s %s, so what its jobs log is not captured; mend the option",
                *(task.name, error),
            )
            return None

    def _rules(self, level: int) -> LogRules:
        # Celery logs what tasks print at this level.
        try:
            print_level = log_level(self._app.conf.worker_redirect_stdouts_level)
        except ValueError:  # Celery refuses it, where it redirects anything
            print_level = None
        return LogRules(level, logging.WARNING if print_level is None else print_level, self._settings())

    def end(self, job: Job) -> None:
        """Add the last lines: a job has ended, or this attempt of it has."""
        for captured in self._captured.get((job.project_id, job.job_id)) or ():
            if captured.log is not None and not are_two_starts(captured.job, job):
                captured.log.finish()

    def leave(self, job: Job, _is_over: bool = False) -> None:
        """Capture nothing more of a job: its task has returned, or raised."""
        key = job.project_id, job.job_id
        all_captured = self._captured.get(key) or []
        captured = next((one for one in reversed(all_captured) if not are_two_starts(one.job, job)), None)
        if captured is None:
            return
        if captured.log is not None:
            captured.log.finish()
        taps.end(captured.log, captured.token)
        rest = [one for one in all_captured if one is not captured]
        if rest:
            self._captured[key] = rest
        else:
            self._captured.pop(key)
