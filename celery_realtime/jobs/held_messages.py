"""Find the jobs of a dead worker that have begun although it could not note that: the broker has no message of them.

A worker acknowledges a message when its job begins, or ends. If the worker that had a message is dead, and a Redis has
the message no more, its job has therefore begun. RabbitMQ cannot be asked for a single message.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import OperationalError

from celery_realtime.events import name_of
from celery_realtime.forks import talking
from celery_realtime.jobs.redis_broker import RedisBroker
from celery_realtime.jobs.seams import delivery_of
from celery_realtime.lazy import Lazy
from celery_realtime.logs import RateLimitedLogger, describe

if TYPE_CHECKING:
    from celery_realtime.history.leases import HeldJob, HeldMessage

logger = logging.getLogger(__name__)


class HeldMessages:
    """The messages that workers of an app hold, in the app's broker.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._log = RateLimitedLogger(logger)
        self._broker = Lazy(lambda: RedisBroker.name_of(app))

    def message_of(self, request: Any) -> HeldMessage | None:
        """Return where the message of a worker's request is in the broker; None if that cannot be asked for it."""
        broker = self._broker.get()
        if broker is None:
            return None
        from celery_realtime.history.leases import HeldMessage

        return HeldMessage(broker, *delivery_of(request))

    def begun(self, jobs: Collection[HeldJob]) -> set[str] | None:
        """Return which jobs of a dead worker have begun without a note; None if nobody can be asked now.

        Returns:
            What :func:`~celery_realtime.events.name_of` returns for each.
        """
        from celery_realtime.history.connection import ERRORS

        waiting = {job.message: name_of(job) for job in jobs if job.message is not None and not job.running}
        asked = [message for message in waiting if message.broker == self._broker.get()]
        if not asked:
            return set()
        try:
            with talking, contextlib.closing(RedisBroker.connect(self._app)) as broker:
                missing = broker.missing(asked)
        except (OperationalError, OSError, *ERRORS) as error:
            self._log.warning(
                "the broker cannot be asked which jobs of a dead worker had begun, so their ends are told later; "
                "asking again: %s",
                describe(error),
            )
            return None
        return {waiting[message] for message in missing}
