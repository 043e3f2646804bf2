"""Follow a project from Python: every event once and in order, over a client of python-socketio.

The rules are those of the browser's client, ``static/celery-realtime.js``; both are held to the same scenarios.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import (
    BATCH_EVENT,
    HIDDEN_EVENT,
    MARK,
    PROGRESS_EVENT,
    RANK_OF_STATUS,
    RESYNC_EVENT,
    STATUS_EVENT,
    TERMINAL_RANK,
    WORKFLOW_EVENT,
)

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

ACK_TIMEOUT = 5.0
GAP_TIMEOUT = 0.25
CHECK_INTERVAL = 30.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
MAX_WAITING = 2000
MAX_STRANGE = 100

#: Seconds between two looks at whether the client is still about to reconnect; two in a row that say no count.
LOOK_INTERVAL = 1.0

#: Refusals that may be over in a moment.
PASSING = ("unavailable", "too_many_requests")

#: Not the module's own generator: what a program seeds must give it the same numbers.
_jitter = random.Random()

_OURS = (STATUS_EVENT, PROGRESS_EVENT, WORKFLOW_EVENT)
_PROGRESS = ("progress", "message", "current", "total")

Payload = Mapping[str, Any]
OnEvent = Callable[[str, Any], Any]
OnChange = Callable[["Feed", str], Any]


class Item(NamedTuple):
    """An event, and where in its history it is."""

    event: str
    data: Any
    epoch: Any
    offset: Any


class Wire(Protocol):
    """How a feed asks its server."""

    def ask(self, number: int, request: dict[str, Any]) -> None:
        """Send a request for a subscription; :meth:`Feed.answered` is told of the answer, by the request's number."""


class Feed:
    """What is known of a project, and what has to be done to know more. Does no input or output, and is not locked.

    Args:
        project_id: The project.
        wire: Asks the server.
        on_event: ``(name, data)``, for each event, in order.
        on_change: ``(feed, reason)``; ``snapshot`` when what was known has been replaced, else ``jobs``,
            ``workflows`` or ``state``.
        since: Where to begin, of a :class:`~celery_realtime.handle.JobHandle`.
        batch: Whether events come as lists.
        max_jobs: Beyond so many, jobs and workflows that are over are forgotten, the oldest first.
        clock: Returns the time in seconds.

    Attributes:
        state: ``subscribing``, ``subscribed``, ``stale`` or ``refused``.
        error: What the server refused with, as ``{"code", "message"}``.
        jobs: The latest state of each job, by its id.
        workflows: The latest state of each workflow, by the id of its first job.
        epoch: Of the history; None without one.
        offset: Up to where everything has been told; None without a history.
    """

    def __init__(
        self,
        project_id: str,
        wire: Wire,
        on_event: OnEvent,
        on_change: OnChange = lambda _feed, _reason: None,
        *,
        since: Payload | None = None,
        batch: bool = False,
        max_jobs: int = 2000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.project_id = project_id
        self.state = "subscribing"
        self.error: dict[str, str] | None = None
        self.epoch: str | None = since["epoch"] if since else None
        self.offset: int | None = since["offset"] if since else None
        self._jobs: dict[str, Payload] = {}
        self._workflows: dict[str, Payload] = {}
        self.jobs: Mapping[str, Payload] = MappingProxyType(self._jobs)
        self.workflows: Mapping[str, Payload] = MappingProxyType(self._workflows)
        self._wire = wire
        self._on_event = on_event
        self._on_change = on_change
        self._batch = batch
        self._max_jobs = max_jobs
        self._clock = clock
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        #: Events above a hole, by their offset.
        self._waiting: dict[int, Item] = {}
        #: Events that the next answer says what to do with.
        self._early: list[Item] = []
        #: Epochs that have been asked about, or are over.
        self._strange: BoundedDict[str | None, bool] = BoundedDict(MAX_STRANGE)
        self._asked = 0
        self._again = False
        self._connected = False
        self._began = False
        self._closed = False
        self._heard_at = 0.0
        self._reset()

    def _reset(self) -> None:
        #: The number of the request that is under way.
        self._asking: int | None = None
        #: There has been an answer on this connection, and all is well.
        self._live = False
        self._pause = 0.0
        self._timers.clear()

    # -- the connection -----------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Note that the client has connected."""
        self._connected = True
        self._ask()

    def disconnected(self) -> None:
        """Note that the client has lost its connection."""
        self._connected = False
        self._reset()
        if self.state != "refused":
            self._set_state("stale", self.error)

    def close(self) -> None:
        """Tell nothing any more."""
        self._closed = True
        self._reset()

    # -- time ---------------------------------------------------------------------------------------------------

    @property
    def wakes_at(self) -> float | None:
        """When :meth:`wake` has to be called, by ``clock``; None for not at all."""
        return min((at for at, _ in self._timers.values()), default=None)

    def wake(self) -> None:
        """Do what is due."""
        clock = self._clock()
        for name in [name for name, (at, _) in self._timers.items() if at <= clock]:
            timer = self._timers.pop(name, None)
            if timer is not None:
                timer[1]()

    def _after(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        self._timers[name] = (self._clock() + seconds, act)

    def _check(self) -> None:
        """Ask whether something was missed: a last event that was lost leaves no hole to see."""
        if not self._live or self._asking:
            return
        if self._clock() - self._heard_at > CHECK_INTERVAL / 2:
            self._ask()
        else:
            self._after("check", CHECK_INTERVAL * _jitter.uniform(0.75, 1.25), self._check)

    # -- asking -------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._closed or not self._connected:
            return
        self._timers.clear()
        self._asked += 1
        self._asking = number = self._asked
        self._again = False
        since = {} if self.epoch is None else {"since": {"epoch": self.epoch, "offset": self.offset}}
        self._after("ack", ACK_TIMEOUT, lambda: self.answered(number, None))
        self._wire.ask(number, {"project_id": self.project_id, **since, **({"batch": True} if self._batch else {})})

    def _ask_again(self) -> None:
        """Ask; one that is not subscribed asks anyway, or there is no use in it."""
        if self._asking:
            self._again = True
        elif self._live:
            self._ask()

    def answered(self, number: int, answer: Any) -> None:
        """Take the answer to a request; None if none came."""
        if number != self._asking:
            return
        self._asking = None
        if not _is_answer(answer):
            self._refused(answer.get("error") if isinstance(answer, dict) and not answer.get("ok") else None)
            return
        self._timers.clear()
        self._live = True
        self._pause = 0.0
        self._heard_at = self._clock()
        self._take(answer)
        if not self._live:
            return  # a callback has ended it
        self._set_state("subscribed", None)
        self._check()
        self._wait_for_hole()
        if self._again:
            self._ask_again()

    def refused(self, error: dict[str, str]) -> None:
        """Note that the server has refused the connection, or the subscription, with a code."""
        self._refused(error)

    def _refused(self, told: Any) -> None:
        error: dict[str, str] | None = told if isinstance(told, dict) else None
        passing = error is None or error.get("code") in PASSING
        self._live = False
        self._timers.clear()
        self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
        if passing:
            self._after("retry", self._pause * _jitter.uniform(0.5, 1.0), self._ask)
        self._set_state("stale" if passing else "refused", error)

    # -- what is told -------------------------------------------------------------------------------------------

    def _take(self, answer: dict[str, Any]) -> None:
        epoch, offset, events = answer.get("epoch"), answer.get("offset"), answer["events"]
        if answer.get("recovered") and offset is not None and epoch == self.epoch:
            for place, missed in enumerate(events, offset - len(events) + 1):
                self._place(Item(missed["event"], missed.get("data"), epoch, place))
            if not self._began:
                self._load(answer)  # the events began with a handle, which knew no jobs
        elif not self._began or epoch != self.epoch or (offset or 0) > (self.offset or 0):
            self._early += self._waiting.values()
            self._waiting.clear()
            self._strange[self.epoch] = True
            self.epoch, self.offset = epoch, offset
            self._load(answer)
        early, self._early = self._early, []
        for item in early:
            self._sort(item)

    def _load(self, answer: dict[str, Any]) -> None:
        self._began = True
        self._jobs.clear()
        self._jobs.update(_by_id(answer.get("jobs"), "job_id"))
        self._workflows.clear()
        self._workflows.update(_by_id(answer.get("workflows"), "root_id"))
        self._call(self._on_change, self, "snapshot")

    def heard(self, name: str, data: Any) -> None:
        """Take an event of the client's, whosever it is."""
        if name != BATCH_EVENT:
            self._heard({"event": name, "data": data}, {})
        elif isinstance(data, list):
            for item in data:
                if isinstance(item, dict) and isinstance(item.get("event"), str):
                    self._heard(item, item)

    def _heard(self, told: dict[str, Any], beside: dict[str, Any]) -> None:
        name, data = told["event"], told.get("data")
        fields = data if isinstance(data, dict) else {}
        mark = fields if name in (*_OURS, RESYNC_EVENT, HIDDEN_EVENT) else fields.get(MARK) or beside
        if not isinstance(mark, dict) or mark.get("project_id") != self.project_id or mark.get("replayed"):
            return
        if name == RESYNC_EVENT:
            self._ask_again()
        else:
            self._sort(Item(name, data, *_place_in(mark)))

    def _sort(self, item: Item) -> None:
        numbered = isinstance(item.offset, int)
        foreign = numbered and item.epoch != self.epoch
        if not foreign:
            self._heard_at = self._clock()
        if not self._began or (foreign and self._asking):
            self._early.append(item)
            del self._early[:-MAX_WAITING]
        elif numbered and not foreign:
            self._place(item)
        else:
            if foreign and not self._strange.get(item.epoch):
                self._ask_again()
            if foreign:
                self._strange[item.epoch] = True
            if not numbered or self.epoch is None:
                self._deliver(item, numbered=False)

    def _place(self, item: Item) -> None:
        if item.offset <= (self.offset or 0):
            return
        self._waiting[item.offset] = item
        while self.offset is not None and self.offset + 1 in self._waiting:
            self.offset += 1
            self._timers.pop("gap", None)  # the next hole has its own time
            self._deliver(self._waiting.pop(self.offset))
        self._wait_for_hole()

    def _wait_for_hole(self) -> None:
        if len(self._waiting) > MAX_WAITING:
            self._waiting.clear()
            self._ask_again()
        elif self._waiting and self._live and not self._asking and "gap" not in self._timers:
            self._after("gap", GAP_TIMEOUT, self._ask)

    # -- what it means ------------------------------------------------------------------------------------------

    def _deliver(self, item: Item, *, numbered: bool = True) -> None:
        name, data = item.event, item.data
        if name == HIDDEN_EVENT:
            return
        if name not in _OURS:
            self._call(self._on_event, name, data)
            return
        entries, key = (self._workflows, "root_id") if name == WORKFLOW_EVENT else (self._jobs, "job_id")
        told_of = data.get(key) if isinstance(data, dict) else None
        if not isinstance(told_of, str):
            return
        before = entries.get(told_of)
        if not numbered and before is not None and _is_old(before, name, data):
            return
        entries[told_of] = _merge(before, name, _without_place(data))
        self._forget_beyond(entries, told_of)
        self._call(self._on_event, name, data)
        self._call(self._on_change, self, "workflows" if name == WORKFLOW_EVENT else "jobs")

    def _forget_beyond(self, entries: dict[str, Payload], but: str) -> None:
        if len(entries) > self._max_jobs:
            over = next((key for key, one in entries.items() if key != but and _is_over(one)), None)
            if over is not None:
                del entries[over]

    def _set_state(self, state: str, error: dict[str, str] | None) -> None:
        if (state, error) != (self.state, self.error):
            self.state, self.error = state, error
            self._call(self._on_change, self, "state")

    def _call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call the user; a mistake of theirs must not cost them an event."""
        if not self._closed:
            try:
                callback(*args)
            except Exception:
                logger.exception("a callback of project %s failed", self.project_id)


def _is_answer(answer: Any) -> bool:
    """Tell whether an answer lets in, and says all that is needed to go on."""
    if not isinstance(answer, dict) or not answer.get("ok"):
        return False
    epoch, offset, events = answer.get("epoch"), answer.get("offset"), answer.get("events")
    if not isinstance(events, list) or not (epoch is offset is None or _place_in(answer) == (epoch, offset)):
        return False
    return all(isinstance(missed, dict) and isinstance(missed.get("event"), str) for missed in events)


def _place_in(told: Payload) -> tuple[str, int] | tuple[None, None]:
    """Return the epoch and the offset that something has; None for both if either is something else."""
    epoch, offset = told.get("epoch"), told.get("offset")
    if not isinstance(epoch, str) or not isinstance(offset, int) or isinstance(offset, bool):
        return None, None
    return epoch, offset


def _by_id(told: Any, key: str) -> dict[str, Payload]:
    """Return the entries of a list by their ids; an entry without one is left out."""
    entries = told if isinstance(told, list) else []
    return {one[key]: one for one in entries if isinstance(one, dict) and isinstance(one.get(key), str)}


def _number(entry: Payload, name: str) -> int | float:
    """Return a number of an entry; 0 where a filter, or another version, has left it out."""
    value = entry.get(name)
    return value if isinstance(value, (int, float)) else 0


def _rank(entry: Payload) -> int:
    return RANK_OF_STATUS.get(str(entry.get("status")), 0)


def _merge(before: Payload | None, name: str, told: dict[str, Any]) -> dict[str, Any]:
    if name == WORKFLOW_EVENT:
        return {field: value for field, value in told.items() if field not in ("event", "timestamp")}
    return _with_status(before, told) if name == STATUS_EVENT else _with_progress(before, told)


def _is_over(entry: Payload) -> bool:
    if "status" in entry:
        return _rank(entry) == TERMINAL_RANK
    return _number(entry, "queued") == _number(entry, "running") == 0


def _without_place(data: Payload) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in ("epoch", "offset")}


def _is_old(job: Payload, name: str, data: Payload) -> bool:
    """Tell, without offsets, whether more is known of a job than an event tells."""
    if name == WORKFLOW_EVENT:
        return False
    if _number(data, "attempt") != _number(job, "attempt"):
        return _number(data, "attempt") < _number(job, "attempt")
    if name == PROGRESS_EVENT:
        return _rank(job) == TERMINAL_RANK or _number(data, "progress") < _number(job, "progress")
    if job.get("state") == "LOST" and data.get("state") != "LOST":
        return bool(data.get("status") == "queued")
    climbs = _rank(data) - _rank(job)
    return climbs < 0 or (climbs == 0 and (data.get("status") != "running" or data.get("worker") == job.get("worker")))


def _with_status(job: Payload | None, status: dict[str, Any]) -> dict[str, Any]:
    same = job is not None and _number(job, "attempt") == _number(status, "attempt")
    reached = {name: job.get(name) if job is not None and same else None for name in _PROGRESS}
    stalled = status.get("status") == "running" and job is not None and same and bool(job.get("stalled"))
    return {**status, **reached, "stalled": stalled}


def _with_progress(job: Payload | None, update: dict[str, Any]) -> dict[str, Any]:
    if job is None or _number(job, "attempt") != _number(update, "attempt"):
        blank = {"event": "status_change", "status": "running", "state": "STARTED", "result": None, "error": None}
        job = {**(job or {}), **update, **blank}
    reached = {name: update.get(name) for name in _PROGRESS}
    return {**job, **reached, "stalled": job.get("status") == "running" and bool(update.get("stalled"))}


class ProjectSubscription:
    """Follow a project over a :class:`socketio.Client`, now and after each reconnection.

    Callbacks are called in the client's threads, one at a time.

    Args:
        client: The client, connected or not.
        project_id: The project.
        on_event: ``(name, data)``, for each event, in order, each once.
        on_change: ``(feed, reason)``, when what is known of the project has changed; see :class:`Feed`.
        namespace: The Socket.IO namespace.
        **options: ``since``, ``batch`` and ``max_jobs``; see :class:`Feed`.

    Attributes:
        feed: What is known: ``state``, ``jobs``, ``workflows``, ``epoch``, ``offset``, ``error``.
    """

    def __init__(
        self,
        client: Any,
        project_id: object,
        on_event: OnEvent = lambda _name, _data: None,
        on_change: OnChange = lambda _feed, _reason: None,
        *,
        namespace: str = "/",
        **options: Any,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._lock = threading.RLock()
        self._turn = threading.Condition(self._lock)
        self._closed = False
        self.feed = Feed(str(project_id), self, on_event, on_change, **options)
        self._hub = _hub(client, namespace)
        self._hub.add(self)
        client.start_background_task(self._keep_time)
        if namespace in client.namespaces:
            self.connected()

    def ask(self, number: int, request: dict[str, Any]) -> None:
        """Send a request; part of :class:`Wire`."""
        try:
            self._client.emit(
                "subscribe_project",
                request,
                self._namespace,
                callback=lambda answer=None: self._answered(number, answer),
            )
        except Exception as error:  # the connection ended a moment ago; the next one asks again
            logger.debug("not asked: %r", error)

    def _answered(self, number: int, answer: Any) -> None:
        with self._turn:
            self.feed.answered(number, answer)
            self._turn.notify()

    def connected(self) -> None:
        """Note that the client has connected."""
        with self._turn:
            self.feed.connected()
            self._turn.notify()

    def disconnected(self) -> None:
        """Note that the client has lost its connection."""
        with self._turn:
            self.feed.disconnected()

    def heard(self, name: str, data: Any) -> None:
        """Take an event of the client's."""
        with self._turn:
            self.feed.heard(name, data)
            self._turn.notify()

    def _keep_time(self) -> None:
        while True:
            self._hub.mend(self._client)
            with self._turn:
                if self._closed:
                    return
                self.feed.wake()
                self._turn.wait(_pause(self.feed.wakes_at, time.monotonic()))

    def wait_for(self, condition: Callable[[Feed], Any], timeout: float = 30.0) -> bool:
        """Wait until a condition holds for the feed; returns whether it does.

        Args:
            condition: Gets the feed.
            timeout: Longest wait, in seconds.
        """
        deadline = time.monotonic() + timeout
        with self._turn:
            while not condition(self.feed):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._turn.notify()
                self._turn.wait(min(left, 0.05))
        return True

    def close(self) -> None:
        """Leave the project, and call no callback any more."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self.feed.close()
            self._turn.notify_all()
        last = self._hub.remove(self)
        if last and self._namespace in self._client.namespaces:
            self._client.emit("unsubscribe_project", {"project_id": self.feed.project_id}, self._namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncProjectSubscription:
    """Follow a project over a :class:`socketio.AsyncClient`; made inside its event loop.

    Takes the arguments of :class:`ProjectSubscription`, and has its ``feed``. Callbacks are plain functions.
    """

    def __init__(
        self,
        client: Any,
        project_id: object,
        on_event: OnEvent = lambda _name, _data: None,
        on_change: OnChange = lambda _feed, _reason: None,
        *,
        namespace: str = "/",
        **options: Any,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.feed = Feed(str(project_id), self, on_event, on_change, clock=self._loop.time, **options)
        self._hub = _hub(client, namespace)
        self._hub.add(self)
        self._set_timer()
        if namespace in client.namespaces:
            self.connected()

    def ask(self, number: int, request: dict[str, Any]) -> None:
        """Send a request; part of :class:`Wire`."""
        self._start(self._ask(number, request))

    async def _ask(self, number: int, request: dict[str, Any]) -> None:
        def answered(answer: Any = None) -> None:
            self.feed.answered(number, answer)
            self._set_timer()

        try:
            await self._client.emit("subscribe_project", request, self._namespace, callback=answered)
        except Exception as error:  # the connection ended a moment ago; the next one asks again
            logger.debug("not asked: %r", error)

    def _start(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connected(self) -> None:
        """Note that the client has connected."""
        self.feed.connected()
        self._set_timer()

    def disconnected(self) -> None:
        """Note that the client has lost its connection."""
        self.feed.disconnected()
        self._set_timer()

    def heard(self, name: str, data: Any) -> None:
        """Take an event of the client's."""
        self.feed.heard(name, data)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = self._loop.call_later(_pause(self.feed.wakes_at, self._loop.time()), self._wake)

    def _wake(self) -> None:
        self._hub.mend(self._client)
        self.feed.wake()
        self._set_timer()

    async def close(self) -> None:
        """Leave the project, and call no callback any more."""
        if self._closed:
            return
        self._closed = True
        self.feed.close()
        self._set_timer()
        last = self._hub.remove(self)
        if last and self._namespace in self._client.namespaces:
            await self._client.emit("unsubscribe_project", {"project_id": self.feed.project_id}, self._namespace)


def _pause(wakes_at: float | None, clock: float) -> float:
    return LOOK_INTERVAL if wakes_at is None else min(max(0.0, wakes_at - clock), LOOK_INTERVAL)


class _Hub:
    """Hands on what one namespace of a client hears; handlers that the user has registered go on as they did."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._namespace = namespace
        self._subscriptions: list[Any] = []
        #: It has been connected, and neither side has said that this is over.
        self._lasts = namespace in client.namespaces
        self._idle_since: float | None = None
        wrap = self._observed_async if asyncio.iscoroutinefunction(client._trigger_event) else self._observed
        client._trigger_event = wrap(client._trigger_event)

    def _observed(self, trigger: Callable[..., Any]) -> Callable[..., Any]:
        def observed(event: str, namespace: str | None = None, *args: Any) -> Any:
            outcome = trigger(event, namespace, *args)
            self._tell(event, namespace, args)
            return outcome

        return observed

    def _observed_async(self, trigger: Callable[..., Any]) -> Callable[..., Any]:
        async def observed(event: str, namespace: str | None = None, *args: Any) -> Any:
            outcome = await trigger(event, namespace, *args)
            self._tell(event, namespace, args)
            return outcome

        return observed

    def _tell(self, event: str, namespace: str | None, args: tuple[Any, ...]) -> None:
        if (namespace or "/") != self._namespace:
            return
        if event in ("connect", "__disconnect_final"):
            self._lasts = event == "connect"
        for subscription in list(self._subscriptions):
            if event in ("connect", "disconnect"):
                getattr(subscription, f"{event}ed")()
            else:
                subscription.heard(event, args[0] if len(args) == 1 else list(args) or None)

    def mend(self, client: Any) -> None:
        """Have a client reconnect that has forgotten to.

        One of python-socketio's stays away for ever when its new connection ends before the task that made it has.
        """
        with _mending:
            if not self._lasts or not client.reconnection or _is_at_it(client):
                self._idle_since = None
                return
            clock = time.monotonic()
            self._idle_since = self._idle_since or clock
            if clock - self._idle_since < LOOK_INTERVAL:
                return
            self._idle_since = None
            logger.info("the client is not connected, and does not reconnect; it is made to")
            client.connected, client.namespaces = False, {}
            for subscription in list(self._subscriptions):
                subscription.disconnected()
            client._reconnect_task = client.start_background_task(client._handle_reconnect)

    def add(self, subscription: Any) -> None:
        self._subscriptions.append(subscription)

    def remove(self, subscription: Any) -> bool:
        """Forget a subscription; returns whether it was the last one of its project."""
        self._subscriptions.remove(subscription)
        project_id = subscription.feed.project_id
        return all(other.feed.project_id != project_id for other in self._subscriptions)


#: A client has as many hubs as namespaces, and is to be made to reconnect once.
_mending = threading.Lock()


def _is_at_it(client: Any) -> bool:
    """Tell whether a client is connected, or about to be."""
    if client.eio.state != "disconnected":
        return True
    task = client._reconnect_task
    if isinstance(task, asyncio.Future):
        return not task.done()
    return task is not None and getattr(task, "is_alive", lambda: True)()


_hubs: weakref.WeakKeyDictionary[Any, dict[str, _Hub]] = weakref.WeakKeyDictionary()


def _hub(client: Any, namespace: str) -> _Hub:
    hubs = _hubs.setdefault(client, {})
    if namespace not in hubs:
        hubs[namespace] = _Hub(client, namespace)
    return hubs[namespace]
