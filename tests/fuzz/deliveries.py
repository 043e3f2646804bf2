"""A project, web servers and their clients in one thread: every step of every thread is taken when a test says so."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar

import socketio

from celery_realtime.history.store import Snapshot
from celery_realtime.settings import Settings
from celery_realtime.web import shared_reads
from celery_realtime.web.client_manager import RealtimeClientManager
from celery_realtime.web.client_manager import _parts as parts
from celery_realtime.web.delivery import Emit
from celery_realtime.web.handlers import NO_ACKNOWLEDGEMENT, Rules, SocketIOEventHandlers, Sources
from celery_realtime.web.subscribing import AfterAnswer

PROJECT = "p"
JOBS = ("one", "two")
_numbers = itertools.count()

Steps = Generator[None, None, None]


class Clock:
    """Stands where a module has :mod:`time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class Past:
    """The history of a project: what happened, each with its job and how the job stands."""

    def __init__(self) -> None:
        self.epoch = "e1"
        self.entries: list[dict[str, Any]] = []
        self.is_down = False

    def add(self, job: str) -> dict[str, Any]:
        """Store one more event of a job, and return it as a message has it."""
        offset = len(self.entries) + 1
        data = {"job_id": job, "project_id": PROJECT, "n": offset, "epoch": self.epoch, "offset": offset}
        self.entries.append({"event": "agent_status", "data": {**data, "status": "running", "attempt": 0}})
        return self.entries[-1]

    def lose(self) -> None:
        """Begin anew."""
        self.epoch, self.entries = f"e{int(self.epoch[1:]) + 1}", []

    def read(self, _project: str, epoch: str, offset: int, *_most: int) -> Snapshot:
        if self.is_down:
            raise ConnectionError("away")
        newest = len(self.entries)
        is_whole = epoch == self.epoch and 0 <= offset <= newest
        latest = {entry["data"]["job_id"]: entry["data"] for entry in self.entries}
        jobs = [{**job, "progress": None, "stalled": False} for job in latest.values()]
        here = {"job_id": "here", "status": "queued", "n": newest, "progress": None, "stalled": False}
        return Snapshot(self.epoch, newest, is_whole, [*jobs, here], 0, [], self.entries[offset:] if is_whole else [])

    def positions(self, projects: list[str]) -> dict[str, tuple[str, int]]:
        return {project: (self.epoch, len(self.entries)) for project in projects if self.entries}


class Reader:
    """Stands where the thread is that reads the history for a server's catch-up."""

    loop = None
    is_prompt = True

    def __init__(self, read: Callable[..., Any], positions: Callable[..., Any]) -> None:
        self._read, self._positions = read, positions
        self.after_fork()

    def after_fork(self) -> None:
        self._requests: dict[str, Any] = {}
        self._answers: deque[Any] = deque()
        self._looks: list[str] = []
        self._looked: dict[str, Any] = {}

    def request(self, missing: Any) -> None:
        if missing.project_id not in (answered.project_id for answered, _ in self._answers):
            self._requests[missing.project_id] = missing

    def look(self, projects: list[str]) -> None:
        self._looks = projects

    def answers(self) -> Iterator[Any]:
        while self._answers:
            yield self._answers.popleft()

    def positions(self) -> dict[str, Any]:
        looked, self._looked = self._looked, {}
        return looked

    def turn(self) -> Steps:
        """Read something; what was read is there in the next step."""
        for missing in list(self._requests.values())[:1]:
            try:
                answer = self._read(missing.project_id, missing.epoch, missing.offset, 0)
            except ConnectionError:
                self.is_prompt = False
                return
            self.is_prompt = True
            yield
            self._requests.pop(missing.project_id, None)
            self._answers.append((missing, answer))
        if self._looks:
            looks, self._looks = self._looks, []
            looked = self._positions(looks)
            yield
            self._looked.update(looked)

    @property
    def is_idle(self) -> bool:
        return not (self._requests or self._answers or self._looks or self._looked)


class Message:
    """A message of the channel, as kombu hands it over."""

    content_type = "text/plain"

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        events = [[entry["event"], f"project:{PROJECT}", entry["data"]] for entry in entries]
        frame = {"method": "celery_realtime", "v": 1, "namespace": "/", "host_id": "worker", "events": events}
        self.body = json.dumps(frame)


class Server(socketio.Server):  # type: ignore[misc]
    """A server that runs in the background what it is told to when a test wants it, and whose packets go to clients."""

    def __init__(self, manager: Any, site: Site) -> None:
        super().__init__(async_mode="threading", client_manager=manager)
        self.manager_initialized = True
        self._site = site

    def start_background_task(self, target: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        target(*args)

    def sleep(self, seconds: float = 0) -> None:
        pass

    def _send_eio_packet(self, eio_sid: str, packet: Any) -> None:
        client = self._site.clients.get(eio_sid)
        if client is not None and packet.data[0] == "2":
            client.hear(*json.loads(packet.data[1:]))


class Handlers(SocketIOEventHandlers):
    """Handlers whose decisions a site makes step by step."""

    @staticmethod
    def _run(decision: Any) -> Any:
        Site.began.append(decision)
        return decision

    @staticmethod
    def _share(read: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *asked: shared_reads.Reading(read(*asked), 1)


class Client:
    """One client: what it has heard, one after the other.

    Attributes:
        heard: Each a snapshot's or an event's place; a snapshot's is preceded by ``snapshot``.
    """

    def __init__(self, site: Site, *, is_plain: bool, batch: bool) -> None:
        self.site = site
        self.is_plain = is_plain
        self.batch = batch
        self.heard: list[tuple[str, str, int]] = []
        self.wants_resync = False
        self.refusals: list[Any] = []
        self.asked = self.follows = 0
        number = next(_numbers)
        self.eio_sid = f"eio-{number}"
        self.sid: str = site.manager.connect(self.eio_sid, "/")
        site.clients[self.eio_sid] = self
        self._connecting = site.begin(
            site.handlers.on_connect(self.sid, {"REMOTE_ADDR": "::1", "HTTP_COOKIE": "a"}, None)
        )
        site.run_now(self._connecting)

    def hear(self, event: str, data: Any) -> None:
        if event == "agent_batch":
            for item in data:
                self.hear(item["event"], item["data"])
        elif event == "error":
            self.refusals.append(data)
        elif event == "agent_resync":
            self.wants_resync = True
        elif event == "agent_status" and data.get("replayed"):
            if data["job_id"] == "here" and data["n"] >= 0:
                self.heard.append(("snapshot", "", data["n"]))
        elif event in ("agent_status", "agent_hidden"):
            self.heard.append(("event", data.get("epoch", ""), data.get("offset", 0)))

    def subscribe(self, **more: Any) -> None:
        self.wants_resync = False
        self.asked += 1
        self._ask("subscribe_project", {"project_id": PROJECT, "batch": self.batch, **more})

    def follow(self, job: str, *, batch: bool) -> None:
        self.follows += 1
        self._ask("subscribe_job", {"project_id": PROJECT, "job_id": job, "batch": batch})

    def leave_job(self, job: str) -> None:
        self.site.begin(self.site.handlers.on_unsubscribe_job(self.sid, {"job_id": job}))

    def _ask(self, event: str, data: dict[str, Any]) -> None:
        after = AfterAnswer()
        rest = (NO_ACKNOWLEDGEMENT, after) if self.is_plain else (after,)
        handler = getattr(self.site.handlers, f"on_{event}")

        def then(answer: Any) -> None:
            if not self.is_plain:
                self._answered(answer)
            self.site.decide(after.decide())

        self.site.begin(handler(self.sid, data, *rest), then)

    def _answered(self, answer: Any) -> None:
        if not answer["ok"]:
            self.refusals.append(answer["error"])
        elif "jobs" in answer and "job_id" not in answer:
            self.heard.append(("snapshot", answer["epoch"], answer["offset"]))

    def leave(self) -> None:
        self.site.clients.pop(self.eio_sid, None)
        self.site.handlers.on_disconnect(self.sid)
        self.site.manager.disconnect(self.sid, "/")


class Jobs:
    """Stands where what is known of single jobs is read."""

    def __init__(self, past: Past) -> None:
        self._past = past

    def state_of(self, _project: str, job: str) -> dict[str, Any] | None:
        return {"job_id": "here", "status": "queued", "n": -1, "progress": None, "stalled": False}


class Site:
    """A web server, its clients, its link to the channel, and its threads."""

    #: What the handlers have decided to do, and no thread does yet.
    began: ClassVar[list[Any]] = []

    def __init__(self, past: Past, clock: Clock) -> None:
        self.past = past
        self.clients: dict[str, Client] = {}
        self.channel: deque[Message] = deque()
        self.threads: list[Steps] = []
        manager = self.manager = RealtimeClientManager(
            "memory://",
            max_backlog=1000,
            max_backlog_bytes=10**9,
            read=past.read,
            positions=past.positions,
        )
        manager.catch_up._clock = clock.monotonic
        self.history: Reader = manager.catch_up._reader  # type: ignore[assignment]
        manager.reader.listener.generation = 1
        manager.reader.listener._listening.set()
        self.server = Server(manager, self)
        rules = Rules(authenticate=lambda _token, _environ: "ada", authorize=lambda _user, _project: True)
        self.handlers = Handlers(
            self.server, Settings(), rules=rules, sources=Sources(past.read, Jobs(past)), manager=manager
        )
        manager.on_gap(self.handlers.decide_again)
        self.listener = self._listen()
        self.reading: Any = None

    def begin(self, decision: Any, then: Callable[[Any], None] | None = None) -> Steps:
        """Begin a thread that makes a decision."""
        Site.began.remove(decision)
        thread = self._decide(decision, then)
        self.threads.append(thread)
        return thread

    def decide(self, decision: Any) -> None:
        """Begin a thread of the server's own."""
        self.threads.append(self._decide(decision, None))

    def adopt(self) -> None:
        """Take over the decisions that began in the background."""
        while Site.began:
            self.begin(Site.began[0])

    def run_now(self, thread: Steps) -> None:
        while thread in self.threads:
            self.step(self.threads.index(thread))

    @staticmethod
    def _decide(decision: Any, then: Callable[[Any], None] | None) -> Steps:
        outcome: Any = None
        error: Exception | None = None
        with contextlib.closing(decision):
            while True:
                try:
                    step = decision.send(outcome) if error is None else decision.throw(error)
                except StopIteration as end:
                    if then is not None:
                        then(end.value)
                    return
                outcome, error = None, None
                try:
                    outcome = step()
                except Exception as failed:
                    error = failed
                yield

    def close(self) -> None:
        """End all threads here: one that holds a lock can release it in no other thread of the test's process."""
        for thread in self.threads:
            thread.close()

    def step(self, number: int) -> None:
        """Let one thread go one step."""
        thread = self.threads[number]
        try:
            next(thread)
        except StopIteration:
            self.threads.remove(thread)
        self.adopt()

    def _listen(self) -> Steps:
        while True:
            message = self.channel.popleft() if self.channel else None
            items = self.manager.reader.items(message)
            for item in items:
                if not isinstance(item, Emit):
                    self.manager._orders.notify_gap(item)  # type: ignore[arg-type]
                elif any(self.manager.is_occupied(item.namespace, room) for room in item.rooms):
                    for part in parts(self.manager, item):
                        self.manager.emit_here(part)
                        yield
                self.adopt()
            yield

    def hear(self) -> None:
        """Let the listening thread go one step."""
        next(self.listener)
        self.adopt()

    def break_link(self) -> None:
        """Lose what the channel has, and listen anew."""
        self.channel.clear()
        self.manager.reader.listener.generation += 1
