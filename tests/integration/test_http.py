"""Plain HTTP with real jobs: what they say bit by bit, through nginx and over restarts of what is behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.event_reader import EventReader, ask, path_with
from tests.http_hosts import Host
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Brokers, Launcher
from tests.nginx import Nginx
from tests.processes import HOST, ROOT
from tests.stream_readers import Reader
from tests.waiting import wait_for

#: What nginx needs around the location that the documentation shows.
NGINX = """
worker_processes 1;
pid nginx.pid;
error_log stderr;
daemon off;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path nginx-tmp/body;
  proxy_temp_path nginx-tmp/proxy;
  fastcgi_temp_path nginx-tmp/fastcgi;
  uwsgi_temp_path nginx-tmp/uwsgi;
  scgi_temp_path nginx-tmp/scgi;
  upstream studio { server 127.0.0.1:8081 max_fails=0; }
  server {
    listen 127.0.0.1:8080;
    %s
  }
}
"""
LOCATION = re.compile(r"^```nginx\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONG = 60_000


@pytest.fixture(scope="module")
def host(module_launcher: Launcher, brokers: Brokers) -> Iterator[Host]:
    broker = brokers.make("redis")
    worker = module_launcher.worker("tests.integration.jobs", broker=broker, wait=False)
    host = module_launcher.start(Host("uvicorn", module_launcher.folder, broker.env))
    worker.wait_ready()
    with producing(broker):
        yield host


@pytest.fixture
def listen() -> Iterator[Callable[..., EventReader]]:
    with ExitStack() as stack:

        def listen(url: str, project: str, /, *, last: str | None = None, **query: Any) -> EventReader:
            token = jobs.realtime.issue_token("ada", [project])
            headers = {"Authorization": f"Bearer {token}", **({"Last-Event-ID": last} if last else {})}
            asked = query or {"project": project}
            reader = EventReader(url + path_with("/celery-realtime/events", **asked), headers=headers)
            stack.callback(reader.close)
            return reader

        yield listen


def read(reader: EventReader, job: str, stream: str = "answer") -> Reader:
    """Return what a client has of a stream by now; it insists that nothing comes twice, or is left out."""
    state = Reader()
    for data in reader.of("agent_stream"):
        if (data["job_id"], data["stream"]) == (job, stream):
            if data.get("replayed") and data["position"] == 0:
                state = Reader()
            state.take(data)
    return state


def test_a_stream_of_words_is_read_early_and_late(
    host: Host, listen: Callable[..., EventReader], tmp_path: Path
) -> None:
    project, gate = new_project(), tmp_path / "gate"
    early = listen(host.url, project, project=project, streams="true")
    early.wait_for_event("agent_snapshot")
    plain = listen(host.url, project)
    job = start(jobs.answer, 40_000, str(gate), project=project)
    early.wait(lambda reader: read(reader, job).position > 1000)
    late = listen(host.url, project, project=project, job=job)
    late.wait(lambda reader: read(reader, job).position > 100_000)
    gate.touch()
    expected = "".join(f"wörd {number} " for number in range(40_000))
    for reader in (early, late):
        reader.wait(lambda reader: read(reader, job).state == "closed")
        assert read(reader, job).value == expected
    after = listen(host.url, project, job=job)
    after.wait(lambda reader: read(reader, job).state == "closed")
    assert read(after, job).value == expected
    plain.wait(lambda reader: any(data["status"] == "success" for data in reader.of("agent_status")))
    assert plain.of("agent_stream") == []


def test_a_result_that_no_event_has_room_for_is_answered(host: Host, listen: Callable[..., EventReader]) -> None:
    project = new_project()
    reader = listen(host.url, project)
    job = start(jobs.large, 100_000, project=project)
    end = reader.wait(lambda r: [d for d in r.of("agent_status") if d["status"] == "success"])[0]
    assert (end["result"], end["truncated"]) == (None, True)
    headers = {"Authorization": f"Bearer {jobs.realtime.issue_token('ada', [project])}"}
    answer = ask(f"{host.url}/celery-realtime/jobs/{job}", headers=headers).content
    assert len(answer["result"]) == 100_000
    assert "truncated" not in answer
    assert answer["queued_at"] is not None


def test_nginx_passes_on_each_event_as_it_comes(
    host: Host, listen: Callable[..., EventReader], launcher: Launcher
) -> None:
    [location] = LOCATION.findall((ROOT / "docs" / "http.md").read_text())
    configuration = launcher.folder / "configuration"
    configuration.write_text(NGINX % location)
    places = {f"{HOST}:8081": host.url.removeprefix("http://")}
    nginx = launcher.start(Nginx(launcher.folder / "nginx", places, configuration))
    project = new_project()
    reader = listen(nginx.url, project)
    reader.wait_for_event("agent_snapshot")
    for number in range(5):
        jobs.realtime.manager.emit_to_project(project, "step", {"number": number})
        assert jobs.realtime.flush(60)
        reader.wait_for_event("step", number + 1)

    host.stop()
    reader.wait_for_end()
    token = jobs.realtime.issue_token("ada", [project])
    path = path_with("/celery-realtime/jobs", project=project, token=token)
    assert ask(nginx.url + path).status == 502
    jobs.realtime.manager.emit_to_project(project, "step", {"number": 5})
    assert jobs.realtime.flush(60)
    host.start()
    wait_for(lambda: ask(nginx.url + path).status == 200)
    again = listen(nginx.url, project, last=reader.last_id)
    again.wait_for_event("step")
    assert [data["number"] for one in (reader, again) for data in one.of("step")] == [*range(6)]
    assert again.of("agent_snapshot") == []
