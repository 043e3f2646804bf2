"""The units: systemd accepts them, they fit together, and what they start, runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.deploy import files
from tests.deploy.running import LONG, SOFT, Place, Visitor, check_soft_shutdown
from tests.launcher import Brokers, Launcher
from tests.processes import HOST, ROOT
from tests.programs import require

UNITS = sorted(path.name for path in files.SYSTEMD.iterdir() if path.suffix in (".service", ".timer"))
#: Those that start a program of ours, or look after one, as users see them: of templates, an instance.
INSTANCES = [
    name.replace("@.", "@8081.") if "restart" not in name else name.replace("@.", "@example-worker.") for name in UNITS
]
#: How exposed systemd may call a unit, of 100: one without any of the restrictions has 96.
MOST_EXPOSED = 25

WORKER, BEAT = files.Unit("example-worker.service"), files.Unit("example-beat.service")
WEB = files.Unit("example-web@.service", "8081")
PLACES = {
    "/srv/example/.venv/bin/": "",
    "/run/example-worker/metrics": "FOLDER/metrics",
    "/run/example-worker": "FOLDER/health",
    "/run/example/": "FOLDER/health/",  # what a check of the health is told everywhere else
    "/run/example-web-8081": "FOLDER",
    "/var/lib/example-beat": "FOLDER",
    "127.0.0.1:8081": f"{HOST}:PORT",
}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a folder of their own, with programs of the names that they start."""
    folder = tmp_path / "system"
    shutil.copytree(files.SYSTEMD, folder)
    programs = tmp_path / "example" / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program in ("celery", "gunicorn", "python"):
        (programs / program).symlink_to("/bin/true")
    for path in folder.rglob("*.*"):
        if path.is_file():
            path.write_text(path.read_text().replace("/srv/example", str(tmp_path / "example")))
    return folder


def analyze(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # A colon at the end: the units of the distribution, such as network-online.target, come behind ours.
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
    return subprocess.run(
        [require("systemd-analyze"), *command], env=env, capture_output=True, text=True, timeout=LONG, check=False
    )


@pytest.mark.parametrize("name", INSTANCES)
def test_systemd_accepts_them(installed: Path, name: str) -> None:
    done = analyze(installed, "verify", "--man=no", "--recursive-errors=no", str(installed / name))
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "example" in line]
    assert (done.returncode, complaints) == (0, [])


def test_systemd_would_complain_of_a_mistake(installed: Path) -> None:
    unit = installed / "example-beat.service"
    unit.write_text(unit.read_text().replace("TimeoutStopSec=30", "TimeoutStopSecs=30"))
    assert "TimeoutStopSecs" in analyze(installed, "verify", "--man=no", str(unit)).stderr


@pytest.mark.parametrize("name", [name for name in INSTANCES if name.endswith(".service")])
def test_they_are_restricted_to_what_they_need(installed: Path, name: str) -> None:
    done = analyze(installed, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(installed / name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_worker_has_time_to_end_before_it_is_killed() -> None:
    assert (WORKER.one("KillMode"), WORKER.one("KillSignal")) == ("mixed", "SIGQUIT")
    assert float(WORKER.one("TimeoutStopSec")) >= float(WORKER.env["SOFT_SHUTDOWN_SECONDS"]) + 20


def test_they_start_what_compose_starts() -> None:
    services = files.services()
    worker = [word for word in services["worker"]["command"] if not word.startswith("--concurrency")]
    assert [Path(WORKER.command[0]).name, *WORKER.command[1:]] == worker
    differing = ("--bind=", "--worker-tmp-dir=")
    web = [word for word in services["web-1"]["command"] if not word.startswith(differing)]
    assert [Path(WEB.command[0]).name, *(word for word in WEB.command[1:] if not word.startswith(differing))] == web


def test_what_looks_after_a_unit_is_started_with_it_and_starts_it_anew() -> None:
    for unit, name in ((WORKER, "example-worker"), (WEB, "example-web@8081")):
        base, at, instance = name.partition("@")
        timer = files.Unit(f"{base}-health{at}.timer", instance)
        check = files.Unit(f"{base}-health{at}.service", instance)
        assert f"{base}-health{at}{instance}.timer" in unit.one("Wants").split()
        assert timer.one("PartOf") == f"{name}.service"
        assert check.one("OnFailure") == f"example-restart@{name}.service"
    assert files.Unit("example-restart@.service", "NAME").command[1:] == ["try-restart", "NAME.service"]
    health = files.Unit("example-worker-health.service")
    assert WORKER.env["HEALTH_FILE"] == health.one("ConditionPathExists") == health.command[-1]


def test_no_unit_or_file_of_them_has_a_secret() -> None:
    assert "SECRET_KEY" not in files.environment_file()
    assert not any("SECRET_KEY=" in path.read_text() for path in files.SYSTEMD.rglob("*.*") if path.is_file())


def test_what_they_start_runs_and_ends_when_it_is_asked_to(launcher: Launcher, brokers: Brokers) -> None:
    broker = brokers.make("rabbitmq")
    common = {**files.environment_file(), "SECRET_KEY": files.SECRETS["SECRET_KEY"]}
    worker, web, beat = (Place(launcher, name, broker, PLACES) for name in ("worker", "web", "beat"))
    for folder in ("health", "metrics"):
        (worker.folder / folder).mkdir()
    worker.start(WORKER.command, {**common, **WORKER.env, **SOFT}, worker.is_healthy)
    web.start(WEB.command, {**common, **WEB.env}, web.listens)
    for place in (worker, web):
        place.process.wait_ready()
    visitor = Visitor(f"http://{HOST}:{web.port}")
    client = visitor.follow(launcher)
    beat.start(BEAT.command, {**common, **BEAT.env, "BEAT_SECONDS": "1"}, lambda: True)
    scheduled = client.wait_for_event("agent_status", task="example_project.tasks.resize", status="queued")["job_id"]
    assert beat.process.stop() == 0
    assert client.wait_for_end(scheduled)["result"]["photo"] == "harbour.jpg"
    assert worker.check(files.Unit("example-worker-health.service").command) == 0
    if shutil.which("curl") is not None:
        assert web.check(files.Unit("example-web-health@.service", "8081").command) == 0
    check_soft_shutdown(worker, visitor, client, signal.Signals[WORKER.one("KillSignal")])
    assert worker.process.returncode in (0, int(WORKER.one("SuccessExitStatus")))
    client.close()
    assert web.process.stop() == 0


def test_the_page_on_them_names_units_that_are_there() -> None:
    named = set(re.findall(r"\bexample-[\w@-]+\.(?:service|timer)\b", (ROOT / "docs" / "running.md").read_text()))
    assert {re.sub(r"@\d+", "@", name) for name in named} <= {*UNITS}
