"""What is measured, where, and what has to be taken back afterwards."""

from __future__ import annotations

import uuid
from typing import Any

import click

from celery_realtime.channel.inspection import BrokerError, Ear, connected
from celery_realtime.channel.listener import Listener
from celery_realtime.cli.bench.arrivals import Arrivals
from celery_realtime.jobs.measuring import Plan
from celery_realtime.logs import describe
from celery_realtime.urls import redact

#: The project of what is published, and by default of all events: nobody else uses it.
PROJECT = "celery-realtime-bench"

#: Whom the token is for that is made where none is given.
USER = "celery-realtime-bench"

TOKEN_LIFE = 600

#: Seconds to wait for the channel to be listened to, and for all that was sent to have left.
LISTENING_WAIT, FLUSH_WAIT = 10.0, 30.0

#: Reports, and publications, that are timed.
CALLS = 2000

#: Seconds between two events whose lag is measured.
PAUSE = 0.02


class Setup:
    """A set-up that is measured.

    Args:
        realtime: The Realtime.
        project: The project of the events.
        seconds: How long lags, and deliveries, are measured.

    Attributes:
        plan: What is measured of reports and lags.
        arrivals: What has been heard on the channel.
        published: The ids of the jobs that were published.

    Raises:
        ClickException: The broker or the history cannot be used, or the project is not to be measured in.
    """

    def __init__(self, realtime: Any, project: str, seconds: float) -> None:
        self.realtime = realtime
        settings = realtime.settings
        if not settings.enabled:
            raise click.ClickException("realtime_enabled is False, so no event is sent: there is nothing to measure")
        probes = max(1, round(seconds / PAUSE))
        self.plan = Plan(project, uuid.uuid4().hex[:12], calls=CALLS, probes=probes, pause=PAUSE)
        self.seconds = seconds
        self.arrivals = Arrivals(self.plan.run)
        self.published: list[str] = []
        self._check_broker()
        #: The projects that are as if nothing had been, in the end.
        self._passing = {PROJECT, *self._unused(project)}

    @property
    def history(self) -> Any:
        """The history, or None."""
        return self.realtime.manager.history

    def _check_broker(self) -> None:
        settings = self.realtime.settings
        url = settings.url or "memory://"
        if url.startswith("memory:"):
            raise click.ClickException("the broker is in the memory of each process, so that none hears another")
        try:
            with connected(url, settings.connection_options):
                pass
        except BrokerError as error:
            raise click.ClickException(
                f"the broker at {redact(url)} cannot be used: {error}; `realtime doctor` may say more"
            ) from None

    def _unused(self, project: str) -> list[str]:
        """Return the project if nothing has happened in it.

        Raises:
            ClickException: It has jobs, so that its clients and its history are somebody's.
        """
        if self.history is None or project == PROJECT:
            return []
        if self.history.read(project, most_jobs=1).jobs_total:
            raise click.ClickException(
                f"the project {project!r} has jobs, and thousands of events would go to whoever watches it: "
                "name one that nobody uses, which your rules open to the token"
            )
        return [] if project in self.history.positions([project]) else [project]

    def ear(self) -> Ear:
        """Return what hears the project on the channel, and notes what arrives."""
        settings = self.realtime.settings
        listener = Listener(settings.url or "", settings.channel, connection_options=settings.connection_options)
        return Ear(
            listener,
            self.plan.project_id,
            settings.shards,
            lambda heard: self.arrivals.note(heard.event, heard.data),
        )

    def token(self) -> str:
        """Return what clients connect with.

        Raises:
            ClickException: There is no secret to make it.
        """
        if self.realtime.settings.secret_key is None:
            raise click.ClickException("without realtime_secret_key no token can be made: pass --token")
        made: str = self.realtime.issue_token(USER, [self.plan.project_id], TOKEN_LIFE)
        return made

    def flush(self) -> None:
        """Wait until all has been sent.

        Raises:
            ClickException: It is not within :data:`FLUSH_WAIT`.
        """
        if not self.realtime.flush(FLUSH_WAIT):
            raise click.ClickException(f"events could not be sent within {FLUSH_WAIT:g} s; `realtime doctor` says why")

    def clean_up(self) -> str | None:
        """Take back what is left of it in the history; returns what failed, None if nothing did."""
        try:
            self.realtime.flush(FLUSH_WAIT)
            for project in () if self.history is None else self._passing:
                self.history.places.forget(project, self.published)
        except Exception as error:  # noqa: BLE001 - Redis' library raises errors of its own
            return f"the project {PROJECT!r} stays in the history for realtime_history_ttl: {describe(error)}"
        return None
