"""Pages without Socket.IO: a browser's own EventSource, and htmx, as the documentation has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route

from tests.http_hosts import Host
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.launcher import Brokers, Launcher
from tests.processes import ROOT
from tests.programs import require

DOCUMENTATION = (ROOT / "docs" / "http.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Milliseconds that a busy machine may take.
LONG = 60_000
FOLLOWING = """
  window.heard = [];
  const names = ["agent_snapshot", "agent_resumed", "agent_status", "step"];
  window.stop = follow("%s", (name, data) => heard.push([name, data]), names);
"""


def documented(language: str) -> str:
    [text] = [text for kind, text in BLOCK.findall(DOCUMENTATION) if kind == language]
    return str(text)


@pytest.fixture(scope="module")
def host(module_launcher: Launcher, brokers: Brokers) -> Iterator[Host]:
    broker = brokers.make("redis")
    with producing(broker):
        yield module_launcher.start(Host("uvicorn", module_launcher.folder, broker.env))


def say(project: str, *numbers: int) -> None:
    for number in numbers:
        jobs.realtime.manager.emit_to_project(project, "step", {"number": number})
    assert jobs.realtime.flush(60)


def serve(page: Page, host: Host, path: str, body: Any, kind: str = "text/html") -> None:
    """Have the host answer with something of the test's own."""

    def answer(route: Route) -> None:
        route.fulfill(body=body() if callable(body) else body, content_type=kind)

    page.route(f"{host.url}{path}", answer)


def heard(page: Page, name: str) -> list[Any]:
    return list(page.evaluate("(name) => heard.filter(([event]) => event === name).map(([, data]) => data)", name))


def wait_for_steps(page: Page, count: int) -> list[int]:
    page.wait_for_function("(n) => heard.filter(([name]) => name === 'step').length >= n", arg=count, timeout=LONG)
    return [data["number"] for data in heard(page, "step")]


def test_an_event_source_goes_on_over_restarts_of_the_server(host: Host, page: Page) -> None:
    project = new_project()
    serve(page, host, "/token", lambda: f'{{"token": "{jobs.realtime.issue_token("ada", [project])}"}}', "text/json")
    serve(page, host, "/page", f"<script>{documented('js')}{FOLLOWING % project}</script>")
    page.goto(f"{host.url}/page")
    page.wait_for_function("() => heard.length === 1", timeout=LONG)
    say(project, 1, 2)
    assert wait_for_steps(page, 2) == [1, 2]
    host.stop()
    say(project, 3)
    host.start()
    say(project, 4)
    assert wait_for_steps(page, 4) == [1, 2, 3, 4]
    assert len(heard(page, "agent_snapshot")) == 1
    assert jobs.realtime.revoke_access("ada", project)
    page.wait_for_function("() => heard.some(([name]) => name === 'agent_error')", timeout=LONG)
    assert heard(page, "agent_error")[0]["code"] == "forbidden"
    page.evaluate("stop()")


def test_a_page_goes_on_when_no_token_could_be_had_and_opens_nothing_that_it_has_ended(host: Host, page: Page) -> None:
    project, streams = new_project(), []
    token = jobs.realtime.issue_token("ada", [project])
    answers = iter(["<h1>502 Bad Gateway</h1>"])
    serve(page, host, "/token", lambda: next(answers, f'{{"token": "{token}"}}'), "text/json")
    serve(page, host, "/page", f"<script>{documented('js')}{FOLLOWING % project}</script>")
    page.on("request", lambda request: streams.append(request.url) if "/events?" in request.url else None)
    page.goto(f"{host.url}/page")
    page.wait_for_function("() => heard.length === 1", timeout=LONG)
    page.evaluate("stop()")
    assert len(streams) == 1
    page.evaluate("follow('p', () => {})()")  # its token is still to come
    with page.expect_response("**/token"):
        page.evaluate("fetch('/token')")
    page.evaluate("new Promise((later) => setTimeout(later, 100))")
    assert len(streams) == 1


def test_a_page_of_htmx_shows_jobs(host: Host, page: Page) -> None:
    project, shown = new_project(), iter(range(100))
    recipe = documented("html").replace("apollo", f"{project}&token={jobs.realtime.issue_token('ada', [project])}")
    packages = [require("htmx.org") + "/dist/htmx.min.js", require("htmx-ext-sse") + "/dist/sse.min.js"]
    for number, path in enumerate(packages):
        serve(page, host, f"/{number}.js", Path(path).read_text(), "text/javascript")
    serve(page, host, "/jobs.html", lambda: f"<li>{next(shown)}</li>")
    serve(page, host, "/page", f"<script src=/0.js></script><script src=/1.js></script>{recipe}")
    page.goto(f"{host.url}/page")
    page.wait_for_function("() => document.querySelector('li')?.textContent === '0'", timeout=LONG)
    job = jobs.add.apply_async((1, 2), headers={"project_id": project})
    assert jobs.realtime.flush(60)
    page.wait_for_function("() => Number(document.querySelector('li').textContent) > 0", timeout=LONG)
    assert job.id
