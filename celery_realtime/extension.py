"""Make every job of a Celery app appear in the browser: the one object that a project makes."""

from __future__ import annotations

import contextlib
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import celery
import msgspec
from celery import Celery

from celery_realtime import auth, health
from celery_realtime.events import Job
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.instances import instances
from celery_realtime.jobs import task
from celery_realtime.jobs.configuration import Configuration
from celery_realtime.jobs.departures import Departures
from celery_realtime.jobs.eager_jobs import EagerJobs
from celery_realtime.jobs.handle import JobHandle, new_handle, signature_of
from celery_realtime.jobs.held_messages import HeldMessages
from celery_realtime.jobs.incarnation import Incarnation
from celery_realtime.jobs.job_reader import JobReader
from celery_realtime.jobs.keeping import Keeping
from celery_realtime.jobs.mapped import watch_items
from celery_realtime.jobs.projects import Projects
from celery_realtime.jobs.reconciler import Reconciler, ends_of_lost
from celery_realtime.jobs.reruns import Reruns
from celery_realtime.jobs.seams import unproxied
from celery_realtime.jobs.signals import Bridge
from celery_realtime.jobs.spawning import Recipe
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.jobs.stored_results import StoredResults
from celery_realtime.jobs.trackers import ProgressTracker, RunningJobs, silent_tracker
from celery_realtime.jobs.worker import WorkerSupport
from celery_realtime.lazy import Lazy
from celery_realtime.loops import BackgroundLoop, loops_of
from celery_realtime.observers import Nothing, Observed, Observers, Several
from celery_realtime.rooms import normalise_project_id
from celery_realtime.sending.eager import Road
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.settings import Settings
from celery_realtime.urls import kind_of_broker
from celery_realtime.web.access_orders import CONFIRM_TIMEOUT, AccessOrders
from celery_realtime.web.order_results import OrderResult
from celery_realtime.web.surroundings import celery_app_of, flask_app_of, is_flask, surroundings_of, within_app_context
from celery_realtime.web.watch_marks import WatchMarks

if TYPE_CHECKING:
    from celery_realtime.channel.kombu_manager import RealtimeKombuManager
    from celery_realtime.events import Job
    from celery_realtime.history.store import History
    from celery_realtime.sending.keeper import Keeper
    from celery_realtime.sending.spool import Spool
    from celery_realtime.web.client_manager import AsyncRealtimeClientManager
    from celery_realtime.web.handlers import Rules, SocketIOEventHandlers
    from celery_realtime.web.stream_source import StreamSource


#: Longest time, in seconds, for which the result backend is asked for the jobs of a dead worker.
LOST_LOOKUP_TIMEOUT = 5.0


class _Parts:
    """What a Realtime consists of, each part made when it is needed first.

    Args:
        settings: Those given to the constructor.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._configuration = Configuration(settings)
        self._settings = Lazy(self._read_settings)
        self._observers: Observers = Nothing()
        self._manager = SocketIOManager(
            lambda: self.settings,
            lambda: self._web.client_manager(write_only=True),
            Road(lambda: self.settings, lambda: self._attached.eager_jobs.are_all).guard,
            behind=lambda event: self._attached.bridge.running_steps.of(event),  # noqa: PLW0108 - attached after this
            stages=lambda: self.observers.stages,
        )
        self._keeper = Lazy(lambda: _new_keeper(self, self._attached.results))
        self._web = _WebSide(self)
        #: What takes access back, and carries out here what other processes have taken back.
        self.access = self._web.access
        #: Marks what clients of this process watch.
        self.watch_marks = self._web.marks
        self._celery: _CelerySide | None = None

    @property
    def app(self) -> Celery:
        """The Celery app.

        Raises:
            ImproperlyConfigured: There is none yet.
        """
        return self._attached.app

    @property
    def _attached(self) -> _CelerySide:
        if self._celery is None:
            raise ImproperlyConfigured("this Realtime has no Celery app yet: call realtime.init_app(app)")
        return self._celery

    @property
    def settings(self) -> Settings:
        """The settings, resolved and checked when they are first needed; later changes have no effect."""
        return self._settings.get()

    @property
    def manager(self) -> SocketIOManager:
        """Where events go."""
        return self._manager

    @property
    def bridge(self) -> Bridge:
        """Where the statuses of jobs come from: Celery's signals."""
        return self._attached.bridge

    @property
    def running_jobs(self) -> RunningJobs:
        """The jobs that run in this process."""
        return self._attached.running_jobs

    @property
    def worker(self) -> WorkerSupport:
        """What a worker does for its jobs, beside running them."""
        return self._attached.worker

    @property
    def keeper(self) -> Keeper:
        """What renews leases, and finds jobs whose workers have died."""
        return self._keeper.get()

    def prepare_rerun(self, project_id: str, job_id: str) -> Callable[[], str]:
        """Return what runs a job of a project again, and returns the id of the new one.

        Raises:
            RerunError: As that of :meth:`rerun`.
        """
        return self._attached.reruns.prepare(project_id, job_id)

    def rerun(self, job_id: str, project_id: object = None) -> str:
        """Run a job again whose message is kept, without asking a rule; return the id of the new one.

        Args:
            job_id: The job, which has ended.
            project_id: Its project; needed where several projects use its id.

        Raises:
            RerunError: It cannot be run again: it has not ended, its message is not kept, or the broker is away.
            TypeError, ValueError: The project id is none.
        """
        project = None if project_id is None else normalise_project_id(project_id)
        return self._attached.reruns.prepare(project, job_id)()

    def _read_settings(self) -> Settings:
        settings = self._web.in_app_context(self._configuration.read(self.app))
        self._observers = _new_observers(self, settings)
        return settings

    @property
    def observers(self) -> Observers:
        """What observes this process, as the settings say."""
        self._settings.get()
        return self._observers

    @property
    def observed(self) -> Observed:
        """What there is to observe; makes and starts nothing."""
        side = self._celery
        reconciler = None if side is None else side.reconciler
        return Observed(self.manager, reconciler, self._keeper.peek(), list(self._web.serving), self.looping)

    @property
    def looping(self) -> list[Any]:
        """All that runs in the background of this process; makes and starts nothing."""
        side = self._celery
        of_celery = [] if side is None else [side.running_jobs, side.reconciler, side.worker]
        return [self.manager, *of_celery, self._keeper.peek(), *self._web.parts]

    def _forget(self) -> None:
        self._settings.forget()
        self._manager.start_over()

    @contextlib.contextmanager
    def reconfigured(self, **settings: Any) -> Iterator[None]:
        """Use other settings for a while, as tests do. What waits to be sent at either end is forgotten: flush first.

        Args:
            **settings: In place of those that the constructor, or the last ``start_over``, was given.

        Raises:
            ImproperlyConfigured: A name is unknown.
        """
        before = self._configuration.replace(settings)
        self._forget()
        try:
            yield
        finally:
            self._configuration.replace(before)
            self._forget()

    def pickled(self) -> bytes | None:
        """Return, pickled, the class and the settings of this, for a process that has none; None if they cannot be."""
        try:
            return pickle.dumps((type(self), self._configuration.keywords))
        except Exception:  # noqa: BLE001 - how they are pickled is up to objects of the application, and so is whether
            return None

    def join_worker(self, app: Celery, incarnation: str, spool: Spool | None) -> None:
        """Go on with a copy of the Celery app, as a child of a worker's pool that was not forked.

        Called by the pool's child itself (:mod:`celery_realtime.jobs.spawning`), which has to report to the pool within
        four seconds that it is up. So what sends is loaded later, by the thread that does.

        Args:
            app: The copy, whose tasks this process runs.
            incarnation: The id of the worker's incarnation.
            spool: Where its main process looks for what this process has not sent.
        """
        self._celery = _CelerySide(app, self, self._celery)
        self._celery.incarnation.join(incarnation)
        app.realtime = self
        instances.add(self)
        self._settings.forget()
        self._manager.start_over()
        self._manager.spools.take(spool)
        self._celery.connect()
        self._manager.connections.confine()


class Realtime(_Parts):
    """Live progress for the jobs of a Celery app.

    Opens no connection and starts no thread; both wait for the first event.

    Args:
        app: What :meth:`init_app` takes; or leave it out and call that later.
        **settings: See :class:`celery_realtime.settings.Settings`; each beats ``realtime_<name>`` in ``app.conf``.

    Raises:
        ImproperlyConfigured: A setting is unknown or has a bad value.
    """

    def __init__(self, app: Any = None, **settings: Any) -> None:
        super().__init__(settings)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        """Attach to a Celery app, as ``app.realtime``.

        Args:
            app: The Celery app; or a Flask app that has it at ``app.extensions["celery"]``, where Flask's documentation
                puts it, to which this Realtime may be attached already: rules then run in the Flask app's context.

        Raises:
            ImproperlyConfigured: A setting is unknown or has a bad value, or either side is attached already.
        """
        app, flask_app = unproxied(celery_app_of(app)), app if is_flask(app) else None
        if flask_app is not None:
            self._web.flask_app = flask_app
            if self._celery is not None and self._celery.app is app:
                return
        if self._celery is not None or getattr(app, "realtime", None) is not None:
            raise ImproperlyConfigured(
                f"the Celery app {app.main!r} or this Realtime is attached already: make one for each app, once"
            )
        self._configuration.check(app)
        self._celery = _CelerySide(app, self)
        app.realtime = self
        instances.add(self)
        self._celery.connect()

    def start_over(self, **settings: Any) -> None:
        """Forget the settings, and what was made with them; the next use reads and checks them again.

        For tests, and for programs that change their broker while they run. Flush first.

        Args:
            **settings: In place of those that the constructor was given, where they name the same.
        """
        self._configuration.replace(settings)
        self._forget()

    # -- jobs ---------------------------------------------------------------------------------------------------

    def project(self, project_id: object) -> contextlib.AbstractContextManager[None]:
        """Give every job that is published inside the ``with`` block a project.

        Raises:
            TypeError, ValueError: It is no project id.
        """
        return self._attached.projects.surrounding(project_id)

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
        signature = signature_of(task, args, kwargs, options)
        return new_handle(signature, self._attached.projects, self.manager.position)

    def progress_tracker(self, job_id: str | None) -> ProgressTracker:
        """Return the tracker of a job, for code that has its id and not its task.

        None is what ``self.request.id`` is in a plain call, which is no job: that tracker only checks its arguments.

        Raises:
            TypeError: It is not a job id.
        """
        return self.running_jobs.tracker_by_id(job_id)

    @property
    def present_job(self) -> Job | None:
        """The job that this thread, or context, works for; None outside of one."""
        return None if self._celery is None else self.running_jobs.present

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every accepted event has been sent.

        Args:
            timeout: Longest wait, in seconds; default: the ``flush_timeout`` setting.

        Returns:
            Whether all have been sent.
        """
        return self.manager.flush(timeout)

    def health(self) -> dict[str, Any]:
        """Return how this process is doing, fit for JSON; makes and starts nothing, and waits for nothing.

        Returns:
            ``live``: whether all loops that have begun turn; ``ready``: whether no check fails; ``checks``: by the name
            of each its ``state`` (``ok``, ``idle`` or ``failing``) and details; ``loops``: of each background loop what
            :meth:`celery_realtime.loops.BackgroundLoop.health` returns.
        """
        side, web, keeper = self._celery, self._web, self._keeper.peek()
        loops = loops_of(*self.looping)
        of_history = [*([] if keeper is None else [keeper.loop]), *web.history_loops]
        of_history += [] if side is None else side.worker.history_loops
        checks = (
            health.check_loops(loops),
            health.check_hearing(web.managers),
            health.check_history(of_history),
            health.check_outbox(self.manager.outbox_in_use),
            health.check_keeper(keeper),
            health.check_leases(keeper),
        )
        return health.report(checks, loops)

    # -- web server ---------------------------------------------------------------------------------------------

    def client_manager(self, write_only: bool = False) -> RealtimeKombuManager:
        """Return the ``client_manager`` of a :class:`socketio.Server` or Flask-SocketIO's ``SocketIO``.

        Args:
            write_only: True for one that only publishes, for processes without clients.
        """
        return self._web.client_manager(write_only)

    def async_client_manager(self) -> AsyncRealtimeClientManager:
        """Return the ``client_manager`` of a :class:`socketio.AsyncServer`."""
        return self._web.async_client_manager()

    def init_socketio(
        self,
        server: Any,
        *,
        authenticate: Callable[..., Any] | None = None,
        authorize: Callable[..., Any] | None = None,
        authorize_cancel: Callable[..., Any] | None = None,
        authorize_rerun: Callable[..., Any] | None = None,
        audience: Callable[..., Any] | None = None,
        around: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
        handlers: type[SocketIOEventHandlers] | None = None,
    ) -> SocketIOEventHandlers:
        """Serve subscriptions, and what else browsers ask for, on a Socket.IO server.

        Args:
            server: A :class:`socketio.Server`, :class:`socketio.AsyncServer`, or Flask-SocketIO's ``SocketIO``.
            authenticate: ``(token, environ) -> user id``, or None to refuse; sync or async.
            authorize: ``(user_id, project_id) -> bool``; sync or async.
            authorize_cancel: ``(user_id, project_id, job_id) -> bool``, for users who may see the project; sync or
                async. Without it nobody may cancel a job.
            authorize_rerun: The same for who may have a job run again.
            audience: ``(user_id, project_id) -> str``: for whom ``event_filter`` is to decide; sync or async.
            around: ``(rule) -> rule``: wraps each of these rules, and the methods that stand for them. The
                default closes stale connections of Django, and gives them the app context of Flask-SocketIO.
            handlers: Your subclass of ``SocketIOEventHandlers`` or ``AsyncSocketIOEventHandlers``.

        Returns:
            The registered handlers.

        Raises:
            ImproperlyConfigured: Nothing says who may connect, or the server cannot hear the workers.
        """
        from celery_realtime.web.handlers import Rules

        self._web.flask_app = flask_app_of(server, self._web.flask_app)
        around = around or surroundings_of(server, self._web.flask_app)
        rules = Rules(authenticate, authorize, authorize_cancel, audience, around, authorize_rerun)
        return self._web.attach(server, handlers, rules)

    def http_app(self, app: Any = None, *, server: Any = None, prefix: str | None = None) -> Any:
        """Return a WSGI or ASGI application, whichever the server is of, with server-sent events and JSON.

        Args:
            app: What answers all other requests; without it they are not found.
            server: A server that was given to :meth:`init_socketio`; the only one by default.
            prefix: In place of ``/celery-realtime``.

        Raises:
            ImproperlyConfigured: There is no such server, or it serves neither WSGI nor ASGI.
        """
        return self._web.http_app(app, server, prefix)

    def revoke_access(self, user_id: object, project_id: object, *, wait: float = CONFIRM_TIMEOUT) -> OrderResult:
        """End a user's subscriptions to a project, on all web servers, from now on.

        The clients get an ``error`` event. Tokens that ``issue_token`` made before no longer open the project. Rules of
        your own are asked again, so have them refuse first.

        Args:
            user_id: The user, as the authenticator names it.
            project_id: The project.
            wait: Longest wait, in seconds, for web servers to confirm. On an event loop there is none.

        Returns:
            True if the broker, and the history where there is one, accepted it; else call it again. It also says which
            web servers have carried it out.

        Raises:
            TypeError, ValueError: It is not a project id, or not a user id.
        """
        return self.access.revoke(user_id, project_id, wait)

    def disconnect_user(self, user_id: object, *, wait: float = CONFIRM_TIMEOUT) -> OrderResult:
        """Disconnect all clients of a user, on all web servers.

        Their tokens stay valid: have the authenticator refuse them first, if the user is not to come back.

        Args:
            user_id: The user, as the authenticator names it.
            wait: As that of :meth:`revoke_access`.

        Returns:
            As :meth:`revoke_access`.

        Raises:
            TypeError, ValueError: It is not a user id.
        """
        return self.access.disconnect(user_id, wait)

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
        keys, clock = self.settings.secret_key, self.access.time_of_tokens()
        return auth.issue_token(keys, user_id, projects, expires_in, issued_at=clock)


class _CelerySide:
    """What belongs to the Celery app of a Realtime.

    Args:
        app: The Celery app.
        realtime: The Realtime.
        original: What belongs to the app that this one is a copy of, if it is.
    """

    def __init__(self, app: Celery, realtime: _Parts, original: _CelerySide | None = None) -> None:
        settings = realtime._settings.get  # asked several times by each publication
        manager = realtime.manager
        self.app = app
        self.projects: Projects = (
            Projects(app, settings, manager.project_of) if original is None else original.projects.of_copy(app)
        )
        reader = JobReader(app, self.projects)
        self.incarnation = incarnation = Incarnation()
        reporter, departures = StatusReporter(incarnation, settings), Departures()
        self.bridge = Bridge(
            app,
            settings,
            projects=self.projects,
            reader=reader,
            reporter=reporter,
            departures=departures,
            keeping=Keeping(app, settings, manager.kept),
        )
        self.reruns = Reruns(app, settings, lambda: manager.history, reporter, waiting=manager.kept)
        self.results: StoredResults = StoredResults(app, lambda job_id: len(reporter.projects_of(job_id)) > 1)
        self.reconciler = Reconciler(
            departures,
            manager=manager,
            reporter=reporter,
            results=self.results,
            settings=settings,
            failed=self.bridge.end_later_steps,
        )
        self.running_jobs = RunningJobs(app, reader=reader, manager=manager, settings=settings)
        reporter.on_end(self.running_jobs.end)
        self.eager_jobs = EagerJobs(app)
        self.worker = WorkerSupport(
            settings,
            manager,
            incarnation=incarnation,
            received=self.bridge.received,
            project_of=self.projects.of_request,
            keeper=lambda: realtime.keeper,
            departures=departures,
            reconciler=self.reconciler,
        )
        self.worker.on_end(lambda: realtime.observers.end())  # noqa: PLW0108 - others after a change of the settings
        self._recipe = Recipe(realtime, app, incarnation=lambda: incarnation.id, new_spool=manager.spools.for_spawned)
        self._manager = manager

    def connect(self) -> None:
        """Begin to report the app's jobs."""
        task.install()
        self._manager.register_job_listeners(self.bridge)
        self.bridge.publishing.on_publication(self.eager_jobs.note_publication)
        self.bridge.on_start(self._note_start)
        self.bridge.on_leave(self.running_jobs.logs.leave)
        self.bridge.on_leave(self.running_jobs.streams.leave)
        self.worker.install(self.app)
        self._recipe.install()

    def _note_start(self, job: Job, task: Any, is_eager: bool) -> None:
        self.eager_jobs.begin(is_eager=is_eager)
        self.running_jobs.begin(job)
        watch_items(task, self.running_jobs.tracker_of)
        self.running_jobs.logs.begin(job, task)


def _new_observers(realtime: _Parts, settings: Settings) -> Observers:
    observers: list[Observers] = []
    if settings.metrics and settings.enabled:
        from celery_realtime.metrics.measuring import Metrics

        observers.append(Metrics(realtime, settings))
    if settings.tracing and settings.enabled:
        from celery_realtime.tracing import Tracing

        observers.append(Tracing(settings.channel, kind_of_broker(settings.url or "")))
    return Several(observers) if observers else Nothing()


def _new_keeper(realtime: _Parts, results: StoredResults) -> Keeper:
    from celery_realtime.sending.keeper import Keeper

    settings = realtime.settings
    return Keeper(
        realtime.manager,
        settings.lost_after,
        find_ends=lambda jobs: ends_of_lost(jobs, results, settings, LOST_LOOKUP_TIMEOUT),
        find_begun=HeldMessages(realtime.app).begun,
    )


class _WebSide:
    """What belongs to the web servers of a Realtime.

    Args:
        realtime: The Realtime.
    """

    def __init__(self, realtime: _Parts) -> None:
        self._realtime = realtime
        self.access = AccessOrders(realtime.manager)
        self.marks = WatchMarks(realtime.manager)
        #: What serves clients in this process: handlers and client managers.
        self.serving: weakref.WeakSet[Any] = weakref.WeakSet()
        #: The client managers of ours among them.
        self.managers: weakref.WeakSet[Any] = weakref.WeakSet()
        #: The Flask app that serves this, if ``init_app`` was given one.
        self.flask_app: Any = None

    def in_app_context(self, settings: Settings) -> Settings:
        """Return settings whose functions are called in a context of the Flask app, should there be one by then."""
        functions = {"event_filter": settings.event_filter, "project_resolver": settings.project_resolver}
        wrapped = {
            name: within_app_context(function, lambda: self.flask_app)
            for name, function in functions.items()
            if function is not None
        }
        return msgspec.structs.replace(settings, **wrapped) if wrapped else settings

    @property
    def parts(self) -> list[Any]:
        """What runs here, if anything is served."""
        return [*self.serving, self.access, self.marks] if self.serving else []

    @property
    def history_loops(self) -> list[BackgroundLoop]:
        """The loops that read or write the history."""
        return [self.access.loop, self.marks.loop, *loops_of(*(manager.catch_up for manager in self.managers))]

    def client_manager(self, write_only: bool) -> RealtimeKombuManager:
        """Return a new client manager for a synchronous server, or one that only publishes."""
        if write_only:
            from celery_realtime.channel.kombu_manager import RealtimeKombuManager

            return RealtimeKombuManager(**self._manager_options())
        from celery_realtime.web.client_manager import RealtimeClientManager

        return RealtimeClientManager(**self._manager_options(), **self._server_options())

    def async_client_manager(self) -> AsyncRealtimeClientManager:
        """Return a new client manager for an asyncio server."""
        from celery_realtime.web.client_manager import AsyncRealtimeClientManager

        return AsyncRealtimeClientManager(**self._manager_options(), **self._server_options())

    def _manager_options(self) -> dict[str, Any]:
        settings = self._realtime.settings
        return {
            "url": settings.url,
            "channel": settings.channel,
            "connection_options": settings.connection_options,
            "stock": settings.wire == "stock",
            "namespace": settings.namespace,
            "shards": settings.shards,
        }

    def _server_options(self) -> dict[str, Any]:
        settings, history = self._realtime.settings, self._realtime.manager.history
        return {
            "max_backlog": settings.max_backlog,
            "max_backlog_bytes": settings.max_backlog_bytes,
            "audience_filter": EventFilter.for_audiences(settings),
            "read": None if history is None else self._read,
            "positions": None if history is None else history.positions,
            "streams": None if history is None else self._streams(),
            "stages": self._realtime.observers.stages,
        }

    def attach(self, server: Any, handlers: type[SocketIOEventHandlers] | None, rules: Rules) -> SocketIOEventHandlers:
        """Register handlers on a server; see :meth:`Realtime.init_socketio`."""
        from celery_realtime.web.attach import attach, client_manager_of, is_ours
        from celery_realtime.web.handlers import Sources
        from celery_realtime.web.job_requests import JobRequests

        realtime, manager = self._realtime, self._realtime.manager
        jobs = JobRequests(realtime.app, lambda: manager.history, lambda: realtime.settings)
        has_history = manager.history is not None
        read, read_on = (self._read, self._read_on) if has_history else (None, None)
        streams, prepare = (self._streams(), realtime.prepare_rerun) if has_history else (None, None)
        sources = Sources(read, jobs, self.access.revocations, read_on, streams, prepare)
        attached = attach(server, realtime.settings, handlers=handlers, rules=rules, sources=sources)
        manager.attach(attached.server)
        self.access.add(attached)
        self.marks.add(client_manager_of(attached.server).watched)
        self.serving.update((attached, attached.server.manager))
        if is_ours(attached.server.manager):
            self.managers.add(attached.server.manager)
        if has_history:
            attached.on_first_client(self._start)
        return attached

    def http_app(self, app: Any, server: Any, prefix: str | None) -> Any:
        """Return an application that answers plain HTTP; see :meth:`Realtime.http_app`."""
        from celery_realtime.web.http_mounts import PREFIX, application

        return application(self.serving, server, app, PREFIX if prefix is None else prefix)

    def _start(self) -> None:
        self._realtime.keeper.start()
        self.access.start()
        self.marks.start()

    def _streams(self) -> StreamSource:
        from celery_realtime.web.stream_source import StreamSource

        return StreamSource(self._history, self.access.catch_up)

    def _history(self) -> History:
        history = self._realtime.manager.history
        assert history is not None
        return history

    def _read(self, project_id: str, *position: Any) -> Any:
        """Read a project, and then carry out the orders that were not heard: what was read may be newer than these."""
        snapshot = self._history().read(project_id, *position)
        self.access.catch_up()
        return snapshot

    def _read_on(self, project_id: str, page: str | tuple[str, ...]) -> Any:
        """Read further jobs of a project, or some by their ids, as :meth:`_read` does."""
        history = self._history()
        snapshot = history.read_on(project_id, page) if isinstance(page, str) else history.read_some(project_id, page)
        self.access.catch_up()
        return snapshot


def current_realtime() -> Realtime:
    """Return the Realtime of the current Celery app, or the only one of this process.

    Raises:
        ImproperlyConfigured: There is none.
    """
    realtime: Realtime | None = getattr(celery.current_app, "realtime", None)
    only: list[Realtime] = list(instances)
    if realtime is None and len(only) == 1:
        return only[0]
    if realtime is None:
        raise ImproperlyConfigured(
            f"the current Celery app {celery.current_app.main!r} has no Realtime: write Realtime(app) beside it"
        )
    return realtime


def get_progress_tracker(job_id: str | None) -> ProgressTracker:
    """Return the progress tracker of a job of the current Celery app.

    Args:
        job_id: Its id; None, as ``self.request.id`` is in a plain call, for a tracker that only checks its arguments.

    Raises:
        ImproperlyConfigured: The current app has no :class:`Realtime`.
        TypeError: It is not a job id.
    """
    return silent_tracker() if job_id is None else current_realtime().progress_tracker(job_id)


def get_socketio_manager() -> SocketIOManager:
    """Return the manager of the current Celery app.

    Raises:
        ImproperlyConfigured: The current app has no :class:`Realtime`.
    """
    return current_realtime().manager
