"""What users see in Firefox and in WebKit, as in Chromium: ``make browsers`` runs all of it, and more in Firefox."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, Playwright

from tests.browser import element_jobs
from tests.browser.element_pages import served, start
from tests.browser.test_plain_http import documented
from tests.browsers import opened_by
from tests.launcher import Brokers, Launcher
from tests.npm_package import Consumer, pack
from tests.processes import WebServer
from tests.proxy import Proxy
from tests.webkit import opened_webkit

PROJECTS = itertools.count()
#: Chromium is seen in the other files; of the others `make test` has one test each, if they are installed.
NAMES = [pytest.param("chromium", marks=pytest.mark.long), "firefox", "webkit"]
SET_UP = """async ({projects, shared}) => {
  const {subscribeProject, subscribeJob, keepToken} = await import("/celery-realtime/index.js");
  const {watchConnection} = await import("/celery-realtime/celery-realtime-connection.js");
  const {shareSocket} = await import("/celery-realtime/celery-realtime-shared.js");
  const {token} = await (await fetch(`/token?projects=${projects.join("%20")}`)).json();
  const opened = [];
  const open = () => {
    opened.push(io({auth: {token}, transports: ["websocket"], reconnectionDelay: 50, reconnectionDelayMax: 200}));
    return opened.at(-1);
  };
  const socket = shared ? shareSocket(open, {name: shared}) : open();
  globalThis.my = {subscribeProject, subscribeJob, watchConnection, socket, opened, heard: [], restored: []};
  addEventListener("pageshow", ({persisted}) => my.restored.push(persisted));
}"""
FOLLOW = """({project, ...options}) => { my.project = my.subscribeProject(my.socket, project, {
  onStatus: ({job_id, status, offset}) => my.heard.push([job_id, status, offset]), ...options,
}); }"""
STYLE = """() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("celery-job::part(status) { color: rgb(1, 2, 3) }");
  document.adoptedStyleSheets = [sheet];
}"""
ENDED = "(id) => my.project.state === 'subscribed' && my.project.jobs.get(id)?.status === 'success'"


class Tab(Protocol):
    """A page of a browser."""

    def goto(self, url: str) -> Any: ...

    def go_back(self) -> None: ...

    def evaluate(self, expression: str, argument: Any = None) -> Any: ...

    def until(self, condition: str, argument: Any = None) -> None: ...


class PlaywrightTab:
    """A page of Chromium or Firefox."""

    def __init__(self, page: Page) -> None:
        self.goto, self.evaluate = page.goto, page.evaluate
        self._page = page
        page.set_default_timeout(60_000)

    def go_back(self) -> None:
        self._page.evaluate("() => { setTimeout(() => history.back()); }")

    def until(self, condition: str, argument: Any = None) -> None:
        self._page.wait_for_function(condition, arg=argument, timeout=60_000)


Open = Callable[[], Tab]


@contextmanager
def tabs_of(name: str, folder: Path, playwright: Callable[[], Playwright]) -> Iterator[Open]:
    """Open a browser, and give what opens its tabs: all are of one user."""
    if name == "webkit":
        with opened_webkit(folder) as session:
            yield session.open
        return
    with opened_by(playwright(), name, keeps_pages=True) as browser:
        context = browser.new_context()
        yield lambda: PlaywrightTab(context.new_page())


@pytest.fixture(params=NAMES)
def open_tab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    with tabs_of(request.param, tmp_path, lambda: request.getfixturevalue("playwright")) as open_tab:
        yield open_tab


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def web(module_launcher: Launcher, brokers: Brokers, built: Path) -> Iterator[WebServer]:
    with served(module_launcher, brokers.make("redis"), BUILT_PAGES=str(built)) as web:
        yield web


@pytest.fixture
def project() -> str:
    return f"other{next(PROJECTS)}"


def visit(tab: Tab, url: str, *projects: str, shared: str = "") -> Tab:
    tab.goto(f"{url}/page")
    tab.evaluate(SET_UP, {"projects": projects, "shared": shared})
    return tab


def follow(tab: Tab, project: str, **options: Any) -> None:
    tab.evaluate(FOLLOW, {"project": project, **options})


def test_jobs_are_live_and_in_order_and_caught_up_with_after_a_restart(
    open_tab: Open, web: WebServer, project: str, tmp_path: Path
) -> None:
    tab, path = visit(open_tab(), web.url, project), tmp_path / "go"
    follow(tab, project)
    tab.until("() => my.project.state === 'subscribed'")
    first = start(element_jobs.work, project, "first")
    tab.until(ENDED, first)
    second = start(element_jobs.work, project, "second", str(path))
    tab.until("(id) => my.project.jobs.get(id)?.progress === 50", second)
    web.stop()
    tab.until("() => my.project.state === 'stale'")
    path.touch()
    third = start(element_jobs.work, project, "third")
    web.start()
    for job in (second, third):
        tab.until(ENDED, job)
    heard = tab.evaluate("my.heard")
    assert [offset for *_, offset in heard] == sorted({offset for *_, offset in heard})
    for job in (first, second, third):
        assert [status for heard_of, status, _ in heard if heard_of == job] == ["queued", "running", "success"]


@pytest.mark.long
def test_elements_show_jobs_with_the_styles_of_their_page(
    open_tab: Open, web: WebServer, project: str, tmp_path: Path
) -> None:
    tab, path = open_tab(), tmp_path / "go"
    job = start(element_jobs.transcribe, project, "monday.wav", str(path))
    source = f'src token-url="/token?projects={project}"'
    one = f'<celery-job job-id="{job}" project="{project}" {source}></celery-job>'
    all_of_it = f'<celery-project project="{project}" {source}></celery-project>'
    tab.goto(f"{web.url}/page?{urlencode({'body': one + all_of_it})}")
    shadow = "document.querySelector('celery-job').shadowRoot"
    tab.until(f"() => {shadow}?.querySelector('.stream.text')?.textContent === 'Good morning'")
    bar = f"{shadow}.querySelector('[role=progressbar]')"
    assert tab.evaluate(f"{bar}.getAttribute('aria-valuetext')") == "62%, transcribe, running"
    tab.evaluate(STYLE)
    assert tab.evaluate(f"getComputedStyle({shadow}.querySelector('[part~=status]')).color") == "rgb(1, 2, 3)"
    path.touch()
    tab.until(f"() => {shadow}.querySelector('.status').textContent === 'done'")
    rows = "document.querySelector('celery-project').shadowRoot.querySelectorAll('.job.success').length"
    tab.until(f"() => {rows} === 1")


def returned(tab: Tab) -> bool:
    """Go back to a page of English; tell whether the browser has kept it, and not loaded it anew."""
    tab.go_back()
    tab.until("() => document.documentElement.lang === 'en' && document.readyState === 'complete'")
    kept = bool(tab.evaluate("Boolean(globalThis.my)"))
    print("kept" if kept else "loaded anew")  # noqa: T201  (what pytest -rP shows)
    return kept


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"pauseOnHidden": True}, {"watched": True}])
def test_a_page_that_was_left_and_is_returned_to_is_live_again(
    open_tab: Open, web: WebServer, project: str, tmp_path: Path, options: dict[str, bool]
) -> None:
    tab, path = visit(open_tab(), web.url, project), tmp_path / "go"
    follow(tab, project, **options)
    if "watched" in options:
        tab.evaluate("() => { my.watch = my.watchConnection(my.socket, {probeTimeout: 1000}); }")
    job = start(element_jobs.work, project, "first", str(path))
    tab.until("(id) => my.project.jobs.get(id)?.progress === 50", job)
    tab.goto(f"{web.url}/page?lang=de")
    path.touch()
    kept = returned(tab)
    if not kept:  # a browser may load the page anew, as some do where a socket was open
        tab.evaluate(SET_UP, {"projects": [project], "shared": ""})
        follow(tab, project)
    tab.until(ENDED, job)
    second = start(element_jobs.work, project, "second")
    tab.until(ENDED, second)
    heard = tab.evaluate("my.heard")
    assert [status for heard_of, status, _ in heard if heard_of == second] == ["queued", "running", "success"]
    if kept:
        assert tab.evaluate("my.restored") == [True]
        assert heard == sorted(heard, key=lambda one: one[2])


@pytest.mark.long
def test_a_hidden_tab_pauses_and_goes_on(open_tab: Open, web: WebServer, project: str, tmp_path: Path) -> None:
    tab, path = visit(open_tab(), web.url, project), tmp_path / "go"
    follow(tab, project, pauseOnHidden=True)
    job = start(element_jobs.work, project, "first", str(path))
    show = """(state) => {
      Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
      document.dispatchEvent(new Event("visibilitychange", {bubbles: true}));
    }"""
    tab.evaluate(show, "visible")  # a tab of WebKit that is opened behind another one is hidden
    tab.until("(id) => my.project.jobs.get(id)?.progress === 50", job)
    tab.evaluate(show, "hidden")
    assert tab.evaluate("my.project.state") == "paused"
    path.touch()
    other = start(element_jobs.work, project, "second")
    tab.evaluate(show, "visible")
    for one in (job, other):
        tab.until(ENDED, one)
    heard = tab.evaluate("my.heard")
    assert [status for heard_of, status, _ in heard if heard_of == job][-1] == "success"
    assert [status for heard_of, status, _ in heard if heard_of == other] == ["queued", "running", "success"]


@pytest.mark.long
def test_a_connection_that_died_in_sleep_is_replaced(open_tab: Open, web: WebServer, project: str) -> None:
    with Proxy(web.url) as proxy:
        tab = visit(open_tab(), proxy.url, project)
        tab.evaluate("() => { my.watch = my.watchConnection(my.socket, {probeTimeout: 200}); }")
        follow(tab, project)
        tab.until("() => my.project.state === 'subscribed'")
        first = tab.evaluate("my.socket.id")
        proxy.stall(new=False)
        tab.evaluate("() => { const now = Date.now; Date.now = () => now() + 600000; }")
        tab.until("(first) => my.socket.connected && my.socket.id !== first", first)
        tab.until(ENDED, start(element_jobs.work, project, "after"))


@pytest.mark.long
def test_tabs_share_a_connection_which_another_one_takes_over(open_tab: Open, web: WebServer, project: str) -> None:
    first, second = (visit(open_tab(), web.url, project, shared=project) for _ in range(2))
    for tab in (first, second):
        follow(tab, project)
        tab.until("() => my.project.state === 'subscribed'")
    assert first.evaluate("my.socket.id") == second.evaluate("my.socket.id")
    job = start(element_jobs.work, project, "first")
    for tab in (first, second):
        tab.until(ENDED, job)
    first.goto(f"{web.url}/page?lang=de")
    second.until(ENDED, start(element_jobs.work, project, "second"))
    heard = [status for _, status, _ in second.evaluate("my.heard")]
    assert heard == ["queued", "running", "success"] * 2
    # The one that had the connection comes back as it was, and finds that another one has it now.
    if returned(first):
        third = start(element_jobs.work, project, "third")
        for tab in (first, second):
            tab.until(ENDED, third)
            heard = [status for heard_of, status, _ in tab.evaluate("my.heard") if heard_of == third]
            assert heard == ["queued", "running", "success"]
        live = [tab.evaluate("my.opened.filter(({connected}) => connected).length") for tab in (first, second)]
        assert sorted(live) == [0, 1]


@pytest.mark.long
def test_an_event_source_goes_on_after_a_restart(open_tab: Open, web: WebServer, project: str) -> None:
    tab, manager = open_tab(), element_jobs.realtime.manager
    tab.goto(f"{web.url}/page")
    recipe = documented("js").replace('"/token"', f'"/token?projects={project}"')
    names = "['agent_snapshot', 'step']"
    follows = "globalThis.heard = []; follow(project, (...one) => heard.push(one), " + names + ")"
    tab.evaluate(f"(project) => {{ {recipe}; {follows}; }}", project)
    tab.until("() => heard.length === 1")
    steps = "heard.filter(([name]) => name === 'step').map(([, {number}]) => number)"
    manager.emit_to_project(project, "step", {"number": 1})
    assert element_jobs.realtime.flush(60)
    tab.until(f"() => {steps}.length === 1")
    web.stop()
    manager.emit_to_project(project, "step", {"number": 2})
    assert element_jobs.realtime.flush(60)
    web.start()
    manager.emit_to_project(project, "step", {"number": 3})
    tab.until(f"() => {steps}.length === 3")
    assert tab.evaluate(steps) == [1, 2, 3]
    assert tab.evaluate("heard.filter(([name]) => name === 'agent_snapshot').length") == 1


@pytest.fixture(scope="module")
def react(tmp_path_factory: pytest.TempPathFactory, built: Path) -> None:
    """Build the page of React, for the web server."""
    folder = tmp_path_factory.mktemp("react")
    shutil.copytree(Consumer(folder / "site", pack(folder)).build(PAGES="react"), built, dirs_exist_ok=True)


@pytest.mark.long
@pytest.mark.usefixtures("react")
def test_hooks_of_react_show_jobs_and_what_they_say(
    open_tab: Open, web: WebServer, project: str, tmp_path: Path
) -> None:
    tab, path = open_tab(), tmp_path / "go"
    query = {"project": project, "other": project, "token": element_jobs.realtime.issue_token("ada", [project])}
    tab.goto(f"{web.url}/app/react/index.html?{urlencode(query)}")
    tab.until("() => document.getElementById('jobs')?.dataset.status === 'subscribed'")
    job = start(element_jobs.transcribe, project, "monday.wav", str(path))
    shown = f"document.querySelector('#jobs li[data-job=\"{job}\"]')?.dataset.status"
    tab.until(f"() => {shown} === 'running'")
    path.touch()
    tab.until(f"() => {shown} === 'success'")
    assert tab.evaluate("document.getElementById('count').textContent") == "1"
    assert tab.evaluate("sent.filter(([event]) => event === 'subscribe_project').length") == 1
