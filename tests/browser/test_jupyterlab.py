"""The widgets in JupyterLab itself, which ``make notebook`` installs: a notebook is run, and opened again."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import element_jobs
from tests.browser.element_pages import LONG, row, served, start
from tests.launcher import Brokers, Launcher
from tests.processes import ROOT, ManagedProcess, WebServer, accepts_connections, free_port
from tests.services import Broker

pytestmark = pytest.mark.long  # test_notebook.py shows the widgets of a kernel in a smaller front end
pytest.importorskip("jupyterlab", reason="make notebook installs it")

PROJECTS = itertools.count()


class JupyterLab(ManagedProcess):
    """JupyterLab, without a password, on loopback.

    Args:
        folder: The notebooks.
        env: What the Celery app of the notebooks needs.
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.port = free_port()
        options = {
            "ServerApp.port": self.port,
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.root_dir": str(folder),
            "IdentityProvider.token": "",
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "LabApp.news_url": None,
            "LabApp.expose_app_in_browser": True,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        homes = {
            name: str(folder / "home") for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
        }
        env = {**env, **homes, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        argv = [sys.executable, "-m", "jupyterlab", *arguments]
        ready = functools.partial(accepts_connections, self.port)  # its log says so too early
        super().__init__(argv, folder=folder, name="jupyterlab", env=env, ready=ready)


@pytest.fixture(scope="module")
def broker(brokers: Brokers) -> Broker:
    return brokers.make("redis")


@pytest.fixture(scope="module")
def web(module_launcher: Launcher, broker: Broker) -> Iterator[WebServer]:
    with served(module_launcher, broker) as web:
        yield web


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page. What JupyterLab itself does not catch, such as requests of a page that is left, is no fault of ours."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    uncaught: list[str] = []
    page.on("pageerror", lambda error: uncaught.append(f"{error.message}\n{error.stack}"))
    page.set_default_timeout(LONG)
    yield page
    context.close()
    assert [one for one in uncaught if "blob:" in one] == []  # where modules of ours are


def notebook_of(*cells: str) -> str:
    made = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": cell,
        }
        for number, cell in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content: dict[str, Any] = {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content)


def test_a_notebook_shows_jobs_and_shows_them_again_when_it_is_opened_again(
    page: Page, launcher: Launcher, web: WebServer, broker: Broker, tmp_path: Path
) -> None:
    project, path = f"lab{next(PROJECTS)}", tmp_path / "go"
    start(element_jobs.work, project, "apple", str(path))
    made = f"JobsWidget({project!r}, url={web.url!r}, realtime=realtime, user='ada', cancellable=True)"
    (tmp_path / "jobs.ipynb").write_text(
        notebook_of(
            "from celery_realtime.contrib.notebook import JobsWidget\nfrom tests.browser.element_jobs import realtime",
            f"jobs = {made}\njobs",
        )
    )
    lab = launcher.start(JupyterLab(tmp_path, broker.env))
    page.goto(f"http://127.0.0.1:{lab.port}/lab/tree/jobs.ipynb?reset")
    expect(page.get_by_text("Python 3 (ipykernel) | Idle").first).to_be_visible()
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")
    project_element = page.locator("celery-project")
    expect(row(project_element, "apple").locator(".status")).to_have_text("running")
    path.touch()
    expect(row(project_element, "apple").locator(".status")).to_have_text("done")
    start(element_jobs.endless, project)
    expect(row(project_element, "endless").locator(".status")).to_have_text("running")

    page.evaluate("jupyterapp.commands.execute('docmanager:save').then(() => null)")
    page.reload()
    expect(row(project_element, "endless").locator(".status")).to_have_text("running")
    row(project_element, "endless").get_by_role("button", name="Stop endless").click()
    expect(row(project_element, "endless").locator(".status")).to_have_text("stopped")
    if "NOTEBOOK_PICTURE" in os.environ:
        page.screenshot(path=os.environ["NOTEBOOK_PICTURE"])
