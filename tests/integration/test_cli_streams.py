"""``watch`` and ``history`` print what jobs say in their streams: on a terminal, into a pipe, and as JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_cli import CELERY, Watcher, run
from tests.integration.test_jobs import start
from tests.integration.test_streams import ended, follow, read_on, whole
from tests.launcher import Brokers, Launcher
from tests.processes import ROOT
from tests.services import Broker
from tests.variants import any_stage
from tests.waiting import wait_for

APP = "tests.integration.jobs"
ANSWER = "first line\nsecond \x1b[31mline\nthe end"
#: Behind twelve spaces and the beginning of the job's id, as lines begin.
SAID = [
    "answer  first line",
    'rows  {"row": 1}',
    "log  10:30:00.000  INFO  studio  begun",
    "answer  second  [31mline",
    'rows  [null, "ü"]',
    "log  10:30:05.000  ERROR  studio  a  left=2",
    "log      b",
    "answer  the end",
    "answer  (closed)",
    "rows  (closed)",
    "log  (closed)",
]


def lines_of(job: str, log: str) -> list[str]:
    """Return what was printed of the streams of a job."""
    start = f"{'':14}{job[:8]}  "
    return [line.removeprefix(start) for line in log.splitlines() if line.startswith(start)]


@contextmanager
def telling(stage: Stage, folder: Path, project: str) -> Iterator[tuple[str, Path]]:
    """Start a job that has said half of what it says; yields its id, and the file that lets it say the rest."""
    gate = folder / "go"
    with stage.connect(project) as client:
        job = start(jobs.tell, str(gate), project=project)
        read = follow(client, job, project, "log")
        wait_for(lambda: read().value and read_on(client, job).get("value", "").startswith("first line\nsecond"))
        try:
            yield job, gate
        finally:
            gate.touch()


def test_who_comes_late_sees_what_was_said_and_then_the_rest(
    launcher: Launcher, shared_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, gate):
        watcher = launcher.start(Watcher(stage, project, "--streams", folder=launcher.folder))
        wait_for(lambda: set(lines_of(job, watcher.current_log)) == {SAID[0], SAID[1], SAID[2]})
        gate.touch()
        watcher.wait_for_log(rf"{job[:8]}  tests\.integration\.jobs\.tell  success")
        wait_for(lambda: sorted(lines_of(job, watcher.current_log)) == sorted(SAID))
        printed = lines_of(job, watcher.current_log)
        for stream in ("answer", "rows", "log"):
            assert [line for line in printed if line.startswith(stream)] == [
                line for line in SAID if line.startswith(stream)
            ]
        later = start(jobs.answer, 20, project=project)
        watcher.wait_for_log(re.escape(f"{later[:8]}  answer  {whole(20)}"))
    watcher.send_signal(signal.SIGINT)
    wait_for(lambda: not watcher.running)
    assert watcher.kill() == 0


def test_without_the_option_no_stream_is_printed(launcher: Launcher, shared_stage: Callable[..., Stage]) -> None:
    project, stage = new_project(), shared_stage("redis")
    watcher = launcher.start(Watcher(stage, project, folder=launcher.folder))
    watcher.wait_for_log("subscribed")
    job = start(jobs.answer, 5, project=project)
    watcher.wait_for_log(rf"{job[:8]}  tests\.integration\.jobs\.answer  success")
    assert "wörd" not in watcher.current_log


@pytest.mark.long
def test_only_the_streams_that_are_named_are_printed(
    launcher: Launcher, shared_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, gate):
        watcher = launcher.start(Watcher(stage, project, "--stream", "log", "--stream", "rows", folder=launcher.folder))
        watcher.wait_for_log("begun")
        gate.touch()
        expected = [line for line in SAID if not line.startswith("answer")]
        wait_for(lambda: sorted(lines_of(job, watcher.current_log)) == sorted(expected))


def test_chunks_are_printed_as_lines_of_json(
    launcher: Launcher, shared_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, gate):
        watcher = launcher.start(Watcher(stage, project, "--streams", "--json", folder=launcher.folder))
        watcher.wait_for_log('"begun"')

        def printed(stream: str) -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in watcher.current_log.split("\n")[:-1] if line.startswith("{")]
            chunks = [line["data"] for line in lines if line["event"] == "agent_stream"]
            return [chunk for chunk in chunks if (chunk["job_id"], chunk["stream"]) == (job, stream)]

        gate.touch()
        for stream, content in (("answer", ANSWER), ("rows", [{"row": 1}, [None, "ü"]])):
            wait_for(lambda stream=stream: (printed(stream) or [{"state": ""}])[-1]["state"] == "closed")
            chunks = printed(stream)
            value = chunks[0]["chunk"]
            for chunk in chunks[1:]:
                assert chunk["position"] == len(value)
                value = value + chunk["chunk"]
            assert value == content
            assert {chunk["project_id"] for chunk in chunks} == {project}


def test_one_job_is_followed_until_it_has_ended(
    launcher: Launcher, shared_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, gate):
        watcher = launcher.start(Watcher(stage, project, "--job", job, folder=launcher.folder))
        watcher.wait_for_log("begun")
        other = start(jobs.answer, 5, project=project)
        gate.touch()
        wait_for(lambda: not watcher.running)
        assert watcher.kill() == 0
    log = watcher.current_log
    assert sorted(lines_of(job, log)) == sorted(SAID)
    assert re.search(rf"{job[:8]}  tests\.integration\.jobs\.tell  running  STARTED", log)
    assert re.search(rf"{job[:8]}  tests\.integration\.jobs\.tell  success", log)
    assert other[:8] not in log


@pytest.mark.long
def test_one_stream_of_a_job_is_printed_as_it_is_and_nothing_else(
    shared_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, gate):
        options = ("--url", stage.web.url, "--job", job, "--stream")
        with printing(stage, "watch", project, *options, "answer") as watcher:
            assert watcher.stdout.read(10) == "first line"
            gate.touch()
            assert watcher.stdout.read() == ANSWER[10:]
            assert watcher.wait(60) == 0
        for stream, expected in (("answer", ANSWER), ("rows", '{"row": 1}\n[null, "ü"]\n')):
            with printing(stage, "watch", project, *options, stream) as late:
                assert late.stdout.read() == expected
                assert late.wait(60) == 0


@contextmanager
def printing(stage: Stage, *command: str, **how: Any) -> Iterator[Any]:
    """Run a command whose output is read as it comes."""
    env = {**os.environ, **stage.broker.env}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8", **how}
    with subprocess.Popen([sys.executable, *CELERY, APP, "realtime", *command], cwd=ROOT, env=env, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """A terminal, and what was printed on it."""

    def __init__(self) -> None:
        self._mine, self.theirs = os.openpty()
        self._printed = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._mine, 4096)
            except OSError:  # everybody has left it
                return
            self._printed += piece

    @property
    def printed(self) -> str:
        return self._printed.decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_on_a_terminal_a_text_is_printed_as_it_comes_and_obeyed_in_nothing(
    shared_stage: Callable[..., Stage], tmp_path: Path, terminal: Terminal
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, gate):
        options = ("watch", project, "--url", stage.web.url, "--stream", "answer", "--plain")
        with printing(stage, *options, stdout=terminal.theirs) as watcher:
            begin = f"{'':14}{job[:8]}  answer  "
            wait_for(lambda: terminal.printed.endswith(f"{begin}first line\n{begin}second  [31m"))
            gate.touch()
            wait_for(lambda: f"\n{begin}second  [31mline\n{begin}the end\n{begin}(closed)\n" in terminal.printed)
            assert "\x1b" not in terminal.printed
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(60) == 0


@pytest.mark.long
def test_on_a_terminal_one_stream_is_printed_as_it_comes_and_ctrl_c_ends_its_line(
    shared_stage: Callable[..., Stage], tmp_path: Path, terminal: Terminal
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, _gate):
        options = ("watch", project, "--url", stage.web.url, "--job", job, "--stream", "answer")
        with printing(stage, *options, stdout=terminal.theirs) as watcher:
            wait_for(lambda: terminal.printed == "first line\nsecond  [31m")
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(60) == 0
            wait_for(lambda: terminal.printed == "first line\nsecond  [31m\n")


@pytest.mark.parametrize(
    "options",
    [["--streams"], pytest.param(["--streams", "--json"], marks=pytest.mark.long)],  # both write to the same pipe
    ids=["lines", "json"],
)
def test_if_nobody_reads_the_streams_any_more_it_ends_quietly(
    shared_stage: Callable[..., Stage], options: list[str]
) -> None:
    project, stage = new_project(), shared_stage("redis")
    with printing(stage, "watch", project, "--url", stage.web.url, *options) as watcher:
        while "subscribed" not in watcher.stderr.readline():
            assert watcher.poll() is None
        watcher.stdout.close()
        start(jobs.answer, 5, project=project)
        assert watcher.wait(120) == 1
        assert watcher.stderr.read() == ""


@pytest.mark.long
def test_a_stream_that_nobody_reads_any_more_ends_quietly(shared_stage: Callable[..., Stage], tmp_path: Path) -> None:
    project, stage = new_project(), shared_stage("redis")
    with telling(stage, tmp_path, project) as (job, gate):
        options = ("--url", stage.web.url, "--job", job, "--stream", "answer")
        with printing(stage, "watch", project, *options) as watcher:
            assert watcher.stdout.read(5) == "first"
            watcher.stdout.close()
            gate.touch()
            assert watcher.wait(120) == 1
            assert "Traceback" not in watcher.stderr.read()


def test_a_job_of_a_project_that_the_token_does_not_open_is_refused(shared_stage: Callable[..., Stage]) -> None:
    stage = shared_stage("redis")
    token = jobs.realtime.issue_token("ada", [new_project()])
    watch = (APP, "watch", new_project(), "--url", stage.web.url, "--job", "nosuch", "--token", token)
    assert "Error: the job nosuch is refused: " in run(*watch, broker=stage.broker, code=1)


@pytest.mark.long
def test_the_streams_of_a_job_that_was_killed_end(launcher: Launcher, shared_stage: Callable[..., Stage]) -> None:
    project, stage = new_project(), shared_stage("redis")
    job = start(jobs.answer_and_die, project=project)
    watcher = launcher.start(Watcher(stage, project, "--job", job, folder=launcher.folder))
    wait_for(lambda: not watcher.running, timeout=120)
    assert lines_of(job, watcher.current_log) == ["answer  the last words", "answer  (failed)"]


def test_without_a_history_what_is_said_from_then_on_is_printed(
    launcher: Launcher, brokers: Brokers, tmp_path: Path
) -> None:
    broker, project, gate = brokers.make("redis"), new_project(), tmp_path / "go"
    with producing(broker, history_url=None):
        stage = Stage(launcher, broker, env={"HISTORY": "off"}, concurrency=1)
        watcher = launcher.start(Watcher(stage, project, "--streams", folder=launcher.folder))
        watcher.wait_for_log("subscribed")
        holding = start(jobs.hold, str(gate), project=project)
        watcher.wait_for_log(f"{holding[:8]}.*running")
        job = start(jobs.answer, 20, project=project)  # it waits for the other, and is followed meanwhile
        watcher.wait_for_log(f"{job[:8]}.*queued")
        with stage.connect(project) as client:
            follow(client, job, project)
            gate.touch()
            watcher.wait_for_log(re.escape(f"{job[:8]}  answer  {whole(20)}"))


# -- history ----------------------------------------------------------------------------------------------------------


@any_stage
def test_the_streams_of_a_job_and_one_of_them_are_printed(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with telling(stage, tmp_path, project) as (job, gate), stage.connect(project) as client:
        read = follow(client, job, project, "log")
        history = (APP, "history", project, "--job", job)
        said = run(*history, broker=stage.broker)
        first, *streams = said.splitlines()
        assert re.search(rf"{job[:8]}  tests\.integration\.jobs\.tell  running", first)
        begin = f"{'':14}{job[:8]}  "
        assert streams == [
            f"{begin}answer  text  open  23 characters",
            f"{begin}log  json  open  1 items",
            f"{begin}rows  json  open  1 items",
        ]
        gate.touch()
        ended(read)
        lines = [json.loads(line) for line in run(*history, "--json", broker=stage.broker).splitlines()]
        assert [line["event"] for line in lines] == ["agent_status", *["agent_stream"] * 3]
        of_answer = lines[1]["data"]
        assert of_answer.pop("generation") > 0
        assert of_answer == {
            "job_id": job,
            "project_id": project,
            "stream": "answer",
            "kind": "text",
            "attempt": 0,
            "start": 0,
            "end": len(ANSWER),
            "state": "closed",
        }
        assert run(*history, "--stream", "answer", broker=stage.broker) == ANSWER
        assert run(*history, "--stream", "rows", broker=stage.broker) == '{"row": 1}\n[null, "ü"]\n'
        assert run(*history, "--stream", "log", broker=stage.broker).splitlines() == [
            "10:30:00.000  INFO  studio  begun",
            "10:30:05.000  ERROR  studio  a  left=2",
            "    b",
        ]
        [line] = run(*history, "--stream", "answer", "--json", broker=stage.broker).splitlines()
        data = json.loads(line)["data"]
        assert (data["chunk"], data["position"], data["state"]) == (ANSWER, 0, "closed")


def test_what_is_not_stored_of_streams_has_an_exit_code_of_its_own(redis_broker: Broker) -> None:
    history = (APP, "history", "nosuch")
    said = run(*history, "--job", "j", broker=redis_broker, code=3)
    assert said == "no job 'j' is stored for project 'nosuch'\n"
    said = run(*history, "--job", "j", "--stream", "answer", broker=redis_broker, code=3)
    assert said == "nothing is stored of the stream 'answer' of the job 'j' in project 'nosuch'\n"
    assert "add --job JOB" in run(*history, "--stream", "answer", broker=redis_broker, code=2)
    assert "exclude each other" in run(*history, "--events", "--job", "j", broker=redis_broker, code=2)
