"""Subscriptions without a framework, in a real browser: when they leave, and whose jobs they follow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import element_jobs
from tests.browser.element_pages import Sockets, served, start
from tests.browser.test_connection import hide
from tests.launcher import Brokers, Launcher
from tests.processes import WebServer

PROJECTS = itertools.count()
SET_UP = """async ({projects, module, shared}) => {
  const {subscribeProject} = await import(`/celery-realtime/${module}.js`);
  const {subscribeJob} = await import("/celery-realtime/celery-realtime-streams.js");
  const {shareSocket} = await import("/celery-realtime/celery-realtime-shared.js");
  const {token} = await (await fetch(`/token?projects=${projects.join("%20")}`)).json();
  const open = () => io({transports: ["websocket"], auth: {token}});
  globalThis.my = {subscribeProject, subscribeJob, socket: shared ? shareSocket(open, {name: shared}) : open()};
}"""


@pytest.fixture(scope="module")
def web(module_launcher: Launcher, brokers: Brokers) -> Iterator[WebServer]:
    with served(module_launcher, brokers.make("redis")) as web:
        yield web


def new_project() -> str:
    return f"plain{next(PROJECTS)}"


def visit(page: Page, web: WebServer, projects: list[str], *, module: str = "index", shared: str = "") -> Page:
    page.goto(f"{web.url}/page")
    page.evaluate(SET_UP, {"projects": projects, "module": module, "shared": shared})
    return page


def until(page: Page, condition: str, argument: Any = None) -> None:
    page.wait_for_function(condition, arg=argument, timeout=60_000)


@pytest.mark.parametrize("module", ["index", "celery-realtime"])
def test_a_project_is_followed_while_it_is_wanted_and_seen_and_goes_on(
    page: Page, web: WebServer, module: str, tmp_path: Path
) -> None:
    sockets, project, path = Sockets(page), new_project(), tmp_path / "go"
    job = start(element_jobs.work, project, "first", str(path))
    visit(page, web, [project], module=module)
    page.evaluate(
        """(id) => { my.project = my.subscribeProject(my.socket, id, {
          enabled: false, pauseOnHidden: true, closeOnEnd: true, onChange: ({state}) => my.states.push(state),
        }); my.states = []; }""",
        project,
    )
    until(page, "() => my.project.state === 'idle' && my.socket.connected")
    assert not sockets.requests("subscribe_project")
    page.evaluate("my.project.update({enabled: true})")
    until(page, "(job) => my.project.jobs.get(job)?.progress === 50", job)

    hide(page, "hidden")
    until(page, "() => my.project.state === 'paused'")
    sockets.wait_until(lambda: sockets.requests("unsubscribe_project"))
    path.touch()
    other = start(element_jobs.work, project, "second", str(tmp_path / "then"))
    assert page.evaluate("(job) => my.project.jobs.get(job).status", job) == "running"
    hide(page, "visible")
    until(page, "(id) => my.project.jobs.get(id)?.status === 'success'", job)
    until(page, "(id) => my.project.jobs.has(id)", other)
    assert page.evaluate("my.project.state") == "subscribed"

    (tmp_path / "then").touch()
    until(page, "() => my.project.state === 'closed'")
    assert page.evaluate("[...my.project.jobs.values()].map(({status}) => status)") == ["success", "success"]
    sockets.wait_until(lambda: len(sockets.requests("unsubscribe_project")) == 2)
    page.evaluate("my.project.update({closeOnEnd: false})")
    until(page, "() => my.project.state === 'subscribed'")
    assert len(sockets.requests("subscribe_project")) == 3


def test_a_job_is_left_when_it_has_ended_with_its_streams(page: Page, web: WebServer, tmp_path: Path) -> None:
    sockets, project, path = Sockets(page), new_project(), tmp_path / "go"
    job = start(element_jobs.transcribe, project, "monday.wav", str(path))
    visit(page, web, [project])
    page.evaluate("(id) => { my.job = my.subscribeJob(my.socket, id, {closeOnEnd: true, pauseOnHidden: true}); }", job)
    until(page, "() => my.job.streams.get('answer')?.value === 'Good morning'")
    hide(page, "hidden")
    until(page, "() => my.job.state === 'paused'")
    path.touch()
    hide(page, "visible")
    until(page, "() => my.job.state === 'closed'")
    assert page.evaluate("my.job.streams.get('answer').value") == "Good morning, <i>everybody</i>."
    sockets.wait_until(lambda: len(sockets.requests("unsubscribe_job")) == 2)


class Twins:
    """Two jobs of one id, in two projects: each runs until it is let go."""

    def __init__(self, folder: Path) -> None:
        self.projects = [new_project(), new_project()]
        self.id = f"same-{self.projects[0]}"
        self._paths = [folder / project for project in self.projects]
        for project, path in zip(self.projects, self._paths, strict=True):
            headers = {"project_id": project}
            element_jobs.work.apply_async((project, str(path)), task_id=self.id, headers=headers)

    def end(self, place: int) -> None:
        self._paths[place].touch()


FOLLOW_BOTH = """({id, projects}) => {
  my.jobs = projects.map((projectId) => my.subscribeJob(my.socket, id, {projectId}));
}"""
RESULTS = "() => my.jobs.map(({job}) => job?.result ?? job?.progress ?? null)"


def wait_for_results(page: Page, expected: list[Any]) -> None:
    until(page, f"(expected) => JSON.stringify(({RESULTS})()) === JSON.stringify(expected)", expected)


def test_jobs_of_one_id_in_two_projects_are_two(page: Page, web: WebServer, tmp_path: Path) -> None:
    sockets, twins = Sockets(page), Twins(tmp_path)
    visit(page, web, twins.projects)
    page.evaluate(FOLLOW_BOTH, {"id": twins.id, "projects": twins.projects})
    wait_for_results(page, [50, 50])
    page.evaluate("my.jobs[0].close()")
    sockets.wait_until(lambda: sockets.requests("unsubscribe_job"))
    twins.end(0)
    twins.end(1)
    wait_for_results(page, [50, twins.projects[1]])
    page.evaluate(FOLLOW_BOTH, {"id": twins.id, "projects": twins.projects})
    wait_for_results(page, twins.projects)


def test_tabs_that_share_a_connection_leave_the_job_of_one_project_alone(
    new_page: Callable[..., Page], web: WebServer, tmp_path: Path
) -> None:
    first, twins = new_page(), Twins(tmp_path)
    second = first.context.new_page()
    for page in (first, second):
        visit(page, web, twins.projects, shared=twins.id)
        page.evaluate(FOLLOW_BOTH, {"id": twins.id, "projects": twins.projects})
        wait_for_results(page, [50, 50])
    # The first project is left by the last of its tabs, the second one by a tab that nothing else wants of it.
    for page, place in ((first, 0), (second, 0), (second, 1)):
        left = "(place) => new Promise((left) => my.socket.emit('unsubscribe_job', my.jobs[place]._request(), left))"
        assert page.evaluate(left, place) == {"ok": True}
    twins.end(0)
    twins.end(1)
    wait_for_results(first, [50, twins.projects[1]])
    wait_for_results(second, [50, twins.projects[1]])  # it hears what the other tab is sent
