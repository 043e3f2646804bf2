"""The Django project of the examples: its users, database and jobs, on the servers that people start it with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import socketio.exceptions

from tests.contrib.pages import shows_a_job_to_its_end
from tests.contrib.sites import LONG, Browser, Site
from tests.event_reader import EventReader
from tests.processes import HOST
from tests.variants import long_unless

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.launcher import Brokers, Launcher

#: By name: the command, and what is in the environment. ASGI and WSGI once; daphne has to be installed.
HOSTS: dict[str, tuple[str, dict[str, str]]] = {
    "uvicorn": (f"uvicorn studio.asgi:application --host {HOST} --port {{port}}", {}),
    "gunicorn-gthread": (
        f"gunicorn --worker-class gthread --threads 100 --bind {HOST}:{{port}} studio.wsgi:application",
        {},
    ),
    "gunicorn-asgi": (f"gunicorn --worker-class asgi --bind {HOST}:{{port}} studio.asgi:application", {}),
    "daphne": (f"daphne -b {HOST} -p {{port}} studio.asgi:application", {}),
    "runserver": (f"manage.py runserver --noreload {HOST}:{{port}}", {}),
    "runserver-daphne": (f"manage.py runserver --noreload {HOST}:{{port}}", {"RUNSERVER": "daphne"}),
}
#: What serves no WebSockets.
POLLING = ("runserver",)


@pytest.fixture(scope="module")
def site(module_launcher: Launcher, brokers: Brokers) -> Site:
    site = Site(module_launcher, brokers.make("redis"), "with_django", "studio")
    site.run("manage.py", "demo")
    site.start_worker()
    return site


@pytest.fixture(scope="module", params=long_unless(["uvicorn", "gunicorn-gthread"], HOSTS))
def host(request: pytest.FixtureRequest, site: Site) -> tuple[str, list[str]]:
    """The address of the site on each server in turn, and how its clients connect."""
    if "daphne" in request.param:
        pytest.importorskip("daphne", reason="pip install daphne")
    command, env = HOSTS[request.param]
    return site.serve(command, env), ["polling"] if request.param in POLLING else ["websocket"]


def log_in(url: str, name: str = "ada") -> Browser:
    browser = Browser(url)
    browser.get("/login")
    assert browser.post("/login", username=name, password="demo").status == 200
    assert "sessionid" in browser.cookies
    return browser


def watch(site: Site, host: tuple[str, list[str]], name: str = "ada", token: str | None = None) -> tuple[Browser, Any]:
    browser = log_in(host[0], name)
    return browser, browser.socket(site.launcher, token, host[1])


@pytest.mark.parametrize("host", long_unless(["uvicorn"], HOSTS), indirect=True)
def test_the_page_shows_a_job_to_its_end(host: tuple[str, list[str]], page: Page) -> None:
    page.goto(f"{host[0]}/login")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button").click()
    shows_a_job_to_its_end(page)


def test_who_is_logged_in_follows_a_job_from_its_commit_to_its_end(site: Site, host: tuple[str, list[str]]) -> None:
    browser, client = watch(site, host)
    assert client.subscribe("apollo")["ok"] is True
    assert browser.post("/projects/apollo/jobs", title="Retro", seconds="0.5").status == 202
    end = client.wait(
        lambda events: [d for e, d in events if e == "agent_status" and d["status"] in ("success", "error")],
        timeout=LONG,
    )[0]
    assert (end["project_id"], end["result"]) == ("apollo", {"summary": "Retro: all agreed"})
    assert client.statuses(end["job_id"]) == ["queued", "running", "success"]
    assert any(d["message"] == "Transcribing Retro" for d in client.of("agent_progress"))
    client.close()


def test_the_database_says_which_projects_are_whose(site: Site, host: tuple[str, list[str]]) -> None:
    _, client = watch(site, host, "grace")
    for _ in range(3):  # each in the thread of another request
        assert client.subscribe("apollo")["error"]["code"] == "forbidden"
        assert client.subscribe("gemini")["ok"] is True
    client.close()


def test_who_is_not_logged_in_is_refused(site: Site, host: tuple[str, list[str]]) -> None:
    stranger = Browser(host[0])
    stranger.get("/login")
    with pytest.raises(socketio.exceptions.ConnectionError):
        stranger.socket(site.launcher, transports=["polling"])


def test_a_token_of_the_site_connects_without_a_cookie(site: Site, host: tuple[str, list[str]]) -> None:
    browser = log_in(host[0])
    assert browser.get("/celery-realtime/token?project=gemini").json()["error"]["code"] == "forbidden"
    token = browser.get("/celery-realtime/token?project=apollo").json()["token"]
    client = Browser(host[0]).socket(site.launcher, token, host[1])
    assert client.subscribe("apollo")["ok"] is True
    assert client.subscribe("gemini")["error"]["code"] == "forbidden"
    client.close()


def test_the_page_says_where_its_modules_are(site: Site, host: tuple[str, list[str]]) -> None:
    page = log_in(host[0]).get("/")
    assert '"celery-realtime": "/celery-realtime/index.js"' in page.text
    module = Browser(host[0]).get("/celery-realtime/celery-realtime.js")
    assert (module.status, module.headers.get_content_type()) == (200, "text/javascript")
    assert "subscribeProject" in module.text
    again = Browser(host[0]).get("/celery-realtime/celery-realtime.js", {"If-None-Match": module.headers["ETag"]})
    assert again.status == 304
    assert Browser(host[0]).get("/celery-realtime/settings.js").status == 404


def test_plain_http_is_for_who_is_logged_in(host: tuple[str, list[str]]) -> None:
    url = host[0]
    browser = log_in(url)
    cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    assert browser.get("/celery-realtime/jobs?project=apollo").json()["ok"] is True
    assert browser.get("/celery-realtime/jobs?project=gemini").status == 403
    assert Browser(url).get("/celery-realtime/events?project=apollo").status == 401
    with contextlib.closing(EventReader(f"{url}/celery-realtime/events?project=apollo", headers=cookies)) as reader:
        reader.wait_for_event("agent_snapshot")
        assert browser.post("/projects/apollo/jobs", title="Retro", seconds="0.5").status == 202
        ended = reader.wait(lambda reader: [d for d in reader.of("agent_status") if d["status"] == "success"])
    job = ended[0]["job_id"]
    answer = browser.get(f"/celery-realtime/jobs/{job}").json()
    assert (answer["status"], answer["result"]) == ("success", {"summary": "Retro: all agreed"})
