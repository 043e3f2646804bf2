"""What a checkup is about, and what its checks share."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from celery_realtime.channel.inspection import Ear
from celery_realtime.channel.listener import Listener
from celery_realtime.settings import Settings

#: The project that events are sent round in: one, so that the history has no more than that of checkups.
PROJECT = "celery-realtime-doctor"

#: Whom the token is for that is made where none is given.
USER = "celery-realtime-doctor"

TOKEN_LIFE = 600


class Context:
    """What is looked at.

    Args:
        realtime: The Realtime.
        url: The address of the web server, or None.
        path: Where its Socket.IO server is.
        token: What to connect with; None for one that is made here.
        project: The project that events are sent round in.
        origin: The origin of the pages; None for that of the web server.
        workers: The node names of the workers that are looked at; by default all.
        timeout: Seconds that each check may take.
        patience: Seconds that a server may take to answer; by default a third of it.
        echo_wait: Seconds that an event may take from one end to the other; by default as long.
    """

    def __init__(  # noqa: PLR0913 - one for each option of the command, all by name
        self,
        realtime: Any,
        *,
        url: str | None = None,
        path: str = "socket.io",
        token: str | None = None,
        project: str = PROJECT,
        origin: str | None = None,
        workers: Sequence[str] = (),
        timeout: float = 15.0,
        patience: float | None = None,
        echo_wait: float | None = None,
    ) -> None:
        self.realtime = realtime
        self.url = url
        self.path = path.strip("/")
        self.given_token = token
        self.project = project
        self.origin = origin
        self.timeout = timeout
        self.workers = list(workers) or None
        self.patience = timeout / 3 if patience is None else patience
        #: Seconds that a client may take to connect.
        self.connect_wait = timeout / 3
        self.echo_wait = self.patience if echo_wait is None else echo_wait
        #: What events of this checkup say.
        self.echo = uuid.uuid4().hex

    @property
    def settings(self) -> Settings:
        """The settings.

        Raises:
            ImproperlyConfigured: One is mistaken.
        """
        settings: Settings = self.realtime.settings
        return settings

    @property
    def history(self) -> Any:
        """The history, or None."""
        return self.realtime.manager.history

    @property
    def token(self) -> str | None:
        """What to connect with; None if there is no secret to make one."""
        if self.given_token is not None or self.settings.secret_key is None:
            return self.given_token
        made: str = self.realtime.issue_token(USER, [self.project], TOKEN_LIFE)
        return made

    def ear(self) -> Ear:
        """Return what hears the project on the channel."""
        settings = self.settings
        listener = Listener(settings.url or "", settings.channel, connection_options=settings.connection_options)
        return Ear(listener, self.project, settings.shards)
