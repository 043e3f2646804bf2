"""Collect the metrics of one Realtime."""

from __future__ import annotations

import logging

from celery_realtime.metrics import processes
from celery_realtime.metrics.exporter import exporter
from celery_realtime.metrics.readings import Source
from celery_realtime.metrics.recorder import Recorder
from celery_realtime.metrics.serving import Port
from celery_realtime.observers import Realtime
from celery_realtime.settings import Settings
from celery_realtime.stages import Stages

logger = logging.getLogger(__name__)

#: Longest wait, in seconds, for the last values of a process.
FINISH_TIMEOUT = 1.0


class Metrics:
    """Observes a process for Prometheus, see :class:`~celery_realtime.observers.Observers`.

    Args:
        realtime: Whose metrics.
        settings: The settings.

    Attributes:
        stages: What observes the stages.
    """

    def __init__(self, realtime: Realtime, settings: Settings) -> None:
        self._exporter = exporter()
        recorder = Recorder(by_task=settings.metrics_tasks, begin=self._exporter.begin)
        self.stages: Stages = recorder.stages
        self._source = Source(realtime, recorder)
        self._exporter.add(self._source)
        self._port = None if settings.metrics_port is None else Port(settings.metrics_host, settings.metrics_port)

    def prepare(self) -> None:
        """Load what children need; that is done by now."""

    def start(self, *, has_children: bool) -> None:
        """Bring the metrics over from now on, and serve them if there is a port for it."""
        if has_children and processes.directory() is None:
            logger.warning(
                "the processes of this worker's pool share no directory, so realtime_metrics counts what its main "
                "process does alone; set %s to an empty directory before the worker starts",
                processes.VARIABLE,
            )
        self._exporter.begin()
        if self._port is not None:
            self._port.open()

    def end(self) -> None:
        """Bring over what has been counted since the last time, and serve no more."""
        self._exporter.finish(FINISH_TIMEOUT)
        if self._port is not None:
            self._port.close()
