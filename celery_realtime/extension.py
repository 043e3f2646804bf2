"""Make every job of a Celery app appear in the browser: the one object that a project makes."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import celery
import msgspec
from celery import Celery, bootsteps, signals
from celery.canvas import Signature
from celery.exceptions import TaskRevokedError
from celery.local import Proxy

from celery_realtime import auth, events, progress, task
from celery_realtime.arguments import HEADER
from celery_realtime.bounded import BoundedDict
from celery_realtime.bridge import Bridge
from celery_realtime.cancel import Cancellations, register_command
from celery_realtime.events import Job
from celery_realtime.exceptions import ImproperlyConfigured, JobCancelled
from celery_realtime.handle import JobHandle
from celery_realtime.incarnation import Incarnation
from celery_realtime.manager import SocketIOManager
from celery_realtime.outbox import Outbox
from celery_realtime.progress import Progress, ProgressTracker
from celery_realtime.results import MirroredProgress, ProgressMirror
from celery_realtime.revocations import Revocations
from celery_realtime.rooms import normalise_project_id, normalise_user_id
from celery_realtime.settings import Settings, check_names, conf_values, resolve
from celery_realtime.urls import celery_broker_options, celery_redis

if TYPE_CHECKING:
    from celery_realtime.client_manager import AsyncRealtimeClientManager
    from celery_realtime.handlers import SocketIOEventHandlers
    from celery_realtime.keeper import Keeper
    from celery_realtime.kombu_manager import RealtimeKombuManager
    from celery_realtime.leases import HeldJob

logger = logging.getLogger(__name__)

TRACKERS = 10000


class Realtime:
    """Live progress for the jobs of a Celery app.

    Opens no connection and starts no thread; both wait for the first event.

    Args:
        app: The Celery app; or leave it out and call :meth:`init_app` later.
        **settings: See :class:`celery_realtime.settings.Settings`; each beats ``realtime_<name>`` in ``app.conf``.

    Raises:
        ImproperlyConfigured: A setting is unknown or has a bad value.
    """

    def __init__(self, app: Celery | None = None, **settings: Any) -> None:
        check_names(settings, prefix="")
        self._keywords = settings
        self._app: Celery | None = None
        self._attached: SocketIOEventHandlers | None = None
        #: That of the worker that this process is, or becomes.
        self.incarnation = Incarnation()
        self._trackers: BoundedDict[str, ProgressTracker] = BoundedDict(TRACKERS)
        #: The attempts that jobs have ended at.
        self._ended: BoundedDict[str, int] = BoundedDict(TRACKERS)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Celery) -> None:
        """Attach to a Celery app, as ``app.realtime``.

        Raises:
            ImproperlyConfigured: A setting is unknown or has a bad value, or either side is attached already.
        """
        # `celery.current_app` is a proxy, and tasks know their app itself.
        app = app._get_current_object() if isinstance(app, Proxy) else app
        if self._app is not None or getattr(app, "realtime", None) is not None:
            raise ImproperlyConfigured(f"the Celery app {app.main!r} or this Realtime is attached already")
        self._check_early(app)
        self._app = app
        app.realtime = self
        _attached.add(self)
        task.install()
        self.manager.register_job_listeners(self.bridge)
        self.bridge.on_end(self._end)
        app.steps["worker"].add(_WorkerStep)
        self._flush_at_worker_end()

    def _check_early(self, app: Celery) -> None:
        """Check what is set by now, without loading a configuration that its owner has not finished.

        Loading it would be its end: Celery tells ``on_after_configure`` then, and takes no other source any more.
        """
        if app.configured:
            self._resolve(app, app.conf, app.conf.broker_write_url)
        else:
            so_far = getattr(app, "_preconf", None) or {}
            self._resolve(app, so_far, so_far.get("broker_write_url") or so_far.get("broker_url"))

    def _resolve(self, app: Celery, conf: Mapping[str, Any], broker_url: str | list[str] | None) -> Settings:
        return resolve(self._keywords, conf, broker_url or "amqp://", app.namespace)

    def _flush_at_worker_end(self) -> None:
        # A prefork child ends by os._exit, so only its own signal reaches it; a cold shutdown skips worker_shutdown.
        for signal in (signals.worker_process_shutdown, signals.worker_shutting_down, signals.worker_shutdown):
            signal.connect(self._on_worker_end, weak=False, dispatch_uid=f"celery_realtime.{id(self)}.flush")

    def _on_worker_end(self, signal: Any = None, **_: Any) -> None:
        self.flush()
        if signal is not signals.worker_shutting_down:
            self.manager.close()
        if signal is signals.worker_shutdown and self.incarnation.id:
            if self.manager.history is not None:
                self.keeper.release(self.incarnation.id)
            self.incarnation.end()

    # -- parts --------------------------------------------------------------------------------------------------

    @property
    def app(self) -> Celery:
        """The Celery app.

        Raises:
            ImproperlyConfigured: There is none yet.
        """
        if self._app is None:
            raise ImproperlyConfigured("this Realtime has no Celery app yet: call realtime.init_app(app)")
        return self._app

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings, resolved and checked when they are first needed; later changes have no effect."""
        conf = self.app.conf
        settings = self._resolve(self.app, conf, conf.broker_write_url)
        if {**conf_values(conf, self.app.namespace), **self._keywords}.get("url") is None:
            options = celery_broker_options(conf, settings.connection_options)
            settings = msgspec.structs.replace(settings, connection_options=options)
        return self._find_history(settings) if settings.history_url == "auto" else settings

    def _find_history(self, settings: Settings) -> Settings:
        """Return settings with the history at the result backend or the broker, if it is a Redis and has a client."""
        address = celery_redis(self.app.conf, settings.url, settings.connection_options)
        if address is not None and importlib.util.find_spec("redis") is None:
            logger.warning("no history: pip install celery-realtime[redis], or set realtime_history_url to None")
            address = None
        if address is None:
            return msgspec.structs.replace(settings, history_url=None)
        options = {**address.options, **settings.history_options}
        return msgspec.structs.replace(settings, history_url=address.url, history_options=options)

    @functools.cached_property
    def manager(self) -> SocketIOManager:
        """Where events go."""
        return SocketIOManager(lambda: self.settings, lambda: self.client_manager(write_only=True))

    @functools.cached_property
    def bridge(self) -> Bridge:
        """Where events come from."""
        return Bridge(self.app, lambda: self.settings, self.incarnation)

    def project(self, project_id: object) -> contextlib.AbstractContextManager[None]:
        """Give every job that is published inside the ``with`` block a project.

        Raises:
            TypeError, ValueError: It is no project id.
        """
        return self.bridge.project(project_id)

    def handle(
        self, task: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> JobHandle:
        """Return a job's id, its project and the project's position, before the job is published.

        Args:
            task: A task, or the signature of one.
            args: Positional arguments of the task.
            kwargs: Keyword arguments of the task.
            **options: Of ``apply_async``, such as ``queue`` or ``countdown``; and ``project_id``, for a header of that
                name.

        Raises:
            TypeError: It is neither, or the project id is none.
            ValueError: The project id is none.
        """
        signature = _signature(task, tuple(args), dict(kwargs or {}), options)
        project_id = signature.options.pop("project_id", None)
        headers = dict(signature.options.get("headers") or {})
        if project_id is not None:
            headers[HEADER] = normalise_project_id(project_id)
        signature.set(headers=headers, task_id=signature.options.get("task_id") or celery.uuid())
        where = (signature.task, signature.options["task_id"], headers, signature.args, signature.kwargs)
        project = self.bridge.project_of(*where)
        if project is not None:
            headers[HEADER] = project  # it stays so wherever the job is published
        return JobHandle(signature, project, None if project is None else self.manager.position(project))

    # -- tasks --------------------------------------------------------------------------------------------------

    def tracker_of(self, task: Any) -> ProgressTracker | None:
        """Return the tracker of the job that a task runs now, or None outside a job."""
        job = self.bridge.job_of(task)
        if job is None:
            return None
        found = self._trackers.get(job.job_id)
        if found is not None and found.job is job:
            return found
        if found is None or found.job.attempt != job.attempt:
            found = self._new_tracker(job)
        found.job = job  # one that was asked for by its id alone learns whose it is
        if not found.ended and _stores_results(task):
            self._mirror.expect(job.job_id, task.request)
        return found

    def progress_tracker(self, job_id: str) -> ProgressTracker:
        """Return the tracker of a job, for code that holds its id and not its task."""
        if not isinstance(job_id, str) or not job_id:
            raise TypeError(f"job_id must be a non-empty str, not {job_id!r}")
        running = self.app.current_task
        if running is not None and running.request.id == job_id and running.app is self.app:
            found = self.tracker_of(running)
        else:
            found = self._trackers.get(job_id)
        return found if found is not None else self._new_tracker(Job(job_id=job_id))

    def _new_tracker(self, job: Job) -> ProgressTracker:
        tracker = ProgressTracker(job, self._publish_progress, self._mirror_progress, self.settings.progress_interval)
        earlier = self._trackers.get(job.job_id)
        if earlier is not None:
            earlier.end()
        self._trackers[job.job_id] = tracker
        if self._ended.get(job.job_id, -1) >= job.attempt:
            tracker.end()
        return tracker

    def _publish_progress(self, job: Job, report: Progress, due: float) -> None:
        if job.project_id is None:
            project = self.manager.project_of(job.job_id)
            job = job if project is None else msgspec.structs.replace(job, project_id=project)
        if job.project_id is None:
            self.manager.count_without_project(job)
        else:
            told = events.outgoing_progress(progress.progress_update(job, report), job.stall_after)
            self.manager.put(told, due)

    def _mirror_progress(self, job: Job, report: Progress, due: float) -> None:
        self._mirror_outbox.put(MirroredProgress(job.job_id, report), due)  # type: ignore[arg-type]

    @functools.cached_property
    def _mirror(self) -> ProgressMirror:
        return ProgressMirror(self.app)

    @functools.cached_property
    def _mirror_outbox(self) -> Outbox[events.Outgoing]:
        return Outbox(
            self._mirror.store,  # type: ignore[arg-type]
            queue_size=self.settings.queue_size,
            linger=0.0,
            flush_timeout=1.0,
            destination="the result backend",
        )

    def _end(self, job: Job) -> None:
        tracker = self._trackers.get(job.job_id)
        if tracker is not None and tracker.job.attempt > job.attempt:
            return
        self._ended[job.job_id] = job.attempt
        self._mirror.ended(job.job_id)
        if "cancellations" in vars(self):
            self.cancellations.forget(job.job_id)
        if tracker is not None:
            tracker.end()
            self._trackers.pop(job.job_id)

    def emit_from(self, task: Any, event: str, data: Any) -> None:
        """Send a custom event to the project of the job that a task runs now."""
        job = self.bridge.job_of(task)
        if job is not None and job.project_id is not None:
            self.manager.emit_to_project(job.project_id, event, data, job_id=job.job_id)
            return
        events.outgoing_custom(event, data, "", None, self.settings.max_payload)
        if job is not None:
            self.manager.count_without_project(job)

    # -- cancelling ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def cancellations(self) -> Cancellations:
        """Which jobs of this process have been cancelled."""
        return Cancellations(lambda: self.manager.history)

    def raise_if_cancelled(self, task: Any) -> None:
        """End the job that a task runs now if it has been cancelled and the task is ``cancellable``.

        Raises:
            JobCancelled: It has been.
        """
        job = self.bridge.job_of(task) if getattr(task, "cancellable", False) else None
        if job is None or not self.cancellations.has(job.job_id):
            return
        reason = TaskRevokedError("cancelled")
        task.request.realtime_stored = ("REVOKED", reason)
        if _stores_results(task):
            try:
                task.backend.mark_as_revoked(job.job_id, str(reason), request=task.request)
            except Exception as error:
                logger.error("the end of a cancelled job could not be stored: %r", error)
        raise JobCancelled("cancelled")

    # -- leases -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def keeper(self) -> Keeper:
        """What looks after jobs whose workers die."""
        from celery_realtime.keeper import Keeper

        return Keeper(self.manager, self.settings.lost_after)

    def look_after_worker(self) -> None:
        """Hold a lease on the jobs of the worker that this process is the main process of."""
        if self.manager.history is not None:
            self.keeper.hold(self.incarnation.id, self._held_jobs)

    def abandon_worker(self) -> None:
        """Let the lease of the worker in this process lapse: it is cut off, and its jobs with it."""
        if self.incarnation.id and self.manager.history is not None:
            self.keeper.abandon(self.incarnation.id)

    def _held_jobs(self) -> list[HeldJob]:
        """Return the jobs that this worker has taken from the queue and not finished."""
        from celery.worker import state

        from celery_realtime.leases import HeldJob

        held = [(self.bridge.received(request.id), request) for request in _members(state.reserved_requests)]
        return [
            HeldJob(**msgspec.structs.asdict(job), running=bool(request.time_start))
            for job, request in held
            if job is not None and job.project_id is not None
        ]

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every accepted event has been sent.

        Args:
            timeout: Longest wait, in seconds; default: the ``flush_timeout`` setting.

        Returns:
            Whether all have been sent.
        """
        return self.manager.flush(timeout)

    # -- web server ---------------------------------------------------------------------------------------------

    def client_manager(self, write_only: bool = False) -> RealtimeKombuManager:
        """Return the ``client_manager`` of a :class:`socketio.Server` or Flask-SocketIO's ``SocketIO``.

        Args:
            write_only: True for one that only publishes, for processes without clients.
        """
        if write_only:
            from celery_realtime.kombu_manager import RealtimeKombuManager

            return RealtimeKombuManager(**self._manager_options())
        from celery_realtime.client_manager import RealtimeClientManager

        return RealtimeClientManager(**self._manager_options())

    def async_client_manager(self) -> AsyncRealtimeClientManager:
        """Return the ``client_manager`` of a :class:`socketio.AsyncServer`."""
        from celery_realtime.client_manager import AsyncRealtimeClientManager

        return AsyncRealtimeClientManager(**self._manager_options())

    def _manager_options(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "url": settings.url,
            "channel": settings.channel,
            "connection_options": settings.connection_options,
            "stock": settings.wire == "stock",
            "namespace": settings.namespace,
        }

    def init_socketio(
        self,
        server: Any,
        *,
        authenticate: Callable[..., Any] | None = None,
        authorize: Callable[..., Any] | None = None,
        authorize_cancel: Callable[..., Any] | None = None,
        audience: Callable[..., Any] | None = None,
        handlers: type[SocketIOEventHandlers] | None = None,
    ) -> SocketIOEventHandlers:
        """Serve subscriptions, and what else browsers ask for, on a Socket.IO server.

        Args:
            server: A :class:`socketio.Server`, :class:`socketio.AsyncServer`, or Flask-SocketIO's ``SocketIO``.
            authenticate: ``(token, environ) -> user id``, or None to refuse; sync or async.
            authorize: ``(user_id, project_id) -> bool``; sync or async.
            authorize_cancel: ``(user_id, project_id, job_id) -> bool``, for who may see the project; sync or async.
                Without it nobody may cancel a job.
            audience: ``(user_id, project_id) -> str``: for whom ``event_filter`` is to decide; sync or async.
            handlers: Your subclass of ``SocketIOEventHandlers`` or ``AsyncSocketIOEventHandlers``.

        Returns:
            The registered handlers.

        Raises:
            ImproperlyConfigured: Nothing says who may connect, or the server cannot hear the workers.
        """
        from celery_realtime import serving
        from celery_realtime.desk import Desk
        from celery_realtime.handlers import Options

        desk = Desk(self.app, lambda: self.manager.history, lambda: self.settings)
        attached = serving.attach(
            server,
            self.settings,
            authenticate=authenticate,
            authorize=authorize,
            handlers=handlers,
            read=None if self.manager.history is None else self.manager.history.read,
            options=Options(authorize_cancel, audience, self._revocations, desk),
        )
        self.manager.attach(attached.server)
        self._attached = attached
        attached.on_first_client(self._look_after_others)
        return attached

    @functools.cached_property
    def _revocations(self) -> Revocations:
        history = self.manager.history
        return Revocations(None if history is None else history.marks.revocations)

    def revoke_access(self, user_id: object, project_id: object) -> bool:
        """Let a user's clients hear a project no more, on all web servers, from now on.

        They are told so, and are out of the project when this returns, on this server; on others as soon as they hear
        of it. Tokens of ours that were made before open the project no more. Rules of your own are asked again when
        the user subscribes again, so let them say no first.

        Args:
            user_id: The user, as the authenticator names it.
            project_id: The project.

        Returns:
            Whether the broker, and the history where there is one, took it. If not, say it again.

        Raises:
            TypeError, ValueError: It is no project id, or no user id.
        """
        user, project, at = normalise_user_id(user_id), normalise_project_id(project_id), time.time()
        self._revocations.note(user, project, at)
        kept = self._keep_revocation(user, project, at)
        return self._order({"action": "revoke", "user": user, "project": project, "at": at}) and kept

    def _keep_revocation(self, user: str, project: str, at: float) -> bool:
        history = self.manager.history
        if history is None:
            return True
        try:
            history.marks.revoke(user, project, at)
        except Exception as error:
            logger.error("it could not be stored that %s may not see a project any more: %r", user, error)
            return False
        return True

    def disconnect_user(self, user_id: object) -> bool:
        """Disconnect all clients of a user, on all web servers.

        Their tokens stay good: have the authenticator refuse them first, if the user is not to come back.

        Args:
            user_id: The user, as the authenticator names it.

        Returns:
            Whether the broker took it. If not, say it again.

        Raises:
            TypeError, ValueError: It is no user id.
        """
        return self._order({"action": "disconnect", "user": normalise_user_id(user_id)})

    def _order(self, order: dict[str, Any]) -> bool:
        if self._attached is not None:
            self._attached.obey(order)  # the broker may be away
        return self.manager.publisher.order(order)

    def _look_after_others(self) -> None:
        if self.manager.history is not None:
            self.keeper.start()

    def issue_token(self, user_id: object, projects: Iterable[object] = (), expires_in: float = 3600) -> str:
        """Return a signed token with which a browser can connect.

        Args:
            user_id: Who it is; a non-empty string, an integer or a UUID.
            projects: The projects that it opens.
            expires_in: Seconds until it ends.

        Raises:
            ImproperlyConfigured: ``secret_key`` is not set.
            TypeError, ValueError: An argument is of the wrong type or out of range.
        """
        return auth.issue_token(self.settings.secret_key, user_id, projects, expires_in)


def _signature(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> Signature:
    if isinstance(task, Signature) and task.subtask_type is None:
        return task.clone(args, kwargs, **options)
    if isinstance(task, celery.Task):
        return task.signature(args, kwargs, **options)
    raise TypeError(f"handle takes a task or the signature of one, not {task!r:.100}; for others there is position()")


def _stores_results(task: Any) -> bool:
    """Tell whether Celery stores the result of the job that a task runs (celery/app/trace.py, ``build_tracer``)."""
    if task.ignore_result or task.request.ignore_result:
        return False
    return bool(task.store_eager_result or not task.request.is_eager)


def _members(requests: Iterable[Any]) -> list[Any]:
    """Return the members of a set that other threads change meanwhile."""
    while True:
        try:
            return list(requests)
        except RuntimeError:  # changed size during iteration
            continue


class _WorkerStep(bootsteps.StartStopStep):
    """Keep a worker with a mistaken setting from starting, load before the fork what its children need, hold leases."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        parent.app.realtime.settings  # noqa: B018 - reading it is the check
        parent.app.realtime.manager.preload()
        register_command()
        parent.app.realtime.incarnation.begin()  # before the pool forks, so that its children belong to it
        super().__init__(parent, **kwargs)

    def start(self, parent: Any) -> None:
        parent.app.realtime.look_after_worker()

    def terminate(self, parent: Any) -> None:
        # A cold shutdown sends no worker_shutdown, and the process may live on, as that of an embedded worker does.
        parent.app.realtime.abandon_worker()


#: Celery's current app is one for each thread, and the request threads of a web server have none.
_attached: weakref.WeakSet[Realtime] = weakref.WeakSet()


def _current_realtime() -> Realtime:
    realtime: Realtime | None = getattr(celery.current_app, "realtime", None)
    only = list(_attached)
    if realtime is None and len(only) == 1:
        return only[0]
    if realtime is None:
        raise ImproperlyConfigured(
            f"the current Celery app {celery.current_app.main!r} has no Realtime: write Realtime(app) beside it"
        )
    return realtime


def get_progress_tracker(job_id: str) -> ProgressTracker:
    """Return the progress tracker of a job of the current Celery app.

    Raises:
        ImproperlyConfigured: The current app has no :class:`Realtime`.
    """
    return _current_realtime().progress_tracker(job_id)


def get_socketio_manager() -> SocketIOManager:
    """Return the manager of the current Celery app.

    Raises:
        ImproperlyConfigured: The current app has no :class:`Realtime`.
    """
    return _current_realtime().manager
