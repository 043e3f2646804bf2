"""Name everything that can go wrong, by what the caller can do about it."""

from __future__ import annotations

from celery.exceptions import Ignore


class RealtimeError(Exception):
    """Root of every error that this package raises on its own account."""


class ImproperlyConfigured(RealtimeError):
    """A setting, URL or combination that can never work; the message names it and the fix."""


class SubscribeError(RealtimeError):
    """A browser's request that is refused.

    Args:
        message: One sentence that may be shown to the user.
        code: ``unauthorized``, ``forbidden``, ``bad_request``, ``too_many_requests`` or ``unavailable``.
    """

    def __init__(self, message: str = "", code: str = "bad_request") -> None:
        super().__init__(message)
        self.code = code


class RerunError(SubscribeError):
    """A job that cannot be run again; the message says why, and ``code`` is as that of any refusal."""


class JobCancelled(Ignore, RealtimeError):
    """Raised inside a task that is ``cancellable`` when its job has been cancelled.

    The job ends as ``error`` with the state REVOKED. A task may catch it to tidy up, and raise it again.
    """
