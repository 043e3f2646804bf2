"""The FastAPI project of the examples: its tokens, jobs and origins."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import socketio.exceptions
import websocket

from tests.contrib.pages import not_in_example, shows_a_job_to_its_end
from tests.contrib.sites import LONG, Answer, Browser, Site
from tests.event_reader import EventReader
from tests.processes import HOST
from tests.variants import long_unless

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.launcher import Brokers, Launcher

HOSTS = {
    "uvicorn": f"uvicorn app:app --host {HOST} --port {{port}}",
    "gunicorn-asgi": f"gunicorn --worker-class asgi --bind {HOST}:{{port}} app:app",
}
ADA = {"Authorization": "Bearer ada"}
ORIGIN = "https://studio.example"
POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="module")
def site(module_launcher: Launcher, brokers: Brokers) -> Site:
    site = Site(module_launcher, brokers.make("redis"), "with_fastapi", "tasks")
    site.start_worker()
    return site


@pytest.fixture(scope="module", params=long_unless(["uvicorn"], HOSTS))
def url(request: pytest.FixtureRequest, site: Site) -> str:
    """The address of the site on each server in turn."""
    return site.serve(HOSTS[request.param], {"ORIGINS": f"http://localhost:5173,{ORIGIN}"})


def token(url: str, project: str = "apollo") -> str:
    return str(Browser(url).get(f"/celery-realtime/token?project={project}", ADA).json()["token"])


@pytest.mark.long  # the page of Django's example has the same script for its rows
def test_the_page_shows_a_job_to_its_end(url: str, page: Page) -> None:
    page.goto(url)
    shows_a_job_to_its_end(page)


def test_who_has_a_token_follows_a_job_to_its_end(site: Site, url: str) -> None:
    client = Browser(url).socket(site.launcher, token(url))
    assert client.subscribe("apollo")["ok"] is True
    assert client.subscribe("gemini")["error"]["code"] == "forbidden"
    job = Browser(url).post_json("/projects/apollo/jobs", {"title": "Retro", "seconds": 0.5}, ADA).json()["job"]
    end = client.wait_for_end(job, timeout=LONG)
    assert (end["project_id"], end["result"]) == ("apollo", {"summary": "Retro: all agreed"})
    assert client.statuses(job) == ["queued", "running", "success"]
    assert any(data["message"] == "Transcribing Retro" for data in client.of("agent_progress"))
    client.close()


def test_a_token_is_for_members_who_are_logged_in(site: Site, url: str) -> None:
    assert Browser(url).get("/celery-realtime/token?project=apollo").status == 401
    assert Browser(url).get("/celery-realtime/token?project=gemini", ADA).status == 403
    assert Browser(url).get("/celery-realtime/token?project=apollo&project=gemini", ADA).status == 403
    with pytest.raises(socketio.exceptions.ConnectionError):
        Browser(url).socket(site.launcher, "forged", transports=["polling"])


def cors(answer: Answer) -> list[str]:
    return answer.headers.get_all("Access-Control-Allow-Origin") or []


def test_a_page_of_an_origin_that_the_middleware_names_may_poll_and_is_answered_once(url: str) -> None:
    answer = Browser(url).get(POLLING, {"Origin": ORIGIN})
    assert (answer.status, cors(answer)) == (200, [ORIGIN])
    assert answer.headers.get_all("Access-Control-Allow-Credentials") == ["true"]
    asked = Browser(url).options(POLLING, {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"})
    assert (asked.status, cors(asked)) == (200, [ORIGIN])
    assert Browser(url).get(POLLING, {"Origin": url}).status == 200  # its own


def test_a_page_of_another_origin_may_not(url: str) -> None:
    answer = Browser(url).get(POLLING, {"Origin": "https://evil.example"})
    assert (answer.status, cors(answer)) == (400, [])


def test_the_same_is_so_of_web_sockets_which_the_middleware_does_not_look_at(url: str) -> None:
    address = f"{url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket"
    with contextlib.closing(websocket.create_connection(address, origin=ORIGIN, timeout=LONG)) as socket:
        assert str(socket.recv()).startswith('0{"sid"')
    with pytest.raises(websocket.WebSocketBadStatusException):
        websocket.create_connection(address, origin="https://evil.example", timeout=LONG)


def test_the_modules_are_served(url: str) -> None:
    module = Browser(url).get("/celery-realtime/celery-realtime.js")
    assert (module.status, module.headers.get_content_type()) == (200, "text/javascript")
    again = Browser(url).get("/celery-realtime/celery-realtime.js", {"If-None-Match": module.headers["ETag"]})
    assert again.status == 304
    assert Browser(url).get("/celery-realtime/settings.js").status == 404
    assert "celery-realtime.js" in Browser(url).get("/").text


def test_the_page_of_the_documentation_shows_what_the_example_has() -> None:
    apart = ("server = ", "@asynccontextmanager", "def authenticate", "api = FastAPI()")  # which it does without
    assert not_in_example("fastapi.md", "with_fastapi", apart) == []


def test_plain_http_is_for_who_has_a_token(url: str) -> None:
    shown = {"Authorization": f"Bearer {token(url)}"}
    assert Browser(url).get("/celery-realtime/jobs?project=apollo", shown).json()["ok"] is True
    assert Browser(url).get("/celery-realtime/jobs?project=gemini", shown).status == 403
    assert Browser(url).get("/celery-realtime/events?project=apollo").status == 401
    with contextlib.closing(EventReader(f"{url}/celery-realtime/events?project=apollo", headers=shown)) as reader:
        reader.wait_for_event("agent_snapshot")
        job = Browser(url).post_json("/projects/apollo/jobs", {"title": "Retro", "seconds": 0.5}, ADA).json()["job"]
        reader.wait(lambda reader: ("success", job) in [(d["status"], d["job_id"]) for d in reader.of("agent_status")])
    answer = Browser(url).get(f"/celery-realtime/jobs/{job}", shown).json()
    assert (answer["status"], answer["result"]) == ("success", {"summary": "Retro: all agreed"})


def test_plain_http_is_answered_once_with_origins(url: str) -> None:
    shown = {"Authorization": f"Bearer {token(url)}"}
    path = "/celery-realtime/jobs?project=apollo"
    answer = Browser(url).get(path, {**shown, "Origin": ORIGIN})
    assert (answer.status, cors(answer)) == (200, [ORIGIN])
    asked = Browser(url).options(path, {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"})
    assert (asked.status, cors(asked)) == (200, [ORIGIN])
    foreign = Browser(url).get(path, {**shown, "Origin": "https://evil.example"})
    assert (foreign.status, cors(foreign)) == (403, [])
