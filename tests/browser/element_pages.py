"""Pages with elements, and what tests see of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from celery.signals import before_task_publish
from playwright.sync_api import Locator, Page, expect

from celery_realtime import Realtime
from celery_realtime.events import Details, Job, outgoing_progress, status_change
from celery_realtime.jobs.progress import Progress, progress_update
from tests.browser import element_jobs
from tests.integration.stage import forget_connections
from tests.launcher import Launcher
from tests.processes import WebServer
from tests.services import Broker

#: Milliseconds that a busy machine may take.
LONG = 60_000

#: The browser's own measure of what keeps a page from answering: tasks of 50 ms or more.
OBSERVE = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const { duration, startTime } of list.getEntries()) longTasks.push([Math.round(startTime), duration]);
}).observe({ type: "longtask", buffered: true });
window.mostRows = 0;
"""
#: Notes what the page refuses by its policy, and each event of an element.
WATCH = """
window.violations = [];
window.told = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
for (const name of ["celery-job-end", "celery-state", "celery-cancel", "celery-rerun", "celery-answer"]) {
  document.addEventListener(name, ({ detail: { job, state }, target }) => {
    told.push([name, target.localName, job?.job_id ?? state]);
  });
}
"""


class Sockets:
    """The WebSockets that a page opens, and what it sends over them."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.opened: list[Any] = []
        self.sent: list[str] = []
        page.on("websocket", self._note)

    def _note(self, socket: Any) -> None:
        self.opened.append(socket)
        socket.on("framesent", lambda payload: self.sent.append(str(payload)))

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is true of what was opened and sent."""
        self._page.wait_for_timeout(0)
        for _ in range(LONG // 20):
            if condition():
                return
            self._page.wait_for_timeout(20)
        raise AssertionError(f"sent: {self.sent[-20:]}")

    def requests(self, name: str) -> list[str]:
        """Return what was sent of one kind of request."""
        return [frame for frame in self.sent if f'"{name}"' in frame]


class ElementPage:
    """A page of the web server for elements.

    Args:
        page: Playwright's.
        web: The server.
        project: Which project its elements show, and its user may see.
    """

    def __init__(self, page: Page, web: WebServer, project: str) -> None:
        self.page = page
        self.project = project
        self.sockets = Sockets(page)
        self._web = web
        page.add_init_script(WATCH)

    def source(self, user: str = "ada", projects: str = "") -> str:
        """Return the attributes that say where an element gets its socket."""
        return f'src token-url="/token?user={user}&projects={quote(projects or self.project)}"'

    def open(self, body: str, **more: str) -> Page:
        query = "&".join(f"{name}={quote(value)}" for name, value in {"body": body, **more}.items())
        self.page.goto(f"{self._web.url}/page?{query}")
        return self.page

    def open_project(self, attributes: str = "", **more: str) -> Locator:
        """Open a page with a ``<celery-project>``, and wait until that is live."""
        self.open(f'<celery-project project="{self.project}" {self.source()} {attributes}></celery-project>', **more)
        self.wait_until_live("celery-project")
        return self.page.locator("celery-project")

    def open_job(self, job_id: str, attributes: str = "", **more: str) -> Locator:
        """Open a page with a ``<celery-job>``."""
        place = f'job-id="{job_id}" project="{self.project}" {self.source()}'
        self.open(f"<celery-job {place} {attributes}></celery-job>", **more)
        return self.page.locator("celery-job")

    def wait_until_live(self, name: str) -> None:
        self.page.wait_for_function(
            "(name) => told.some((one) => one.join() === `celery-state,${name},subscribed`)", arg=name
        )

    def told(self, name: str) -> list[Any]:
        """Return what events of one name were about."""
        return [about for event, _, about in self.page.evaluate("told") if event == name]


def longest_tasks(trace: bytes) -> list[float]:
    """Return how long the tasks of the page had the processor, in milliseconds, the longest first."""
    events = json.loads(trace)["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in events
        if event["name"].endswith("RunTask") and "tdur" in event and (event["pid"], event["tid"]) in threads
    ]
    return sorted(tasks, reverse=True)


def rows(element: Locator, status: str = "") -> Locator:
    """Return the rows that are on the page, of a status or of any."""
    return element.locator(f".job{status and f'.{status}'}")


def row(element: Locator, name: str) -> Locator:
    return element.locator(".job", has=element.page.get_by_role("button", name=name, exact=True))


def texts_of(locator: Locator) -> list[str]:
    return locator.evaluate_all("all => all.map(one => one.textContent)")


class Reporter:
    """Reports jobs to a project, without a worker."""

    def __init__(self, realtime: Realtime, project: str) -> None:
        self._realtime = realtime
        self.project = project

    def report(
        self, job_id: str, state: str, *, root_id: str | None = None, label: str | None = None, **more: Any
    ) -> None:
        job = Job(
            job_id=job_id,
            project_id=self.project,
            task="crowd.work",
            root_id=root_id or job_id,
            details=Details(label=label),
        )
        self._realtime.manager.put_status(status_change(job, state, **more))

    def report_progress(self, job_id: str, percent: float, message: str) -> None:
        job = Job(job_id=job_id, project_id=self.project, task="crowd.work", root_id=job_id)
        self._realtime.manager.put(outgoing_progress(progress_update(job, Progress(percent, message))))

    def report_many(self, numbers: range, state: str) -> None:
        for number in numbers:
            self.report(f"job-{number:05d}", state)
            if number % 500 == 499:  # the queue is bounded
                self.flush()
        self.flush()

    def flush(self) -> None:
        assert self._realtime.flush(60)


def start(task: Any, project: str, *args: Any, **kwargs: Any) -> str:
    """Start a job in a project, and return its id."""
    with element_jobs.realtime.project(project):
        job = str(task.delay(*args, **kwargs).id)
    assert element_jobs.realtime.flush(60)  # a page that names no project is refused a job that is not on record yet
    return job


#: Ids of jobs that this test has published.
_published: list[str] = []


@before_task_publish.connect(weak=False)
def _note(sender: str, headers: dict[str, Any], **_: Any) -> None:
    if sender.startswith(element_jobs.__name__):
        _published.append(headers["id"])


def stop_what_runs() -> None:
    """Stop the jobs of this test that have not ended: they have places in the worker that the next tests need."""
    left = [one for one in _published if not element_jobs.celery.AsyncResult(one).ready()]
    _published.clear()
    if left:
        element_jobs.celery.control.revoke(left, terminate=True)


@contextmanager
def publishing_over(broker: Broker) -> Iterator[None]:
    """Let this process publish the tasks of the elements to a broker, whichever it has published to before."""
    conf = element_jobs.celery.conf
    before = conf.broker_url, conf.result_backend
    conf.broker_url, conf.result_backend = broker.url, broker.backend_url
    _begin_anew()
    try:
        yield
    finally:
        element_jobs.realtime.flush()
        conf.broker_url, conf.result_backend = before
        _begin_anew()


@contextmanager
def served(launcher: Launcher, broker: Broker, **env: str) -> Iterator[WebServer]:
    """Let a worker run the tasks of the elements, a web server show them, and this process publish them."""
    worker = launcher.worker("tests.browser.element_jobs", broker=broker, concurrency=3, wait=False)
    web = launcher.web("tests.browser.element_web", broker=broker, env=env)
    worker.wait_ready()
    with publishing_over(broker):
        yield web
    worker.stop()


def _begin_anew() -> None:
    forget_connections(element_jobs.celery)
    element_jobs.realtime.start_over()


Opens = Callable[..., ElementPage]
expect.set_options(timeout=LONG)
