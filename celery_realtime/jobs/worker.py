"""Check a worker's settings, load before it forks what its children need, hold leases, and flush at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps, signals

from celery_realtime.crowd import turnstile
from celery_realtime.environments import plain_address
from celery_realtime.events import Cancellation, Job, job_name
from celery_realtime.jobs.broker_watch import BrokerWatch
from celery_realtime.jobs.cancelling import CancelOrders, cancel_request, register_command
from celery_realtime.jobs.health_file import HealthFile
from celery_realtime.jobs.held_jobs import HeldJobs
from celery_realtime.jobs.held_messages import HeldMessages
from celery_realtime.jobs.incarnation import Incarnation
from celery_realtime.jobs.measuring import register_measuring
from celery_realtime.jobs.redis_broker import RedisBroker
from celery_realtime.jobs.reporting import register_report
from celery_realtime.jobs.seams import WorkerRequests, come_first, has_children, runs_greenlets
from celery_realtime.loops import BackgroundLoop
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.settings import Settings

if TYPE_CHECKING:
    from celery_realtime.history.leases import HeldJob, Leases
    from celery_realtime.jobs.departures import Departures
    from celery_realtime.jobs.reconciler import Reconciler
    from celery_realtime.sending.green_lease import GreenLease
    from celery_realtime.sending.keeper import Keeper


#: Longest wait, in seconds, for the last look at what has left a worker that is cut off.
CUT_OFF_TIMEOUT = 1.0


class WorkerSupport:
    """What a worker of an app does for its jobs, beside running them.

    Args:
        settings: Returns the settings.
        manager: Where events go.
        incarnation: Of the worker that this process is, or becomes.
        received: Returns the job of a request that this worker has received.
        project_of: Returns the project of a job, given its request, or None.
        keeper: Returns what renews the leases of this process.
        departures: Knows which jobs come and go.
        reconciler: Sees to it that each job that leaves has its end on record.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        manager: SocketIOManager,
        *,
        incarnation: Incarnation,
        received: Callable[[Any], Job],
        project_of: Callable[[Any], str | None],
        keeper: Callable[[], Keeper],
        departures: Departures,
        reconciler: Reconciler,
    ) -> None:
        self._settings = settings
        self._manager = manager
        self._incarnation = incarnation
        self._held_jobs = HeldJobs(received, reconciler.unsent)
        self.project_of = project_of
        self._keeper = keeper
        self._reconciler = reconciler
        departures.on_change(self._note_soon)
        departures.drop_if(self._is_cancelled)
        self._end_observers: list[Callable[[], None]] = []
        self._green_lease: GreenLease | None = None
        self._cancel_orders: CancelOrders | None = None
        self._broker_watch: BrokerWatch | None = None
        self._held_messages: HeldMessages | None = None
        self._health_file: HealthFile | None = None

    @property
    def loops(self) -> list[BackgroundLoop]:
        """Its background loops, for health checks."""
        parts = (self._green_lease, self._cancel_orders, self._broker_watch, self._health_file)
        return [part.loop for part in parts if part is not None]

    @property
    def history_loops(self) -> list[BackgroundLoop]:
        """Those of them that read or write the history."""
        return [part.loop for part in (self._green_lease, self._cancel_orders) if part is not None]

    def install(self, app: Celery) -> None:
        """Have it done in each worker of an app."""
        app.steps["worker"].update((WorkerStep, WorkerEnd))
        # A prefork child ends by os._exit, so only its own signal reaches it; a cold shutdown skips worker_shutdown.
        for signal in (signals.worker_process_shutdown, signals.worker_shutting_down, signals.worker_shutdown):
            signal.connect(self._on_end, dispatch_uid=f"celery_realtime.{id(self)}.{signal.name}")
        child_begins = signals.worker_process_init
        child_begins.connect(self._on_child, dispatch_uid=f"celery_realtime.{id(self)}.{child_begins.name}")

    def on_end(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` when a worker of this process, or this child of its pool, has sent its last."""
        self._end_observers.append(observer)

    def prepare(self) -> None:
        """Do what has to be done before the pool forks its children.

        Raises:
            ImproperlyConfigured: A setting is mistaken; the worker does not start then.
        """
        register_report()
        register_measuring()
        if not self._settings().enabled:
            return
        self._manager.preload()
        register_command()
        turnstile.install()
        self._manager.spools.begin()
        self._incarnation.begin()  # before the pool forks, so that its children belong to it

    def start(self, worker: Any) -> None:
        """Look after the jobs of the worker that this process is the main process of.

        Args:
            worker: The worker (``celery.worker.WorkController``).
        """
        if self._settings().enabled:
            self._start_loops(worker)
        self._start_health_file(worker)

    def _start_loops(self, worker: Any) -> None:
        self._reconciler.start()
        if self._manager.history is not None:
            self._held_messages = HeldMessages(worker.app)
            self._keeper().hold(self._incarnation.id, self.held_jobs)
            if runs_greenlets(worker):
                self._start_green_lease(self._manager.history.leases)
            self._start_cancel_orders(worker)
            self._start_broker_watch(worker.app)

    def _start_health_file(self, worker: Any) -> None:
        path = self._settings().health_file
        if path is not None:
            self._health_file = HealthFile(path, worker.hostname, worker.app.realtime.health)
            self._health_file.start()

    def _start_cancel_orders(self, worker: Any) -> None:
        cancellations = worker.app.realtime.running_jobs.cancellations
        self._cancel_orders = CancelOrders(
            lambda: self._manager.history,
            lambda request: cancel_request(WorkerRequests(worker), request, cancellations, self._target_of(request)),
            self.project_of,
        )
        self._cancel_orders.start()

    def _start_broker_watch(self, app: Celery) -> None:
        if not RedisBroker.is_used_by(app):  # RabbitMQ keeps its durable queues
            return
        settings = self._settings()
        self._broker_watch = BrokerWatch(
            app, self._manager, settings.channel, pause=settings.lost_after / 6, patience=settings.lost_after
        )
        self._broker_watch.start()

    def _target_of(self, request: Any) -> str:
        return job_name(request.id, self.project_of(request))

    def note_cancelled(self, target: str, cancellation: Cancellation) -> None:
        """Drop a job that waits here, or is received later, in the runs that are cancelled."""
        if self._cancel_orders is not None:
            self._cancel_orders.note(target, cancellation)

    def _is_cancelled(self, request: Any) -> bool:
        return self._cancel_orders is not None and self._cancel_orders.concerns(request)

    def _start_green_lease(self, leases: Leases) -> None:
        from celery_realtime.history.lease_helper import Renewal
        from celery_realtime.sending.green_lease import GreenLease

        settings = self._settings()
        assert settings.history_address is not None
        address = plain_address(settings.history_address)
        what = leases.renewal(self._incarnation.id)
        self._green_lease = GreenLease(Renewal(address, *what, pause=settings.lost_after / 6))
        self._green_lease.start()

    def _stop_loops(self) -> None:
        lease, self._green_lease = self._green_lease, None
        orders, self._cancel_orders = self._cancel_orders, None
        watch, self._broker_watch = self._broker_watch, None
        health_file, self._health_file = self._health_file, None
        for part in (lease, orders, watch, health_file):
            if part is not None:
                part.stop()

    def _note_soon(self) -> None:
        if self._incarnation.id and self._manager.history is not None:
            self._keeper().note_soon()

    def abandon(self) -> None:
        """Say what becomes of the worker's jobs, and give up its lease: the worker is cut off, and its jobs with it.

        If that cannot be said now, the lease lapses.
        """
        self._reconciler.finish(CUT_OFF_TIMEOUT)
        self._stop_loops()
        self._leave(is_settled=self._manager.flush(CUT_OFF_TIMEOUT))

    def _leave(self, *, is_settled: bool) -> None:
        if self._incarnation.id and self._manager.history is not None:
            if is_settled:
                self._keeper().release(self._incarnation.id, is_settled=True)
            else:
                self._keeper().abandon(self._incarnation.id)

    def held_jobs(self) -> list[HeldJob]:
        """Return the jobs that this worker has taken from the queue, and that have a project."""
        return self._held_jobs.all(self._held_messages)

    def _on_child(self, **_: Any) -> None:
        self._manager.connections.confine()

    def _on_end(self, signal: Any = None, **_: Any) -> None:
        if signal is signals.worker_shutdown:
            self._reconciler.finish(self._settings().flush_timeout)
            self._manager.spools.end()
        is_settled = self._manager.flush()
        if signal is not signals.worker_shutting_down:
            self._manager.close()
        if signal is signals.worker_shutdown and self._incarnation.id:
            self._stop_loops()
            self._leave(is_settled=is_settled)
            self._incarnation.end()
        if signal is not signals.worker_shutting_down:
            for observer in self._end_observers:
                observer()


class WorkerStep(bootsteps.StartStopStep):
    """Celery's step in the start of a worker; see :class:`WorkerSupport`.

    It starts when the pool has forked its first children: they are forked without a thread of ours.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        parent.app.realtime.worker.prepare()
        parent.app.realtime.observers.prepare()
        super().__init__(parent, **kwargs)

    def start(self, parent: Any) -> None:
        """Begin, in the worker's main process."""
        parent.app.realtime.worker.start(parent)
        parent.app.realtime.observers.start(has_children=has_children(parent))


class WorkerEnd(bootsteps.StartStopStep):
    """Celery's step in the end of a worker that is cut off; see :meth:`WorkerSupport.abandon`.

    What becomes of the jobs that run is known when the pool has ended them, and the hub has sent what Celery
    acknowledges of that. Celery 5.4 fails them then; newer ones fail what they have not given back before.
    """

    def include(self, parent: Any) -> bool:
        """Come before all other steps, and so be terminated after them."""
        come_first(parent, self)
        return True

    def terminate(self, parent: Any) -> None:
        """Abandon the lease: a cold shutdown sends no ``worker_shutdown``, and an embedded process lives on."""
        parent.app.realtime.worker.abandon()
