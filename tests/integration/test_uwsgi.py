"""What an application under uWSGI publishes is shown, or the log says which option is missing."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

import pytest

from celery_realtime import Realtime
from tests.integration.stage import new_project
from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.services import Broker
from tests.waiting import wait_for

pytestmark = [pytest.mark.service, pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
OLD, NEW = "2.0.26", "2.0.31"
THREADS = "--enable-threads"
FORKED = ("--master", "--processes", "2")
WARNING = "start it with enable-threads"


@pytest.fixture(scope="module", params=[OLD, NEW])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def uwsgi(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uWSGI of its own, which pip compiles."""
    folder = tmp_path_factory.mktemp("uwsgi")
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", f"uwsgi=={version}"]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    if installed.returncode:
        pytest.skip(f"pip install uwsgi=={version} does not work here: {installed.stderr[-300:]}")
    return folder / "bin" / "uwsgi"


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return str(answer.read().decode())


def served(uwsgi: Path, folder: Path, options: tuple[str, ...], env: dict[str, str]) -> tuple[ManagedProcess, str]:
    port = free_port()
    command = [str(uwsgi), "--http-socket", f"{HOST}:{port}", "--need-app", "--die-on-term"]
    path = ":".join([str(ROOT), *(part for part in sys.path if part.endswith("site-packages"))])
    process = ManagedProcess(
        [*command, "--module", "tests.integration.uwsgi_web", *options],
        folder=folder,
        name="uwsgi",
        env={**env, "PYTHONPATH": path},
        ready=lambda: accepts_connections(port),
    )
    return process, f"http://{HOST}:{port}/"


@pytest.mark.parametrize(
    ("options", "at_import"),
    [
        ((THREADS,), ""),
        (("--threads", "2"), ""),
        ((*FORKED, THREADS), ""),
        ((*FORKED, THREADS, "--lazy-apps"), "1"),
        ((*FORKED, THREADS, "--py-call-osafterfork"), "1"),
        ((*FORKED, THREADS), "1"),
        (("--processes", "2", THREADS), "1"),
        (FORKED, ""),
        ((*FORKED, "--lazy-apps"), ""),
    ],
)
def test_what_is_published_is_seen_or_the_log_says_what_is_missing(
    uwsgi: Path, version: str, tmp_path: Path, redis_broker: Broker, options: tuple[str, ...], at_import: str
) -> None:
    project = new_project()
    history = Realtime(redis_broker.app()).manager.history
    assert history is not None
    env = {**redis_broker.env, "PROJECT": project, "AT_IMPORT": at_import}
    server, url = served(uwsgi, tmp_path, options, env)
    server.start()
    try:
        jobs = {ask(url) for _ in range(6)}
        if version == NEW or {THREADS, "--threads"} & {*options}:
            wait_for(lambda: jobs <= {str(job["job_id"]) for job in history.read(project).jobs})
            assert WARNING not in server.log
        else:
            wait_for(lambda: WARNING in server.log)
    finally:
        server.kill()
