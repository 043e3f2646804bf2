"""Hand what is logged and printed in a job to the log of that job, and to nobody else; all goes on as it would.

A thread, or context, knows the log of its job. While something of the job is logged or printed it does not: what is
logged in the course of that, by handlers, filters or this package, is for nobody, and so nothing comes in a circle.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Protocol

from celery_realtime.forks import after_fork
from celery_realtime.jobs.seams import follow_logging

if TYPE_CHECKING:
    from typing_extensions import Self

#: Attributes of ``sys`` that are replaced while jobs are captured.
OUTPUTS = ("stdout", "stderr")


class Log(Protocol):
    """The log of a job."""

    def wants(self, logger: logging.Logger, level: int) -> bool:
        """Return whether a record is to be made that the logger's level is against."""

    def take(self, record: logging.LogRecord) -> None:
        """Take a record."""

    def take_print(self, output: str, text: str) -> None:
        """Take what was written to ``stdout`` or ``stderr``."""


#: The log of the job that this context works for.
_here: ContextVar[Log | None] = ContextVar("celery_realtime_log", default=None)


class Output:
    """Stands where ``sys.stdout`` or ``sys.stderr`` was: passes everything on, and tells the log of the job.

    Args:
        under: What was there.
        name: ``stdout`` or ``stderr``.
    """

    __slots__ = ("_name", "_under")

    def __init__(self, under: Any, name: str) -> None:
        object.__setattr__(self, "_under", under)
        object.__setattr__(self, "_name", name)

    def __getattr__(self, name: str) -> Any:
        if name in Output.__slots__:  # of one that is being copied
            raise AttributeError(name)
        return getattr(self._under, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._under, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._under, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._under)

    def __enter__(self) -> Self:
        self._under.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._under.__exit__(*error)

    def __repr__(self) -> str:
        return f"<{self._name} of jobs that are captured, over {self._under!r}>"

    def write(self, text: Any) -> Any:
        """Write as what is under it does, and return what that returns."""
        log = _here.get()
        if log is None:
            return self._under.write(text)
        token = _here.set(None)
        try:
            written = self._under.write(text)
            if isinstance(text, str):
                log.take_print(self._name, text)
            elif isinstance(text, (bytes, bytearray)):  # Celery's own output takes them
                log.take_print(self._name, text.decode(errors="replace"))
        finally:
            _here.reset(token)
        return written

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write several texts, one after the other."""
        for line in lines:
            self.write(line)


def under(output: Any) -> Any:
    """Return what is under an output, or it itself if that is none of ours."""
    return object.__getattribute__(output, "_under") if type(output) is Output else output


class Taps:
    """What listens in this process: nothing, as long as no job is captured.

    Loggers are followed from the first such job on. Standard output and error are replaced while one runs.
    """

    def __init__(self) -> None:
        self._follows = False
        self._logs: weakref.WeakSet[Any] = weakref.WeakSet()
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    @property
    def is_idle(self) -> bool:
        """Whether this context works for no job that is captured."""
        return _here.get() is None

    def begin(self, log: Log | None) -> Token[Log | None]:
        """Hand to a log, or to nobody, what this context logs and prints; returns what :meth:`end` needs."""
        if log is not None:
            with self._lock:
                if not self._follows:
                    self._follows = True
                    follow_logging(_here.get, _handle)
                self._logs.add(log)
                for name in OUTPUTS:
                    _replace(name)
        return _here.set(log)

    def end(self, log: Log | None, token: Token[Log | None]) -> None:
        """Hand nothing more to a log."""
        try:
            _here.reset(token)
        except ValueError:  # it ended in another context than it began in
            _here.set(None)
        if log is None:
            return
        with self._lock:
            self._logs.discard(log)
            if not self._logs:
                for name in OUTPUTS:
                    current = getattr(sys, name, None)
                    if type(current) is Output:
                        setattr(sys, name, under(current))


def _replace(name: str) -> None:
    current = getattr(sys, name, None)
    if current is not None and type(current) is not Output:
        setattr(sys, name, Output(current, name))


def _handle(log: Log, record: logging.LogRecord, pass_on: Callable[[], None] | None) -> None:
    """Have the application handle a record as it would, and then the log of the job."""
    token = _here.set(None)
    try:
        if pass_on is not None:
            pass_on()
        log.take(record)
    finally:
        _here.reset(token)


#: Those of this process.
taps = Taps()
