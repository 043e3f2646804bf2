"""Widgets of the jobs of a project, and of one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anywidget
import traitlets

from celery_realtime.client import ProjectSubscription
from celery_realtime.client.seams import NoConnection, new_client
from celery_realtime.contrib.notebook.front_end import source
from celery_realtime.contrib.notebook.relay import Relay
from celery_realtime.exceptions import SubscribeError
from celery_realtime.extension import Realtime
from celery_realtime.rooms import normalise_project_id
from celery_realtime.urls import place_of_socket, redact

#: Seconds for which a token that a widget makes itself is valid; each connection has one of its own.
TOKEN_LIFE = 3600

#: Attributes of the elements, which widgets take by names of Python.
ATTRIBUTES = ("theme", "lang", "streams", "status", "filter", "max_jobs")

#: A token, or what returns one.
Token = str | Callable[[], str]


class JobsWidget(anywidget.AnyWidget):
    """The jobs of a project, live, in the output of a notebook: in as many places, and as often as it is shown.

    The kernel connects to the web server, and follows the project until :meth:`close`.

    Args:
        project_id: The project.
        url: The web server; with a path if Socket.IO is below one.
        token: What to connect with, or a function that returns it, which is asked at each connection.
        realtime: In place of ``token``: a Realtime with the server's secret key, which signs one for ``user``.
        user: The user of that token.
        cancellable: Whether to offer to stop jobs; the server's rules decide whether that is allowed.
        namespace: The Socket.IO namespace.
        **shown: ``theme`` (``"light"``, ``"dark"``; by default that of the notebook), ``lang``, ``status``, ``filter``,
            ``streams``, ``max_jobs``: as the attributes of the element.

    Raises:
        TypeError: Both ``token`` and ``realtime`` are given, or an unknown option.
        ValueError: This cannot be the id of a project, or the address of a web server.
        SubscribeError: The server refuses the connection; ``code`` says why.
        socketio.exceptions.ConnectionError: There is no server at ``url``.
    """

    _esm = source()
    _tag = traitlets.Unicode("celery-project").tag(sync=True)
    _attributes = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        project_id: object,
        *,
        url: str = "http://127.0.0.1:5000",
        token: Token | None = None,
        realtime: Realtime | None = None,
        user: object = "notebook",
        cancellable: bool = False,
        namespace: str = "/",
        **shown: object,
    ) -> None:
        project = normalise_project_id(project_id)
        if token is not None and realtime is not None:
            raise TypeError("a widget takes either token or realtime, which signs one")
        attributes = {"project": project, **({"cancellable": ""} if cancellable else {}), **_attributes_of(shown)}
        super().__init__(_attributes={**attributes, **self._identity})
        self._client = new_client()
        try:
            self._subscription = ProjectSubscription(self._client, project, namespace=namespace, batch=True)
            self._relay = Relay(self._client, namespace, self.send, may_cancel=cancellable)
            self.on_msg(lambda _widget, content, _buffers: self._relay.take(content))
            self._connect(url, token if realtime is None else _signer(realtime, user, project), namespace)
        except BaseException:
            self.close()
            raise

    @property
    def _identity(self) -> dict[str, str]:
        return {}

    def _connect(self, url: str, token: Token | None, namespace: str) -> None:
        where, path = place_of_socket(url)
        if callable(token):
            token()  # what is wrong with it is said here, and not as a connection that fails
        credentials = (lambda: {"token": token()}) if callable(token) else {} if token is None else {"token": token}
        try:
            self._client.connect(where, auth=credentials, namespaces=[namespace], socketio_path=path)
        except NoConnection as error:
            refusal = self._subscription.feed.error
            if refusal is not None:
                raise SubscribeError(str(refusal["message"]), str(refusal["code"])) from None
            raise NoConnection(f"{redact(url)}: {error}") from None

    @property
    def jobs(self) -> Mapping[str, Mapping[str, Any]]:
        """The latest state of each job, by its id, as the kernel knows it; it changes as they go on."""
        return self._subscription.feed.jobs

    @property
    def state(self) -> str:
        """``subscribing``, ``subscribed``, ``stale`` (the connection is lost, and made again) or ``refused``."""
        return self._subscription.feed.state

    def wait_for(self, condition: Callable[[Mapping[str, Mapping[str, Any]]], Any], timeout: float = 30.0) -> bool:
        """Wait, in this cell, until a condition holds for :attr:`jobs`, and return whether it does.

        Args:
            condition: Gets the jobs.
            timeout: Longest wait, in seconds.
        """
        return self._subscription.wait_for(lambda feed: condition(feed.jobs), timeout)

    def close(self) -> None:
        """Leave the project, end the connection and all threads, and take the widget away where it is shown."""
        if "_relay" in self.__dict__:
            self._relay.close()
        if "_subscription" in self.__dict__:
            self._subscription.close()
        if "_client" in self.__dict__:
            self._client.shutdown()
        super().close()


class JobWidget(JobsWidget):
    """One job, live, with its result or error, its log and its streams.

    Args:
        job_id: The job.
        project_id: Its project.
        **options: Of :class:`JobsWidget`.
    """

    _tag = traitlets.Unicode("celery-job").tag(sync=True)

    def __init__(self, job_id: str, project_id: object, **options: Any) -> None:
        self._job_id = job_id
        super().__init__(project_id, **options)

    @property
    def _identity(self) -> dict[str, str]:
        return {"job-id": self._job_id}

    @property
    def job(self) -> Mapping[str, Any] | None:
        """Its latest state, as the kernel knows it; None before that is known."""
        return self.jobs.get(self._job_id)


def _signer(realtime: Realtime, user: object, project: str) -> Callable[[], str]:
    return lambda: realtime.issue_token(user, [project], TOKEN_LIFE)


def _attributes_of(shown: Mapping[str, object]) -> dict[str, str]:
    unknown = sorted(shown.keys() - set(ATTRIBUTES))
    if unknown:
        raise TypeError(f"{unknown[0]} is no option of a widget; there are {', '.join(ATTRIBUTES)}")
    return {name.replace("_", "-"): str(value) for name, value in shown.items() if value is not None}
