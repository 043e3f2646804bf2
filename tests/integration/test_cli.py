"""``celery -A proj realtime ...`` shows in a terminal what browsers receive."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.forks import run_python
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.processes import ROOT, ManagedProcess
from tests.services import BROKERS
from tests.variants import long_unless
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.launcher import Launcher
    from tests.services import Broker

CELERY = ["-m", "celery", "-A"]


def run(app: str, *arguments: str, broker: Broker | None = None, code: int = 0) -> str:
    """Run a command, and return what it printed."""
    env = {**os.environ, **(broker.env if broker else {})}
    done = run_python([*CELERY, app, "realtime", *arguments], env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


class Watcher(ManagedProcess):
    """``celery realtime watch``."""

    def __init__(self, stage: Stage, *arguments: str, folder: Path) -> None:
        command = [sys.executable, *CELERY, "tests.integration.jobs", "realtime", "watch", "--url", stage.web.url]
        super().__init__([*command, *arguments], folder=folder, name="watch", env=stage.broker.env, forks="prefork")


# A watcher speaks with a web server, never with the broker.
@pytest.mark.parametrize("kind", long_unless(["redis"], BROKERS))
def test_a_project_is_watched_until_ctrl_c(launcher: Launcher, shared_stage: Callable[..., Stage], kind: str) -> None:
    project, stage = new_project(), shared_stage(kind)
    earlier = jobs.add.apply_async((1, 2), headers={"project_id": project}).id
    watcher = launcher.start(Watcher(stage, project, "--json", folder=launcher.folder))
    watcher.wait_for_log("subscribed")
    job = jobs.count.apply_async((3, 0.01), headers={"project_id": project}).id

    def printed() -> list[dict[str, Any]]:
        lines = [line for line in watcher.current_log.split("\n")[:-1] if line.startswith("{")]
        return [json.loads(line)["data"] for line in lines]

    wait_for(lambda: {data["job_id"] for data in printed() if data.get("status") == "success"} == {earlier, job})
    assert [data["status"] for data in printed() if data["job_id"] == job and "status" in data][-1] == "success"
    watcher.send_signal(signal.SIGINT)
    wait_for(lambda: not watcher.running)
    assert watcher.kill() == 0


def test_chosen_jobs_are_watched_and_printed(launcher: Launcher, shared_stage: Callable[..., Stage]) -> None:
    project, stage = new_project(), shared_stage()
    chosen = ("--status", "success", "--task", "*.add")
    watcher = launcher.start(Watcher(stage, project, "--json", *chosen, folder=launcher.folder))
    watcher.wait_for_log("subscribed")
    count = jobs.count.apply_async((3, 0.01), headers={"project_id": project})
    add = jobs.add.apply_async((1, 2), headers={"project_id": project})
    watcher.wait_for_log(rf'"job_id": ?"{add.id}"')
    lines = [json.loads(line)["data"] for line in watcher.current_log.split("\n")[:-1] if line.startswith("{")]
    assert {(data["job_id"], data["status"]) for data in lines} == {(add.id, "success")}

    def history(*options: str, code: int = 0) -> str:
        return run("tests.integration.jobs", "history", project, "--json", *options, broker=stage.broker, code=code)

    wait_for(lambda: len(history("--status", "success").splitlines()) == 2)
    assert [json.loads(line)["data"]["job_id"] for line in history("--task", "*count").splitlines()] == [count.id]
    assert "no such jobs are stored" in history("--status", "error", "--status", "queued", code=3)
    assert "leave out --events and --job" in history("--status", "error", "--events", code=2)
    assert "--label has texts of 1 to 255 characters" in history("--label", "", code=2)
    assert "leave out --job" in run("tests.integration.jobs", "watch", project, "--job", "a", "--task", "a", code=2)


def test_lines_for_people_say_what_happens(launcher: Launcher, shared_stage: Callable[..., Stage]) -> None:
    project, stage = new_project(), shared_stage()
    watcher = launcher.start(Watcher(stage, project, folder=launcher.folder))
    watcher.wait_for_log("subscribed")
    jobs.fail.apply_async(headers={"project_id": project})
    watcher.wait_for_log(r"tests\.integration\.jobs\.fail  error  FAILURE  ValueError: nothing works")


def test_lines_for_people_say_what_a_job_waits_for_and_how_long_it_ran(
    launcher: Launcher, shared_stage: Callable[..., Stage]
) -> None:
    project, stage = new_project(), shared_stage()
    watcher = launcher.start(Watcher(stage, project, folder=launcher.folder))
    watcher.wait_for_log("subscribed")
    headers = {"project_id": project, "label": "Add them"}
    jobs.add.apply_async((1, 2), headers=headers, countdown=0.1, expires=3600)
    clock = r"\d\d:\d\d:\d\d"
    watcher.wait_for_log(rf'jobs\.add  "Add them"  queued  PENDING  in celery  at {clock}  expires at {clock}\n')
    watcher.wait_for_log(r'jobs\.add  "Add them"  success  3  ran [\d.]+ s\n')


def test_a_token_without_a_project_is_refused_with_the_mend(redis_broker: Broker) -> None:
    token = ("tests.integration.jobs", "token", "ada")
    assert "opens nothing: add --project PROJECT" in run(*token, broker=redis_broker, code=2)
    assert run(*token, "--no-project", broker=redis_broker).startswith("ada:")


def test_a_project_of_which_nothing_is_stored_has_an_exit_code_of_its_own(redis_broker: Broker) -> None:
    command = ("tests.integration.jobs", "history", "nosuch")
    assert run(*command, broker=redis_broker, code=3) == "no jobs are stored for project 'nosuch'\n"
    assert run(*command, "--events", broker=redis_broker, code=3) == "no events are stored for project 'nosuch'\n"


def test_a_token_that_the_server_refuses_is_explained_as_the_server_does(shared_stage: Callable[..., Stage]) -> None:
    stage = shared_stage()
    watch = ("tests.integration.jobs", "watch", "apollo", "--url", stage.web.url, "--token", "nonsense")
    said = run(*watch, broker=stage.broker, code=1)
    assert "cannot be watched: the token is" in said
    assert "namespaces failed" not in said


def test_a_project_that_the_token_does_not_open_is_refused(
    launcher: Launcher, shared_stage: Callable[..., Stage]
) -> None:
    stage = shared_stage()
    token = run("tests.integration.jobs", "token", "ada", "--project", "another", broker=stage.broker).strip()
    watcher = launcher.start(Watcher(stage, "apollo", "--token", token, folder=launcher.folder))
    watcher.wait_for_log("apollo is refused: this project does not exist, or is not open to you")
    wait_for(lambda: not watcher.running)
    assert watcher.kill() == 1


def test_a_watcher_whose_token_expires_ends_with_the_reason(
    launcher: Launcher, shared_stage: Callable[..., Stage]
) -> None:
    stage = shared_stage()
    token = jobs.realtime.issue_token("ada", ["apollo"], expires_in=4)  # a slow one is refused before it is connected
    watcher = launcher.start(Watcher(stage, "apollo", "--token", token, folder=launcher.folder))
    wait_for(lambda: not watcher.running, timeout=120)
    assert re.search("Error: .*the token (is invalid or )?has expired", watcher.current_log)
    assert watcher.kill() == 1


@pytest.mark.parametrize("options", [[], pytest.param(["--json"], marks=pytest.mark.long)])
def test_a_watcher_whose_output_nobody_reads_any_more_ends_quietly(
    shared_stage: Callable[..., Stage], options: list[str]
) -> None:
    project, stage = new_project(), shared_stage()
    command = [*CELERY, "tests.integration.jobs", "realtime", "watch", "--url", stage.web.url, project, *options]
    env = {**os.environ, **stage.broker.env}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, **streams) as watcher:  # type: ignore[call-overload]
        try:
            while "subscribed" not in watcher.stderr.readline():
                assert watcher.poll() is None
            watcher.stdout.close()
            jobs.add.apply_async((1, 2), headers={"project_id": project})
            assert watcher.wait(120) == 1
            assert watcher.stderr.read() == ""
        finally:
            watcher.kill()


def test_a_full_disk_is_said_in_one_line(redis_broker: Broker) -> None:
    full_disk = Path("/dev/full")
    if not full_disk.exists():
        pytest.skip("needs /dev/full")
    project = new_project()
    with producing(redis_broker):
        jobs.realtime.handle(jobs.add, (1, 2), project_id=project).publish()
        assert jobs.realtime.flush(60)
    command = [sys.executable, *CELERY, "tests.integration.jobs", "realtime", "history", project]
    with full_disk.open("w") as full:
        env = {**os.environ, **redis_broker.env}
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=110, check=False
        )
    assert (done.returncode, done.stderr) == (1, "Error: cannot print: OSError: [Errno 28] No space left on device\n")


def test_the_history_is_printed_as_jobs_and_as_events(redis_broker: Broker) -> None:
    project = new_project()
    with producing(redis_broker):
        handle = jobs.realtime.handle(jobs.add, (1, 2), project_id=project)
        handle.publish()
        jobs.realtime.manager.emit_to_project(project, "note", {"text": "hello"})
        assert jobs.realtime.flush(60)
        lines = run("tests.integration.jobs", "history", project, "--json", broker=redis_broker).splitlines()
        assert [json.loads(line)["data"]["job_id"] for line in lines] == [handle.job_id]
        events = run("tests.integration.jobs", "history", project, "--events", "--json", broker=redis_broker)
        assert [json.loads(line)["event"] for line in events.splitlines()] == ["agent_status", "note"]
        assert "queued" in run("tests.integration.jobs", "history", project, broker=redis_broker)


def test_a_token_lets_in(launcher: Launcher, shared_stage: Callable[..., Stage]) -> None:
    stage = shared_stage()
    token = run("tests.integration.jobs", "token", "ada", "--project", "apollo", broker=stage.broker).strip()
    client = launcher.connect(stage.web.url, token=token)
    assert client.subscribe("apollo")["ok"]


def test_mistakes_are_named_in_one_line(redis_broker: Broker) -> None:
    done = run_python(["-m", "celery", "realtime", "token", "ada"], env={**os.environ})
    assert (done.returncode, done.stderr) == (1, "Error: no Celery app was named: celery -A MODULE realtime ...\n")
    said = run("tests.integration.plain_app", "token", "ada", code=1)
    assert "has no Realtime" in said
    assert "project_id must have" in run("tests.integration.jobs", "history", "", code=2)
    token = ("tests.integration.jobs", "token", "ada")
    assert "expires_in must be above 0" in run(*token, "--project", "p", "--expires-in", "0", code=1)
    assert "exclude each other" in run(*token, "--project", "p", "--no-project", code=2)
    said = run("tests.integration.jobs", "watch", "p", "--url", "HTTP://127.0.0.1:1", code=1)
    assert said.splitlines()[-1].startswith("Error: HTTP://127.0.0.1:1 cannot be watched: Failed to establish")
    watch = ("tests.integration.jobs", "watch", "p", "--url")
    assert "begins with http://" in run(*watch, "127.0.0.1:5000", code=2)
    assert "names no web server" in run(*watch, "http://", code=2)
    assert "Port out of range" in run(*watch, "http://127.0.0.1:99999", code=2)
    assert "Traceback" not in said
    for command in ("watch", "p"), ("doctor",):
        said = run(
            "tests.integration.jobs", *command, "--url", "http://ada:hunter2@127.0.0.1:1", broker=redis_broker, code=1
        )
        assert "http://ada:**@127.0.0.1:1" in said
        assert "hunter2" not in said
    nowhere = {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0", "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/1"}
    done = run_python([*CELERY, "tests.integration.jobs", "realtime", "history", "p"], env={**os.environ, **nowhere})
    assert done.returncode == 1
    assert done.stderr.startswith("Error: cannot read the history (realtime_history_url; by default ")


@pytest.mark.parametrize("pool", ["prefork", *long_unless([], ["gevent", "threads"])])
def test_a_set_up_is_measured_with_its_worker_and_its_web_server(shared_stage: Callable[..., Stage], pool: str) -> None:
    stage = shared_stage(pool=pool)
    bench = ("tests.integration.jobs", "bench", "--url", stage.web.url, "--seconds", "0.4", "--clients", "2", "--json")
    found = json.loads(run(*bench, broker=stage.broker))
    assert found["notes"] == []
    assert {*found["update_progress"]} == {*found["lag"]["client"]} == {"here", stage.worker.hostname}
    assert found["deliveries"]["delivered"] > 0
