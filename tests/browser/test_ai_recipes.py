"""The recipes of the page on chats with AI, as they stand there, with a worker, a web server and a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from celery.result import AsyncResult
from playwright.sync_api import Locator, Page, expect

from celery_realtime.contrib import browser
from tests.launcher import Brokers, Launcher
from tests.processes import HOST, ROOT, ManagedProcess, accepts_connections, free_port
from tests.programs import CLIENT, require
from tests.services import Broker
from tests.waiting import wait_for

RECIPES = ROOT / "docs" / "recipes"
LONG = 60_000
HTML = """<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<div id="root"></div>
<script type="module" src="{}.js"></script>
"""
KINDS = ("use-chat", "assistant-ui")


class Studio:
    """The folder with the recipes, and what runs there.

    Args:
        folder: An empty folder.
        broker: For its jobs.
    """

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.url = f"http://{HOST}:{(port := free_port())}"
        self.celery = Celery("reader", backend=broker.backend_url, set_as_current=False)
        self.env = {
            **broker.env,
            "GATES": str(self.gates),
            "SECRET_KEY": "a secret of the tests alone, for the web server",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        }
        self._write()
        self.web = self._server("chats", port)
        strict = free_port()
        self.strict_url = f"http://{HOST}:{strict}"
        #: One that lets nobody stop a job.
        self.strict = self._server("strict", strict)

    def _server(self, module: str, port: int) -> ManagedProcess:
        return ManagedProcess(
            [sys.executable, "-m", module],
            folder=self.folder / "logs",
            name=module,
            env={**self.env, "PORT": str(port)},
            cwd=self.folder,
            ready=lambda: accepts_connections(port),
        )

    def _write(self) -> None:
        sources = self.folder / "src"
        shutil.copytree(RECIPES, sources)
        for module in browser.FOLDER.glob("celery-realtime*.js"):
            shutil.copy(module, sources)
        for name in ("answers.py", "chats.py"):
            shutil.copy(RECIPES / name, self.folder)
        shutil.copy(Path(__file__).with_name("recipe_model.py"), self.folder / "model.py")
        rule = "return project_id == project_of(user)"
        server = (self.folder / "chats.py").read_text()
        assert rule in server
        (self.folder / "strict.py").write_text(server.replace(rule, "return False"))
        entry = (sources / "main.jsx").read_text()
        for kind in KINDS:
            (sources / f"{kind}-main.jsx").write_text(entry.replace('"./use-chat.jsx"', f'"./{kind}.jsx"'))
        entries = [str(sources / f"{kind}-main.jsx") for kind in KINDS]
        options = ["--bundle", "--format=esm", "--jsx=automatic", f"--outdir={self.folder / 'static'}"]
        subprocess.run(
            [require("node"), f"{require('esbuild')}/bin/esbuild", *entries, *options, "--log-level=warning"],
            env={**os.environ, "NODE_PATH": str(CLIENT / "node_modules")},
            check=True,
            timeout=100,
        )
        for kind in KINDS:
            (self.folder / "static" / f"{kind}.html").write_text(HTML.format(f"{kind}-main"))

    def allow(self, question: str, words: int, *, end: bool = False) -> None:
        """Let the model say so many words in all of the answer to a question, and, if it is told to, end there."""
        new = self.gates / f".{question}"
        new.write_text(f"{words}{'!' if end else ''}")
        new.replace(self.gates / question)

    def job(self, job_id: str) -> AsyncResult:
        """Return what Celery knows of a job."""
        return self.celery.AsyncResult(job_id)


@pytest.fixture(scope="module")
def studio(module_launcher: Launcher, brokers: Brokers, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    for package in ("esbuild", "ai", "@ai-sdk/react", "@assistant-ui/react", "react-dom", "socket.io-client"):
        require(package)
    broker = brokers.make("redis")
    studio = Studio(tmp_path_factory.mktemp("studio"), broker)
    module_launcher.worker("answers", env=studio.env, concurrency=3)
    module_launcher.start(studio.web)
    return studio


class Chat:
    """A page with a chat.

    Args:
        page: The page.
        url: Where it is served.
        kind: Which one.
        name: Of the chat.
    """

    def __init__(self, page: Page, url: str, kind: str, name: str) -> None:
        self.page = page
        page.goto(f"{url}/static/{kind}.html?chat={kind}-{name}")

    def ask(self, question: str) -> str:
        """Ask, and return the id of the job."""
        self.page.get_by_label("Question").fill(question)
        with self.page.expect_response(lambda answer: "/chats/" in answer.url and answer.status == 202) as response:
            self.button("Ask").click()
        job_id: str = response.value.json()["job_id"]
        return job_id

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def expect_answer(self, question: str, words: int) -> None:
        """Expect the last answer to have so many words, and no others."""
        expect(self.answers.last).to_have_text(said(question, words), timeout=LONG)

    @property
    def answers(self) -> Locator:
        return self.page.locator('[data-role="assistant"]')


def said(question: str, words: int) -> str:
    return " ".join(f"{question}-{number}" for number in range(words))


@pytest.fixture(params=KINDS)
def open_chat(request: pytest.FixtureRequest, studio: Studio, new_page: Callable[..., Page]) -> Callable[..., Chat]:
    """Open a page with a chat of a name: ``open_chat("name")``, and, if need be, the address of another server."""
    return lambda name, url=studio.url: Chat(new_page(), url, request.param, name)


def test_an_answer_streams_in_and_a_reload_in_the_middle_shows_all_of_it(
    studio: Studio, open_chat: Callable[..., Chat]
) -> None:
    studio.allow("first", 5)
    chat = open_chat("reload")
    job = chat.ask("first")
    chat.expect_answer("first", 5)
    studio.allow("first", 10)
    chat.expect_answer("first", 10)
    chat.page.reload()
    chat.expect_answer("first", 10)
    expect(chat.button("Stop")).to_be_visible()
    studio.allow("first", 12)
    chat.expect_answer("first", 12)
    studio.allow("first", 15, end=True)
    for _ in range(2):
        chat.expect_answer("first", 15)
        expect(chat.button("Ask")).to_be_visible(timeout=LONG)
        expect(chat.answers).to_have_count(1)
        chat.page.reload()
    assert studio.job(job).get(60).strip() == said("first", 15)


def test_stop_cancels_the_job(studio: Studio, open_chat: Callable[..., Chat]) -> None:
    studio.allow("endless", 5000)
    studio.allow("next", 3, end=True)
    chat = open_chat("stop")
    job = chat.ask("endless")
    expect(chat.answers).to_have_text(re.compile("endless-3"), timeout=LONG)
    chat.button("Stop").click()
    expect(chat.button("Ask")).to_be_visible(timeout=LONG)
    wait_for(lambda: studio.job(job).state == "REVOKED")
    shown = chat.answers.inner_text().strip()
    assert said("endless", 5000).startswith(shown)
    chat.page.reload()
    expect(chat.answers).to_have_text(shown, timeout=LONG)
    expect(chat.button("Ask")).to_be_visible(timeout=LONG)
    chat.ask("next")
    chat.expect_answer("next", 3)
    expect(chat.answers.first).to_have_text(shown)
    chat.page.reload()
    chat.expect_answer("next", 3)
    expect(chat.answers.first).to_have_text(shown)


def test_a_stop_that_is_refused_says_so_and_the_answer_goes_on(
    studio: Studio, module_launcher: Launcher, open_chat: Callable[..., Chat]
) -> None:
    if not studio.strict.running:
        module_launcher.start(studio.strict)
    studio.allow("going on", 4)
    chat = open_chat("refused", studio.strict_url)
    job = chat.ask("going on")
    chat.expect_answer("going on", 4)
    chat.button("Stop").click()
    expect(chat.page.get_by_role("alert")).to_contain_text("cancel", timeout=LONG)
    studio.allow("going on", 8, end=True)
    chat.expect_answer("going on", 8)
    expect(chat.button("Ask")).to_be_visible(timeout=LONG)
    assert studio.job(job).state == "SUCCESS"


def test_whoever_leaves_cancels_nothing(studio: Studio, open_chat: Callable[..., Chat]) -> None:
    studio.allow("left", 4)
    chat = open_chat("leave")
    job = chat.ask("left")
    chat.expect_answer("left", 4)
    chat.page.close()
    studio.allow("left", 20, end=True)
    assert studio.job(job).get(60).strip() == said("left", 20)
    open_chat("leave").expect_answer("left", 20)


@pytest.mark.long  # tests/integration/test_stream_chaos.py kills all servers under who reads
def test_an_answer_goes_on_over_a_restart_of_the_web_server(studio: Studio, open_chat: Callable[..., Chat]) -> None:
    studio.allow("restarted", 4)
    chat = open_chat("restart")
    chat.ask("restarted")
    chat.expect_answer("restarted", 4)
    studio.web.kill()
    studio.allow("restarted", 8)
    studio.web.start()
    chat.expect_answer("restarted", 8)
    studio.allow("restarted", 9, end=True)
    chat.expect_answer("restarted", 9)
    expect(chat.button("Ask")).to_be_visible(timeout=LONG)


def test_an_attempt_that_is_repeated_takes_the_place_of_the_one_before(
    studio: Studio, open_chat: Callable[..., Chat]
) -> None:
    studio.allow("retried", 3)
    chat = open_chat("retry")
    chat.ask("retried")
    chat.expect_answer("retried", 3)
    studio.allow("retried", 6, end=True)
    chat.expect_answer("retried", 6)
    chat.page.reload()
    chat.expect_answer("retried", 6)


def test_a_failure_is_shown(studio: Studio, open_chat: Callable[..., Chat]) -> None:
    studio.allow("failing", 5)
    chat = open_chat("fail")
    for _ in range(2):
        if not chat.answers.count():
            chat.ask("failing")
        expect(chat.page.get_by_role("alert")).to_have_text("ConnectionError: the model does not answer", timeout=LONG)
        expect(chat.answers.last).to_contain_text(said("failing", 3))
        chat.page.reload()
