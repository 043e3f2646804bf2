"""Each framework shows what jobs do, in a real browser: the package is installed from npm's archive, Vite builds."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from celery.result import AsyncResult
from playwright.sync_api import Page, Route, expect

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Brokers, Launcher
from tests.npm_package import STATIC, Consumer, pack
from tests.programs import FRAMEWORKS
from tests.waiting import wait_for

#: Milliseconds that a busy machine may take.
LONG = 60_000
FRAMEWORK_PAGES = ("react", "vue", "svelte", "solid", "query")
#: The same pages with React 18, and as they are in production.
VARIANTS = ({"REACT": "18", "PAGES": "react,query"}, {"NODE_ENV": "production"})


#: For as long as a picture: as a change of route may do.
HIDE_AND_SHOW = """async () => {
  document.getElementById("toggle").click();
  await new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown)));
  if (document.getElementById("jobs")) throw new Error("it is still there");
  document.getElementById("toggle").click();
}"""


@pytest.fixture(scope="module")
def stage(module_launcher: Launcher, brokers: Brokers) -> Iterator[Stage]:
    stage = Stage(module_launcher, brokers.make("redis"))
    with producing(stage.broker):
        yield stage


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Consumer:
    folder = tmp_path_factory.mktemp("frameworks")
    return Consumer(folder / "site", pack(folder))


@pytest.fixture(
    scope="module",
    params=[{}, *(pytest.param(variant, marks=pytest.mark.long) for variant in VARIANTS)],
    ids=lambda variant: "-".join(variant.values()) or "as-usual",
)
def built(request: pytest.FixtureRequest, consumer: Consumer) -> tuple[Path, tuple[str, ...]]:
    """Where the built pages are, and which."""
    pages = request.param.get("PAGES", ",".join(FRAMEWORK_PAGES)).split(",")
    return consumer.build(**request.param), tuple(pages)


class Site:
    """A page of one framework, which shows a project.

    Args:
        page: Of the browser.
        stage: Where its jobs run.
        files: Where what it loads is.
        name: The framework's.
    """

    def __init__(self, page: Page, stage: Stage, files: Path, name: str) -> None:
        self.page, self.stage, self.name = page, stage, name
        self.project, self.other = new_project(), new_project()
        self.missing: list[str] = []
        self._files = files
        page.route(f"{stage.web.url}/app/**", self._serve)

    def _serve(self, route: Route) -> None:
        path = self._files / route.request.url.partition("/app/")[2].partition("?")[0]
        if path.is_file():
            route.fulfill(body=path.read_bytes(), content_type=mimetypes.guess_type(path)[0] or "text/plain")
        else:
            self.missing.append(route.request.url)
            route.fulfill(status=404)

    def open(self, *projects: str) -> Site:
        """Open it for a user who may see these projects, or both."""
        token = jobs.realtime.issue_token("ada", projects or (self.project, self.other))
        query = {"project": self.project, "other": self.other, "token": token}
        self.page.goto(f"{self.stage.web.url}/app/{self.name}/index.html?{urlencode(query)}")
        self.expect_status("subscribed")
        return self

    def start(self, task: Any, *args: Any, project: str | None = None) -> str:
        """Start a job of the project, and return its id."""
        result: AsyncResult[Any] = task.apply_async(args, headers={"project_id": project or self.project})
        assert jobs.realtime.flush(60)  # a page that names no project is refused a job that is not on record yet
        return str(result.id)

    def expect_status(self, status: str) -> None:
        expect(self.page.locator("#jobs")).to_have_attribute("data-status", status, timeout=LONG)

    def expect_job(self, job_id: str, status: str) -> None:
        row = self.page.locator(f'#jobs li[data-job="{job_id}"]')
        expect(row).to_have_attribute("data-status", status, timeout=LONG)

    def click(self, button: str) -> None:
        self.page.locator(f"#{button}").click()

    def follow(self, job_id: str) -> None:
        """Show a job and its answer."""
        self.page.locator("#job").fill(job_id)

    def sent(self, event: str, subject: str) -> int:
        """Tell how often the page has sent an event about a project or a job."""
        sent = self.page.evaluate("sent")
        return [*map(tuple, sent)].count((event, subject))

    def wait_until_sent(self, event: str, subject: str, times: int = 1) -> None:
        script = "([...wanted]) => sent.filter((one) => one.join() === wanted.slice(0, 2).join()).length === wanted[2]"
        self.page.wait_for_function(script, arg=[event, subject, times], timeout=LONG)

    def renders(self, subject: str) -> int:
        """Tell how often a row, or a component, has been rendered."""
        return int(self.page.evaluate("(subject) => renders[subject] ?? 0", subject))


@pytest.fixture(params=FRAMEWORK_PAGES)
def site(request: pytest.FixtureRequest, page: Page, stage: Stage, built: tuple[Path, tuple[str, ...]]) -> Site:
    files, pages = built
    if request.param not in pages:
        pytest.skip("not among the pages of this variant")
    return Site(page, stage, files, request.param)


def test_all_components_show_what_jobs_do_over_one_subscription_and_rows_that_did_not_change_are_left_alone(
    site: Site, tmp_path: Path
) -> None:
    site.open()
    held = site.start(jobs.hold, str(tmp_path / "go"), 60.0)
    expect(site.page.locator(f'#jobs li[data-job="{held}"]')).to_have_text("10", timeout=LONG)
    before = site.renders(held)
    others = [site.start(jobs.count, 3), site.start(jobs.fail)]
    site.expect_job(others[0], "success")
    site.expect_job(others[1], "error")
    expect(site.page.locator("#count")).to_have_text("3")
    assert before > 0
    assert site.renders(held) == before
    assert site.renders(others[0]) > 1
    (tmp_path / "go").touch()
    site.expect_job(held, "success")
    assert site.renders(held) > before
    assert site.sent("subscribe_project", site.project) == 1
    assert site.missing == []


def test_a_stream_is_shown_to_its_end_also_when_one_comes_late(site: Site, tmp_path: Path) -> None:
    site.open()
    job = site.start(jobs.answer, 40, str(tmp_path / "go"))
    site.follow(job)
    text, answer = site.page.locator("#answer pre"), site.page.locator("#answer")
    expect(text).to_contain_text("wörd 19", timeout=LONG)
    expect(answer).to_have_attribute("data-state", "open")
    (tmp_path / "go").touch()
    whole = " ".join(f"wörd {number}" for number in range(40))
    expect(text).to_have_text(whole, timeout=LONG)
    expect(answer).to_have_attribute("data-state", "closed", timeout=LONG)
    expect(answer).to_have_attribute("data-job-status", "success", timeout=LONG)
    assert site.sent("subscribe_job", job) == 1
    late = site.start(jobs.answer, 5)
    site.expect_job(late, "success")
    site.follow(late)
    expect(text).to_have_text(" ".join(f"wörd {number}" for number in range(5)), timeout=LONG)
    site.wait_until_sent("unsubscribe_job", job)


def test_a_job_is_stopped_and_a_job_that_has_ended_is_not(site: Site, tmp_path: Path) -> None:
    if site.name == "query":
        pytest.skip("its page has no button for that")
    site.open()
    job = site.start(jobs.patient, str(tmp_path / "trace"))
    site.follow(job)
    answer = site.page.locator("#answer")
    expect(answer).to_have_attribute("data-job-status", "running", timeout=LONG)
    site.click("cancel")
    expect(answer.locator("output")).to_have_text("requested", timeout=LONG)
    expect(answer).to_have_attribute("data-job-status", "error", timeout=LONG)
    site.click("cancel")
    expect(answer.locator("output")).to_have_text("too_late", timeout=LONG)


def test_a_job_is_run_again(site: Site, tmp_path: Path) -> None:
    if site.name == "query":
        pytest.skip("its page has no button for that")
    site.open()
    job = site.start(jobs.note, str(tmp_path / "notes"), "a")
    site.expect_job(job, "success")
    site.follow(job)
    expect(site.page.locator("#answer")).to_have_attribute("data-job-status", "success", timeout=LONG)
    site.click("rerun")
    said = site.page.locator("#answer output")
    expect(said).not_to_be_empty(timeout=LONG)
    again = said.text_content() or ""
    assert again != job
    site.expect_job(again, "success")
    assert (tmp_path / "notes").read_text() == "a\na\n"


def test_who_comes_right_back_subscribes_to_nothing_anew_and_who_leaves_does_leave(site: Site) -> None:
    site.open()
    done = site.start(jobs.count, 1)
    site.expect_job(done, "success")
    site.page.evaluate(HIDE_AND_SHOW)
    site.expect_job(done, "success")
    assert site.sent("subscribe_project", site.project) == 1
    site.click("switch")
    site.expect_status("subscribed")
    expect(site.page.locator("#jobs li")).to_have_count(0)
    site.wait_until_sent("subscribe_project", site.other)
    site.wait_until_sent("unsubscribe_project", site.project)
    there = site.start(jobs.count, 1, project=site.other)
    site.expect_job(there, "success")
    site.click("toggle")
    site.wait_until_sent("unsubscribe_project", site.other)
    site.click("enable")
    site.click("toggle")
    site.expect_status("idle")
    assert site.sent("subscribe_project", site.other) == 1
    site.click("enable")
    site.expect_job(there, "success")
    assert site.sent("subscribe_project", site.other) == 2


def test_a_refusal_is_a_state_of_the_component(site: Site) -> None:
    site.open(site.project)
    site.click("switch")
    expect(site.page.locator("#jobs")).to_have_attribute("data-error", "forbidden", timeout=LONG)
    site.click("switch")
    expect(site.page.locator("#jobs")).to_have_attribute("data-status", "subscribed", timeout=LONG)


def react(page: Page, stage: Stage, built: tuple[Path, tuple[str, ...]]) -> Site:
    files, _ = built
    return Site(page, stage, files, "react")


def test_a_component_of_react_waits_for_the_first_answer_and_is_not_asked_for_twice(
    page: Page, stage: Stage, built: tuple[Path, tuple[str, ...]]
) -> None:
    site = react(page, stage, built)
    site.open()
    done = site.start(jobs.count, 1, project=site.other)
    wait_for(lambda: jobs.celery.AsyncResult(done).successful())
    site.click("wait")
    expect(page.locator("#waited")).to_have_text("1", timeout=LONG)
    assert site.sent("subscribe_project", site.other) == 1
    site.click("wait")
    site.wait_until_sent("unsubscribe_project", site.other)


def test_a_page_of_react_shows_what_was_missed_while_the_web_server_was_away(
    page: Page, stage: Stage, built: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    site = react(page, stage, built)
    site.open()
    done, held = site.start(jobs.count, 1), site.start(jobs.hold, str(tmp_path / "go"), 100.0)
    site.expect_job(done, "success")
    site.expect_job(held, "running")
    stage.web.kill()
    site.expect_status("stale")
    before = site.renders(done)
    (tmp_path / "go").touch()
    wait_for(lambda: jobs.celery.AsyncResult(held).successful())
    stage.web.start()
    site.expect_status("subscribed")
    site.expect_job(held, "success")
    assert site.renders(done) == before


SEEM = """(state) => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_hidden_page_of_react_leaves_its_project_and_shows_what_it_missed_when_it_is_seen(
    page: Page, stage: Stage, built: tuple[Path, tuple[str, ...]]
) -> None:
    site = react(page, stage, built)
    site.open()
    done = site.start(jobs.count, 1)
    site.expect_job(done, "success")
    before = site.renders(done)
    page.evaluate(SEEM, "hidden")
    site.expect_status("paused")
    site.wait_until_sent("unsubscribe_project", site.project)
    missed = site.start(jobs.count, 1)
    wait_for(lambda: jobs.celery.AsyncResult(missed).successful())
    assert page.locator("#jobs li").count() == 1
    page.evaluate(SEEM, "visible")
    site.expect_status("subscribed")
    site.expect_job(missed, "success")
    assert site.renders(done) == before


PLAIN = """<!doctype html>
<meta charset="utf-8">
<title>plain</title>
<script type="importmap">{"imports": {
  "celery-realtime": "./package/index.js", "celery-realtime/store": "./package/celery-realtime-store.js",
  "socket.io-client": "./socket.io-client/dist/socket.io.esm.min.js"
}}</script>
<ul id="jobs"></ul>
<pre id="answer"></pre>
<input id="job">
<script type="module">
  import { createSocket, subscribeJob, subscribeProject } from "celery-realtime";

  const query = new URLSearchParams(location.search);
  const socket = createSocket({ token: async () => ({ token: query.get("token") }) });
  const list = document.getElementById("jobs");
  const project = subscribeProject(socket, query.get("project"), { onChange: () => {
    list.dataset.status = project.state;
    list.replaceChildren(...[...project.jobs.values()].map((job) => {
      const row = document.createElement("li");
      Object.assign(row.dataset, { job: job.job_id, status: job.status });
      return row;
    }));
  } });
  document.getElementById("job").oninput = ({ target }) => subscribeJob(socket, target.value, { onChange: (job) => {
    document.getElementById("answer").textContent = job.streams.get("answer")?.value;
  } });
</script>
"""


def test_a_page_without_any_tool_imports_the_package(page: Page, stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "index.html").write_text(PLAIN)
    (folder / "package").symlink_to(STATIC)
    (folder / "socket.io-client").symlink_to(FRAMEWORKS / "node_modules" / "socket.io-client")
    site = Site(page, stage, tmp_path, "plain")
    site.open()
    job = site.start(jobs.answer, 5)
    site.expect_job(job, "success")
    site.follow(job)
    expect(page.locator("#answer")).to_contain_text("wörd 4", timeout=LONG)
    assert site.missing == []
