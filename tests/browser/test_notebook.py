"""The widgets of a real kernel, whose messages are carried to a real page, with a worker and a web server behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser import element_jobs
from tests.browser.element_pages import served, start
from tests.browser.notebook_host import Kernel, Notebook, started_kernel
from tests.launcher import Brokers, Launcher
from tests.processes import WebServer
from tests.services import Broker
from tests.waiting import wait_for

PROJECTS = itertools.count()


@pytest.fixture(scope="module")
def broker(brokers: Brokers) -> Broker:
    return brokers.make("redis")


@pytest.fixture(scope="module")
def web(module_launcher: Launcher, broker: Broker) -> Iterator[WebServer]:
    with served(module_launcher, broker) as web:
        yield web


@pytest.fixture(scope="module")
def kernel(web: WebServer, broker: Broker) -> Iterator[Kernel]:
    with started_kernel({**os.environ, **broker.env}) as kernel:
        kernel.run(
            "import asyncio, threading\n"
            "from celery_realtime.contrib.notebook import JobsWidget, JobWidget\n"
            "from tests.browser.element_jobs import realtime\n"
            "asyncio.get_running_loop()\n"
            "before = {one.name for one in threading.enumerate()}"
        )
        yield kernel


@pytest.fixture
def notebook(new_page: Callable[..., Page], kernel: Kernel) -> Callable[..., Notebook]:
    """Open the notebook once more: that of the kernel of this module, or of another one."""
    notebooks: list[Notebook] = []
    return lambda of=kernel: Notebook(new_page(), notebooks, of)


#: What prints the threads that there were not before, but for that with which pyzmq sends large messages.
THREADS = (
    "print([one.name for one in threading.enumerate() if one.name not in before and 'zmq' not in type(one).__module__])"
)

#: Names and statuses of rows.
ROWS = """[...document.querySelectorAll("celery-project, celery-job")].flatMap((one) =>
  [...one.shadowRoot.querySelectorAll(".job")].filter((row) => !row.hidden).map((row) =>
    [".name", ".status"].map((part) => row.querySelector(part).textContent)))"""


def names(notebook: Notebook) -> list[tuple[str, str]]:
    """Return what rows say: names and statuses."""
    return [(name, status) for name, status in notebook.page.evaluate(ROWS)]


def test_the_jobs_of_a_project_are_shown_wherever_the_notebook_is_open(
    notebook: Callable[..., Notebook], kernel: Kernel, web: WebServer, tmp_path: Path
) -> None:
    project, path = f"n{next(PROJECTS)}", tmp_path / "go"
    start(element_jobs.work, project, "apple", str(path))
    options = f"url={web.url!r}, realtime=realtime, user='ada', cancellable=True"  # whom a rule allows to stop jobs
    widget = kernel.show(f"jobs = JobsWidget({project!r}, {options}); jobs")
    first = notebook()
    first.open(widget)
    first.wait_to_see(lambda: names(first) == [("apple", "running")])

    first.show(widget)
    second = notebook()
    second.open(widget)
    second.wait_to_see(lambda: names(second) == [("apple", "running")])
    first.wait_to_see(lambda: names(first) == [("apple", "running")] * 2)

    start(element_jobs.endless, project)
    first.wait_to_see(lambda: ("endless", "running") in names(first) and ("endless", "running") in names(second))
    path.touch()
    first.wait_to_see(lambda: ("apple", "done") in names(first) and ("apple", "done") in names(second))
    assert kernel.run("print(sorted(job['status'] for job in jobs.jobs.values()))") == "['running', 'success']\n"

    second.page.locator("celery-project").get_by_role("button", name="Stop endless").click()
    second.wait_to_see(lambda: ("endless", "stopped") in names(first) and ("endless", "stopped") in names(second))

    kernel.run("jobs.close()")
    first.wait_to_see(lambda: widget in kernel.closed)
    first.wait_to_see(lambda: kernel.run(THREADS) == "[]\n")


def test_one_job_is_shown_with_what_it_says_and_updates_are_all_that_travels(
    notebook: Callable[..., Notebook], kernel: Kernel, web: WebServer, tmp_path: Path
) -> None:
    project, path = f"n{next(PROJECTS)}", tmp_path / "go"
    job_id = start(element_jobs.transcribe, project, "monday.wav", str(path))
    widget = kernel.show(f"job = JobWidget({job_id!r}, {project!r}, url={web.url!r}, realtime=realtime); job")
    page = notebook()
    page.open(widget)
    job = page.page.locator("celery-job")
    page.wait_to_see(lambda: job.locator(".stream.text").all_text_contents() == ["Good morning"])
    assert job.locator(".stop").is_hidden()
    carried = len(page.carried)
    path.touch()
    page.wait_to_see(lambda: job.locator(".stream.text").all_text_contents() == ["Good morning, <i>everybody</i>."])
    page.wait_to_see(lambda: names(page) == [("Transcribe monday.wav", "done")])
    kinds = {item[0] for content in page.carried[carried:] for item in content["items"]}
    assert kinds == {"event"}
    assert kernel.run("print(job.job['status'])") == "success\n"
    kernel.send(widget, {"kind": "ask", "session": "x", "number": 1, "event": "cancel_job", "data": {"job_id": job_id}})
    kernel.send(widget, {"kind": "ask", "session": "x", "number": 2, "event": "shut_down", "data": {}})
    kernel.send(widget, ["nonsense"])
    page.wait_to_see(lambda: len(page.answers("x")) == 2)
    assert [answer["error"]["code"] for answer in page.answers("x")] == ["forbidden", "forbidden"]
    kernel.run("job.close()")


def test_what_cannot_be_shown_is_said_in_the_cell(kernel: Kernel, web: WebServer) -> None:
    def fails(code: str) -> str:
        return kernel.run(f"try:\n    {code}\nexcept Exception as error:\n    print(type(error).__name__, error)")

    assert fails(f"JobsWidget('p', url={web.url!r}, token='no')").startswith("SubscribeError the token")
    assert "http://127.0.0.1:9" in fails("JobsWidget('p', url='http://127.0.0.1:9', token='no')")
    assert "colour is no option of a widget; there are theme, lang" in fails("JobsWidget('p', colour='red')")
    assert "either token or realtime" in fails("JobsWidget('p', token='a', realtime=realtime)")
    assert fails("JobsWidget('')").startswith("ValueError")
    wait_for(lambda: kernel.run(THREADS) == "[]\n")


@pytest.mark.long  # the same connection as in the first test, lost
def test_a_lost_connection_is_shown_and_made_again_while_a_cell_runs(
    notebook: Callable[..., Notebook], kernel: Kernel, web: WebServer, tmp_path: Path
) -> None:
    project, path = f"n{next(PROJECTS)}", tmp_path / "go"
    start(element_jobs.work, project, "apple", str(path))
    widget = kernel.show(f"jobs = JobsWidget({project!r}, url={web.url!r}, realtime=realtime); jobs")
    page = notebook()
    page.open(widget)
    page.wait_to_see(lambda: names(page) == [("apple", "running")])
    web.kill()
    state = page.page.locator("celery-project").locator(".state")
    page.wait_to_see(state.text_content)
    path.touch()
    web.start()
    page.wait_to_see(lambda: names(page) == [("apple", "done")] and not state.text_content())
    start(element_jobs.work, project, "pear", str(tmp_path / "never"))
    page.wait_to_see(lambda: ("pear", "running") in names(page))
    end = tmp_path / "end"
    busy = kernel.client.execute(f"import os, time\nwhile not os.path.exists({str(end)!r}):\n    time.sleep(0.1)")
    start(element_jobs.work, project, "plum", str(path))
    page.wait_to_see(lambda: ("plum", "done") in names(page))
    assert not kernel.has_ended(busy)
    end.touch()
    page.wait_to_see(lambda: kernel.has_ended(busy))
    kernel.run("jobs.close()")


@pytest.mark.long  # some twenty seconds
def test_a_kernel_that_is_gone_leaves_what_was_known_and_says_so(
    notebook: Callable[..., Notebook], web: WebServer, broker: Broker, tmp_path: Path
) -> None:
    project = f"n{next(PROJECTS)}"
    start(element_jobs.work, project, "apple", str(tmp_path / "never"))
    with started_kernel({**os.environ, **broker.env}) as kernel:
        kernel.run("from celery_realtime.contrib.notebook import JobsWidget")
        kernel.run("from tests.browser.element_jobs import realtime")
        widget = kernel.show(f"jobs = JobsWidget({project!r}, url={web.url!r}, realtime=realtime); jobs")
        page = notebook(kernel)
        page.open(widget)
        page.wait_to_see(lambda: names(page) == [("apple", "running")])
    state = page.page.locator("celery-project").locator(".state")
    wait_for(lambda: page.page.wait_for_timeout(50) or state.text_content())
    assert names(page) == [("apple", "running")]
