"""The Flask project of the examples: its users, database and jobs, on the servers that people start it with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import socketio.exceptions

from tests.contrib.pages import not_in_example, shows_a_job_to_its_end
from tests.contrib.sites import LONG, Browser, Site
from tests.event_reader import EventReader
from tests.processes import HOST
from tests.variants import long_unless

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.launcher import Brokers, Launcher

HOSTS = {
    "flask": f"flask --app studio run --host {HOST} --port {{port}}",
    "gunicorn-gthread": f"gunicorn --worker-class gthread --threads 100 --bind {HOST}:{{port}} studio:create_app()",
}


@pytest.fixture(scope="module")
def site(module_launcher: Launcher, brokers: Brokers) -> Site:
    site = Site(module_launcher, brokers.make("redis"), "with_flask", "make_celery")
    site.run("-m", "flask", "--app", "studio", "demo")
    site.start_worker()
    return site


@pytest.fixture(scope="module", params=long_unless(["flask"], HOSTS))
def url(request: pytest.FixtureRequest, site: Site) -> str:
    """The address of the site on each server in turn."""
    return site.serve(HOSTS[request.param])


def log_in(url: str, name: str) -> Browser:
    browser = Browser(url)
    assert browser.post("/login", name=name).status == 200
    return browser


@pytest.mark.long  # the page of Django's example has the same script for its rows
def test_the_page_shows_a_job_to_its_end(url: str, page: Page) -> None:
    page.goto(url)
    page.get_by_role("button", name="I am ada").click()
    shows_a_job_to_its_end(page)


def test_who_is_logged_in_follows_a_job_to_its_end(site: Site, url: str) -> None:
    browser = log_in(url, "ada")
    client = browser.socket(site.launcher)
    assert client.subscribe("apollo")["ok"] is True
    job = browser.post("/projects/apollo/jobs", title="Retro", seconds="0.5").json()["job"]
    end = client.wait_for_end(job, timeout=LONG)
    assert (end["project_id"], end["result"]) == ("apollo", {"summary": "Retro: all agreed"})
    assert client.statuses(job) == ["queued", "running", "success"]
    assert any(data["message"] == "Transcribing Retro" for data in client.of("agent_progress"))
    client.close()


def test_the_database_says_each_time_which_projects_are_whose(site: Site, url: str) -> None:
    client = log_in(url, "grace").socket(site.launcher)
    for _ in range(21):  # more than a pool of connections holds, if one was kept for each
        assert client.subscribe("apollo")["error"]["code"] == "forbidden"
        assert client.subscribe("gemini")["ok"] is True
    client.close()


def test_who_is_not_logged_in_is_refused(site: Site, url: str) -> None:
    with pytest.raises(socketio.exceptions.ConnectionError):
        Browser(url).socket(site.launcher, transports=["polling"])


def test_a_token_of_the_site_connects_without_a_cookie(site: Site, url: str) -> None:
    browser = log_in(url, "ada")
    assert browser.get("/celery-realtime/token?project=gemini").status == 403
    assert Browser(url).get("/celery-realtime/token?project=apollo").status == 401
    token = browser.get("/celery-realtime/token?project=apollo").json()["token"]
    client = Browser(url).socket(site.launcher, token)
    assert client.subscribe("apollo")["ok"] is True
    assert client.subscribe("gemini")["error"]["code"] == "forbidden"
    client.close()


def test_the_page_says_where_its_modules_are(url: str) -> None:
    page = log_in(url, "ada").get("/")
    assert '"celery-realtime": "/celery-realtime/index.js"' in page.text
    module = Browser(url).get("/celery-realtime/celery-realtime.js")
    assert (module.status, module.headers.get_content_type()) == (200, "text/javascript")
    again = Browser(url).get("/celery-realtime/celery-realtime.js", {"If-None-Match": module.headers["ETag"]})
    assert again.status == 304
    assert Browser(url).get("/celery-realtime/settings.js").status == 404


def test_the_page_of_the_documentation_shows_what_the_example_has() -> None:
    # which it does without
    apart = ("from flask import session", "from flask_login import user_logged_out", "socketio.server.manager.stop")
    assert not_in_example("flask.md", "with_flask", apart) == []


def test_plain_http_is_for_who_is_logged_in(url: str) -> None:
    browser = log_in(url, "ada")
    cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    assert browser.get("/celery-realtime/jobs?project=apollo").json()["ok"] is True
    assert browser.get("/celery-realtime/jobs?project=gemini").status == 403
    assert Browser(url).get("/celery-realtime/events?project=apollo").status == 401
    with contextlib.closing(EventReader(f"{url}/celery-realtime/events?project=apollo", headers=cookies)) as reader:
        reader.wait_for_event("agent_snapshot")
        job = browser.post("/projects/apollo/jobs", title="Retro", seconds="0.5").json()["job"]
        reader.wait(lambda reader: ("success", job) in [(d["status"], d["job_id"]) for d in reader.of("agent_status")])
    answer = browser.get(f"/celery-realtime/jobs/{job}").json()
    assert (answer["status"], answer["result"]) == ("success", {"summary": "Retro: all agreed"})
