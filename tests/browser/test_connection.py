"""Pages that sleep, are hidden, or share a connection, in a real browser, with a real worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Error, Page

from tests.launcher import Brokers, Launcher
from tests.processes import WebServer
from tests.proxy import Proxy

#: A page of the web server's own origin with nothing on it.
BLANK = "/celery-realtime/celery-realtime-token.js"

#: Log in, and keep what the page does at hand.
SET_UP = """async (options) => {
  const asked = await fetch("/login", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({user: "ada"}),
  });
  if (!asked.ok) throw new Error(await asked.text());
  const {subscribeProject} = await import("/celery-realtime/celery-realtime.js");
  const {watchConnection} = await import("/celery-realtime/celery-realtime-connection.js");
  const {shareSocket} = await import("/celery-realtime/celery-realtime-shared.js");
  const {token} = await (await fetch("/token")).json();
  const open = () => io({transports: ["websocket"], auth: {token}, reconnectionDelay: 50, reconnectionDelayMax: 200});
  const heard = [];
  globalThis.my = {open, shareSocket, watchConnection, heard, subscribe(socket) {
    my.project = subscribeProject(socket, "apollo", {
      onStatus: ({job_id, status, offset}) => heard.push([job_id, status, offset]),
    });
  }, watch(options) {
    my.socket = my.open();
    my.subscribe(my.socket);
    my.stop = my.watchConnection(my.socket, options);
  }};
}"""

START = """async () => {
  const answer = await fetch("/jobs", {
    method: "POST", headers: {"Content-Type": "application/json"},
    body: JSON.stringify({kind: "fail", project_id: "apollo"}),
  });
  return (await answer.json()).jobs[0];
}"""


@pytest.fixture(scope="module")
def web(module_launcher: Launcher, brokers: Brokers) -> Iterator[WebServer]:
    broker = brokers.make("redis")
    worker = module_launcher.worker("example_project.tasks", broker=broker, concurrency=2, wait=False)
    yield module_launcher.web("example_project.app", broker=broker)
    worker.stop()


def visit(page: Page, url: str) -> Page:
    page.goto(url + BLANK)
    page.add_script_tag(url="/static/socket.io.min.js")
    page.evaluate(SET_UP)
    return page


def until(page: Page, condition: str, argument: Any = None) -> None:
    page.wait_for_function(condition, arg=argument, timeout=60_000)


def hide(page: Page, state: str) -> None:
    """Let the page see what it does where a user goes to another tab, which browsers without a window have not."""
    page.evaluate(
        """(state) => {
          Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        state,
    )


# -- one that is dead --------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(web: WebServer) -> Iterator[Proxy]:
    with Proxy(web.url) as proxy:
        yield proxy


WAKES = {
    "resumed": lambda page: page.evaluate("document.dispatchEvent(new Event('resume'))"),
    "online": lambda page: page.evaluate("dispatchEvent(new Event('online'))"),
    "from the cache": lambda page: page.evaluate(
        "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"
    ),
    "asleep": lambda page: page.clock.fast_forward(600_000),
}


QUICK = ("resumed", "asleep")


@pytest.mark.parametrize(
    "wake", [pytest.param(wake, marks=[] if wake in QUICK else pytest.mark.long) for wake in WAKES]
)
def test_a_page_that_wakes_up_with_a_dead_connection_has_another_one(
    new_page: Callable[..., Page], proxy: Proxy, wake: str
) -> None:
    page = new_page()
    if wake == "asleep":
        page.clock.install()
    visit(page, proxy.url)
    page.evaluate("my.watch({probeTimeout: 200})")
    until(page, "() => my.project.state === 'subscribed'")
    first = page.evaluate("my.socket.id")
    proxy.stall(new=False)
    assert page.evaluate("my.socket.connected")
    WAKES[wake](page)
    until(page, "(first) => my.socket.connected && my.socket.id !== first", first)
    until(page, "() => my.project.state === 'subscribed'")
    job = page.evaluate(START)
    until(page, "(job) => my.heard.some(([id, status]) => id === job && status === 'error')", job)


def test_a_connection_that_answers_is_kept(page: Page, web: WebServer) -> None:
    page.clock.install()
    visit(page, web.url)
    page.evaluate("my.watch({probeTimeout: 5000})")
    until(page, "() => my.project.state === 'subscribed'")
    first = page.evaluate("my.socket.id")
    page.evaluate("my.answers = 0; my.socket.io.engine.on('packet', () => { my.answers += 1; })")
    page.evaluate("dispatchEvent(new Event('online'))")
    until(page, "() => my.answers > 0")
    page.clock.fast_forward(5100)
    assert page.evaluate("my.socket.connected")
    assert page.evaluate("my.socket.id") == first


def test_a_page_that_nobody_looks_at_rests_and_lacks_nothing_afterwards(page: Page, web: WebServer) -> None:
    visit(page, web.url)
    page.evaluate("my.watch({restAfter: 50})")
    until(page, "() => my.project.state === 'subscribed'")
    hide(page, "hidden")
    until(page, "() => !my.socket.connected && my.project.state === 'stale'")
    job = page.evaluate(START)
    assert page.evaluate("my.heard.length") == 0
    hide(page, "visible")
    until(page, "(job) => my.project.jobs.get(job)?.status === 'error'", job)
    assert page.evaluate("my.heard.map(([, status]) => status)")[-1] == "error"


def test_one_that_is_not_watched_any_more_does_not_rest(page: Page, web: WebServer) -> None:
    visit(page, web.url)
    page.evaluate("my.watch({restAfter: 50})")
    until(page, "() => my.socket.connected")
    hide(page, "hidden")
    until(page, "() => !my.socket.connected")
    page.evaluate("my.stop()")
    until(page, "() => my.socket.connected")
    hide(page, "visible")
    hide(page, "hidden")
    page.evaluate("new Promise((later) => setTimeout(later, 300))")
    assert page.evaluate("my.socket.connected")


# -- one for all -------------------------------------------------------------------------------------------------


class Tabs:
    """Tabs of one user that share a connection.

    Args:
        context: The user's browser.
        url: The web server.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self._context = context
        self._url = url
        self.sockets: list[Page] = []

    def open(self) -> Page:
        page = self._context.new_page()
        page.set_default_timeout(60_000)
        page.on("websocket", lambda _: self.sockets.append(page))
        visit(page, self._url)
        page.evaluate("my.socket = my.shareSocket(my.open); my.subscribe(my.socket)")
        until(page, "() => my.project.state === 'subscribed'")
        return page


@pytest.fixture
def tabs(new_page: Callable[..., Page], web: WebServer) -> Tabs:
    return Tabs(new_page().context, web.url)


def told(page: Page, job: str) -> list[tuple[str, int]]:
    """Return the statuses of a job that a page was told of, with their offsets, once it has ended."""
    until(page, "(job) => my.heard.some(([id, status]) => id === job && status === 'error')", job)
    return [(status, offset) for heard, status, offset in page.evaluate("my.heard") if heard == job]


def test_all_tabs_share_one_connection_and_hear_the_same(tabs: Tabs) -> None:
    first, *others = pages = [tabs.open() for _ in range(3)]
    job = others[0].evaluate(START)
    heard = [told(page, job) for page in pages]
    assert heard[0] == heard[1] == heard[2]
    assert [status for status, _ in heard[0]] == ["queued", "running", "error"]
    assert tabs.sockets == [first]


@pytest.mark.parametrize(
    "way", ["crashed", *(pytest.param(way, marks=pytest.mark.long) for way in ("closed", "reloaded"))]
)
def test_when_the_tab_with_the_connection_goes_another_one_takes_its_place(tabs: Tabs, way: str) -> None:
    first, second, third = (tabs.open() for _ in range(3))
    before = second.evaluate(START)
    told(third, before)
    if way == "closed":
        first.close()
    elif way == "crashed":
        crash(first)
    else:
        first.goto("about:blank")
    job = second.evaluate(START)
    assert told(second, job) == told(third, job)
    assert [status for status, _ in told(second, job)] == ["queued", "running", "error"]
    assert len(tabs.sockets) == 2
    assert told(third, before) == told(second, before)


def crash(page: Page) -> None:
    with page.expect_event("crash"), contextlib.suppress(Error):  # it never arrives
        page.goto("chrome://crash", timeout=10_000)


def test_a_tab_that_leaves_a_project_takes_it_from_no_other(tabs: Tabs) -> None:
    first, second, third = (tabs.open() for _ in range(3))
    third.evaluate("my.project.close()")
    second.close()
    job = first.evaluate(START)
    assert [status for status, _ in told(first, job)] == ["queued", "running", "error"]
    assert third.evaluate("my.heard") == []
    # When the last has left, the server says no more.
    first.evaluate("my.events = 0; my.socket.onAny(() => { my.events += 1; }); my.project.close()")
    third.evaluate("my.subscribe(my.socket)")
    until(third, "() => my.project.state === 'subscribed'")


def test_a_tab_that_has_disconnected_makes_no_connection_any_more(tabs: Tabs) -> None:
    first, second = tabs.open(), tabs.open()
    first.evaluate("my.socket.disconnect()")
    until(second, "() => my.project.state === 'subscribed' && my.socket.connected")
    told(second, second.evaluate(START))
    assert first.evaluate("my.socket.connect().connected") is False
    told(second, second.evaluate(START))
    assert tabs.sockets == [first, second]


def test_tabs_share_no_answers(tabs: Tabs) -> None:
    first, second = tabs.open(), tabs.open()
    ask = """(id) => new Promise((answered) => my.socket.emit("get_result", {job_id: id}, answered))"""
    job = first.evaluate(START)
    told(second, job)
    assert first.evaluate(ask, job)["job_id"] == job
    assert second.evaluate(ask, "nobody's")["ok"] is False


def test_without_locks_each_tab_has_a_connection_of_its_own(page: Page, web: WebServer) -> None:
    visit(page, web.url)
    page.evaluate("Object.defineProperty(navigator, 'locks', {value: undefined})")
    page.evaluate("my.socket = my.shareSocket(my.open); my.subscribe(my.socket)")
    until(page, "() => my.project.state === 'subscribed'")
    assert page.evaluate("my.socket.io !== undefined")


# -- some of the jobs --------------------------------------------------------------------------------------------

FILTERED = """async () => {
  const {subscribeProject} = await import("/celery-realtime/celery-realtime-filter.js");
  const socket = my.open();
  my.changes = [];
  const follow = (filter) => subscribeProject(socket, "apollo", {
    filter, onChange: (_, {reason, key, left}) => reason === "jobs" && my.changes.push([key, left?.status ?? null]),
  });
  my.running = follow({status: ["running"], task: "*.backup"});
  my.ended = follow({status: ["success", "error"], task: ["*.backup"]});
}"""

START_TWO = """async () => {
  const start = async (kind) => {
    const body = JSON.stringify({kind, project_id: "apollo", options: {seconds: 0.5}});
    const answer = await fetch("/jobs", {method: "POST", headers: {"Content-Type": "application/json"}, body});
    return (await answer.json()).jobs[0];
  };
  return [await start("fail"), await start("backup")];
}"""


def test_a_page_shows_the_jobs_that_match_as_they_enter_and_leave(page: Page, web: WebServer) -> None:
    visit(page, web.url)
    page.evaluate(FILTERED)
    until(page, "() => my.running.state === 'subscribed' && my.ended.state === 'subscribed'")
    other, job = page.evaluate(START_TWO)
    until(page, "(job) => my.ended.jobs.has(job)", job)
    changes = page.evaluate("(job) => my.changes.filter(([key]) => key === job)", job)
    assert [*dict.fromkeys(left for _, left in changes)] == [None, "success"]
    assert page.evaluate("[...my.running.jobs.keys()]") == []
    assert page.evaluate("(other) => my.changes.some(([key]) => key === other)", other) is False
    shown = page.evaluate("[...my.ended.jobs]")

    visit(page, web.url)
    page.evaluate(FILTERED)
    until(page, "() => my.ended.state === 'subscribed'")
    assert page.evaluate("[...my.ended.jobs]") == shown
