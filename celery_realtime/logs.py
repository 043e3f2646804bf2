"""Rate-limit repeated failures: one log line a minute for each message, with a count of those left out."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Hashable, Iterator

from celery_realtime.clocks import time

LOG_INTERVAL = 60.0

#: What a URL has before its host; libraries repeat it in what they say of one that they cannot use.
_PASSWORD = re.compile(r"(://[^\s:@/]*:)\S*@")

#: Kinds of lines that are told apart; of further ones within a minute, none is logged.
MOST_KINDS = 100


class RateLimit:
    """Admit each kind of line once a minute, and count the others.

    Without a lock, which would stay held for ever in a child that is forked meanwhile: a race costs a line.
    """

    def __init__(self) -> None:
        #: By kind: when a line was admitted last, and how many were left out since.
        self._admitted: dict[Hashable, tuple[float, int]] = {}

    def admit(self, kind: Hashable) -> str | None:
        """Return what to write behind a line, mostly nothing; None if the line is to be left out."""
        clock = time.monotonic()
        admitted_at, left_out = self._admitted.get(kind, (None, 0))
        is_too_early = admitted_at is not None and clock - admitted_at < LOG_INTERVAL
        if is_too_early or (admitted_at is None and not self._has_room(clock)):
            if admitted_at is not None:
                self._admitted[kind] = (admitted_at, left_out + 1)
            return None
        self._admitted[kind] = (clock, 0)
        return f" (and {left_out} more times since the last such line)" if left_out else ""

    def _has_room(self, clock: float) -> bool:
        if len(self._admitted) >= MOST_KINDS:
            recent = {kind: entry for kind, entry in self._admitted.items() if clock - entry[0] < LOG_INTERVAL}
            self._admitted = recent
        return len(self._admitted) < MOST_KINDS


class RateLimitedLogger:
    """Log each message at most once a minute, so that an outage is one fact and not ten thousand lines.

    A line says how many of its kind were left out since the one before. A second, different failure has a minute of
    its own.

    Args:
        logger: The logger to write to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        #: Messages before their arguments are filled in.
        self._limit = RateLimit()

    def error(self, message: str, *args: object, job_id: str | None = None, project_id: str | None = None) -> None:
        """Log an error with its arguments, unless the same message was logged less than a minute ago.

        Args:
            message: What happened, what follows, and what to do, with places for ``args``.
            args: What is filled in.
            job_id: The job that it is about, for the record.
            project_id: The project that it is about.
        """
        self._log(logging.ERROR, message, args, about(job_id, project_id))

    def warning(self, message: str, *args: object, job_id: str | None = None, project_id: str | None = None) -> None:
        """Log a warning, as :meth:`error` logs an error."""
        self._log(logging.WARNING, message, args, about(job_id, project_id))

    @contextlib.contextmanager
    def suppressing(
        self, message: str, *args: object, job_id: str | None = None, project_id: str | None = None
    ) -> Iterator[None]:
        """Log an exception of the block, behind the message, instead of raising it.

        For users' functions, which may raise anything and must not stop what called them.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            self.error(f"{message}: %s", *args, describe(error), job_id=job_id, project_id=project_id)

    def _log(self, level: int, message: str, args: tuple[object, ...], extra: dict[str, str]) -> None:
        rest = self._limit.admit(message)
        if rest is not None:
            line = message + rest
            self._logger.log(level, line, *args, extra=extra)


class RepeatedErrors(logging.Filter):
    """Lets each kind of error pass once a minute, with its traceback: what strangers send can cause very many.

    A kind is a message, a type of exception, and the line that raised it. So one error does not hide another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be logged; all but errors with a traceback are."""
        if not record.exc_info or record.exc_info[1] is None:
            return True
        rest = self._limit.admit(self.kind_of(record, record.exc_info[1]))
        if rest:
            record.msg = str(record.msg) + rest
        return rest is not None

    def kind_of(self, record: logging.LogRecord, error: BaseException) -> Hashable:
        """Return what is told apart."""
        return (record.msg, *origin_of(error))


class RareErrors:
    """Lets each kind of error pass its block once a minute, as if it were not there; repeated ones end here, counted.

    For what strangers can cause very often, and what would write a traceback each time, wherever that is done.

    Args:
        logger: The logger that the count is written to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._limit = RateLimit()

    def __enter__(self) -> None:
        """Begin what may fail."""

    def __exit__(self, _type: object, error: BaseException | None, _where: object) -> bool:
        if not isinstance(error, Exception):
            return False
        rest = self._limit.admit(origin_of(error))
        if rest:
            self._logger.warning(
                "an error was raised again and again, so it is not shown each time; its traceback is in an earlier "
                "line%s",
                rest,
            )
        return rest is None


def origin_of(error: BaseException) -> tuple[str, str, int]:
    """Return the type of an exception, and the file and line that raised it."""
    if isinstance(error, RecursionError):  # how deep it came depends on who called
        return type(error).__name__, "", 0
    parts = getattr(error, "exceptions", None)
    if parts:  # a group's own place says nothing
        return origin_of(parts[0])
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return type(error).__name__, *(("", 0) if place is None else (place.tb_frame.f_code.co_filename, place.tb_lineno))


def about(job_id: str | None, project_id: str | None = None) -> dict[str, str]:
    """Return what ``extra`` of a log line is that is about a job, or about a project alone; nothing for neither.

    What is about a project alone is about no job, also where it is logged in one.
    """
    if project_id is None:
        return {} if job_id is None else {"job_id": job_id}
    return {"job_id": job_id or "", "project_id": project_id}


def describe(error: BaseException) -> str:
    """Name an error and what it says, in one line and without the password of a URL.

    Its ``repr`` would not do: redis-py's have nothing of what the error says.
    """
    return " ".join(_PASSWORD.sub(r"\1**@", f"{type(error).__name__}: {error}").split())
