"""Let ``celery realtime bench`` measure in a worker what reports cost there, and how late its events come."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from typing import TYPE_CHECKING, Any

import msgspec
from celery import Task

from celery_realtime import events
from celery_realtime.clocks import time
from celery_realtime.events import Job
from celery_realtime.jobs.job_reader import notes_of
from celery_realtime.logs import describe
from celery_realtime.loops import start_detached
from celery_realtime.rooms import normalise_project_id

if TYPE_CHECKING:
    from celery_realtime.sending.manager import SocketIOManager

logger = logging.getLogger(__name__)

#: The remote control command.
MEASURE_COMMAND = "celery_realtime_measure"

#: The custom event by which lags are measured, and that which has what a worker has measured.
PROBE_EVENT, MEASURED_EVENT = "celery_realtime_probe", "celery_realtime_measured"

#: What the task is called that reports progress to be measured. No worker knows it, and nothing of it is published.
TASK_NAME = "celery_realtime.bench"

#: Bounds of what anybody may ask a worker for.
MOST_CALLS, MOST_PROBES, SHORTEST_PAUSE = 5000, 2000, 0.01

#: The longest that one of these events may be.
LONGEST = 4096

#: Characters of an error in them, each of which may be six bytes of JSON.
LONGEST_ERROR = 400

#: Calls after which other threads, or greenlets, get their turn, and for how many seconds.
TURN, PAUSE = 100, 0.001

_one_at_a_time = threading.Lock()


class Plan(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        project_id: The project of the events; nobody else should use it.
        run: Names this measurement; its events say it.
        calls: How many reports are timed.
        probes: How many events are sent, to see how late they come.
        pause: Seconds between two of these.
    """

    project_id: str
    run: str
    calls: int = 2000
    probes: int = 200
    pause: float = 0.02

    def bounded(self) -> Plan:
        """Return the plan within what anybody may ask for.

        Raises:
            TypeError, ValueError: The project is none.
        """
        return Plan(
            normalise_project_id(self.project_id),
            self.run[:64],
            max(1, min(self.calls, MOST_CALLS)),
            max(0, min(self.probes, MOST_PROBES)),
            max(SHORTEST_PAUSE, min(self.pause, 1.0)),
        )


def send_probe(manager: SocketIOManager, plan: Plan, source: str, number: int) -> None:
    """Send an event that says when it was sent; no ``event_filter`` sees it.

    Args:
        manager: Sends it.
        plan: What is measured.
        source: Who sends it.
        number: Which one it is.
    """
    _send(manager, plan, PROBE_EVENT, {"source": source, "number": number, "sent_at": time.time()})


def _send(manager: SocketIOManager, plan: Plan, name: str, data: dict[str, Any]) -> None:
    data = {"run": plan.run, **data}
    manager.outbox.put(events.outgoing_custom(name, data, plan.project_id, None, LONGEST))


# -- what a report costs ----------------------------------------------------------------------------------------------


def time_reports(realtime: Any, plan: Plan) -> list[float]:
    """Return what each call of ``self.update_progress`` takes in this thread, in seconds.

    The task is none that any worker knows. Its reports go where those of all tasks go, at the pace of these. The last
    one leaves at once, so that nothing comes later.
    """
    task, job_id = _new_task(realtime.app), f"bench-{plan.run}-{threading.get_ident()}"
    task.push_request(id=job_id, task=TASK_NAME, project_id=plan.project_id, called_directly=False)
    notes_of(task.request).job = Job(job_id=job_id, project_id=plan.project_id, task=TASK_NAME, root_id=job_id)
    try:
        task.update_progress(0, "begins")  # which makes what the first report of a job needs
        return [_time_report(task, number, plan.calls) for number in range(plan.calls)]
    finally:
        _end(realtime, task)
        task.pop_request()


def _new_task(app: Any) -> Any:
    class Measured(Task):
        name = TASK_NAME

    Measured.bind(app)  # and not registered: no worker takes a message for it
    return Measured()


def _time_report(task: Any, number: int, count: int) -> float:
    if number % TURN == 0:
        time.sleep(PAUSE)
    began = time.monotonic()
    task.update_progress(100 * number / count, "measuring")
    return time.monotonic() - began


def _end(realtime: Any, task: Any) -> None:
    """Let the last report leave, report no more, and take back what is in the result backend."""
    jobs = realtime.running_jobs
    tracker = jobs.tracker_of(task)
    tracker.mark_complete()
    jobs.mirror.flush()
    jobs.end(tracker.job)
    with contextlib.suppress(NotImplementedError):  # a backend that keeps nothing
        realtime.app.backend.forget(task.request.id)


def summary(spans: list[float]) -> dict[str, float]:
    """Return how many spans there are, and in microseconds the median and the 99th percentile.

    Args:
        spans: In seconds; one at least.
    """
    ordered = sorted(spans)
    return {
        "calls": len(ordered),
        "p50_us": round(percentile(ordered, 50) * 1e6, 1),
        "p99_us": round(percentile(ordered, 99) * 1e6, 1),
    }


def percentile(ordered: list[float], percent: float) -> float:
    """Return the smallest of some values that so many percent of them do not exceed.

    Args:
        ordered: The values, the smallest first; one at least.
        percent: 0..100.
    """
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


# -- in a worker ------------------------------------------------------------------------------------------------------


def register_measuring() -> None:
    """Let workers take the command; Celery keeps commands for the whole process, and twice is no more than once."""
    from celery.worker.control import inspect_command

    inspect_command(name=MEASURE_COMMAND)(_measure_here)


def _measure_here(state: Any, **plan: Any) -> dict[str, Any]:
    """Begin to measure, in a thread; returns whether it does, or why not, and the time here."""
    realtime = state.app.realtime
    if not realtime.settings.enabled:
        return {"begun": False, "reason": "realtime_enabled is False there"}
    try:
        checked = msgspec.convert(plan, Plan).bounded()
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        return {"begun": False, "reason": describe(error)}
    if not _one_at_a_time.acquire(blocking=False):
        return {"begun": False, "reason": "another measurement is under way there"}
    arguments = (realtime, checked, state.hostname)
    thread = threading.Thread(target=_measure, args=arguments, name="celery-realtime-measure", daemon=True)
    try:
        start_detached(thread)
    except RuntimeError as error:  # too many threads
        _one_at_a_time.release()
        return {"begun": False, "reason": describe(error)}
    return {"begun": True, "reason": None, "time": time.time()}


def _measure(realtime: Any, plan: Plan, hostname: str) -> None:
    result: dict[str, Any] = {"source": hostname}
    try:
        result["reports"] = summary(time_reports(realtime, plan))
        for number in range(plan.probes):
            send_probe(realtime.manager, plan, hostname, number)
            time.sleep(plan.pause)
    except Exception as error:  # noqa: BLE001 - a result backend may be any; whoever asked is told
        result["error"] = describe(error)[:LONGEST_ERROR]
        logger.warning(
            "cannot measure for `celery realtime bench`, so that reports it; start it again: %s", result["error"]
        )
    finally:
        _one_at_a_time.release()
        _send(realtime.manager, plan, MEASURED_EVENT, result)
