"""What the page on Compose, Kubernetes and systemd has: its own tools accept it, and what it starts, runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from celery_realtime.probe import problem_of
from tests.client_recorder import Recorder
from tests.processes import HOST, ROOT, ManagedProcess, accepts_connections, free_port
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.launcher import Brokers, Launcher

PAGE = (ROOT / "docs" / "running.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
FILE = re.compile(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Where the page's unit has its virtual environment, and what runs there.
VENV = "/srv/studio/.venv/bin/"
LONG = 60.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


COMPOSE: dict[str, Any] = yaml.safe_load(blocks("yaml")[0])
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all(blocks("yaml")[1]))
UNIT, WEB_LINES = blocks("ini")[:2]


def unit_commands() -> dict[str, list[str]]:
    found = [re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE) for text in (UNIT, WEB_LINES)]
    [worker], [web] = found
    return {name: shlex.split(line.replace(VENV, "")) for name, line in {"worker": worker, "web": web}.items()}


def compose_commands() -> dict[str, list[str]]:
    return {name: shlex.split(COMPOSE["services"][name]["command"]) for name in ("worker", "web")}


def pod_commands() -> dict[str, list[str]]:
    containers = [manifest["spec"]["template"]["spec"]["containers"][0] for manifest in MANIFESTS]
    return {container["name"]: container["command"] for container in containers}


def test_each_of_them_starts_the_same() -> None:
    systemd = unit_commands()
    systemd["web"] = [word.replace("127.0.0.1", "0.0.0.0") for word in systemd["web"]]
    assert compose_commands() == pod_commands() == systemd


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (on Debian: apt-get install systemd)")
    folder = tmp_path / "studio"
    for program in ("celery", "gunicorn"):
        path = folder / ".venv" / "bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/bin/true")
    web = UNIT
    for line in WEB_LINES.splitlines():
        web, count = re.subn(rf"^{line.partition('=')[0]}=.*$", line, web, flags=re.MULTILINE)
        assert count == 1
    for name, text in {"studio-worker": UNIT, "studio-web": web}.items():
        unit = tmp_path / f"{name}.service"
        unit.write_text(text.replace("/srv/studio", str(folder)))
        command = ["systemd-analyze", "verify", "--man=no", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        # It ends with 0 whatever it complains about; and of the machine's own units it may have an opinion too.
        complaints = [line for line in (done.stdout + done.stderr).splitlines() if "studio" in line]
        assert (done.returncode, complaints) == (0, [])


def test_compose_names_what_is_there() -> None:
    services = COMPOSE["services"]
    assert {name for service in services.values() for name in service.get("depends_on", {})} <= {*services}
    assert services["web"]["environment"] == services["worker"]["environment"]
    assert "healthcheck" in services["redis"]  # which the others wait for
    assert re.findall(r"^COPY (\S+) \.$", blocks("dockerfile")[0], re.MULTILINE) == ["requirements.txt", "."]


@pytest.mark.long
def test_compose_has_the_form_that_its_specification_says(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    (tmp_path / "compose.yaml").write_text(blocks("yaml")[0])
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["metadata"]["name"])
def test_the_manifests_have_the_form_of_kubernetes(manifest: dict[str, Any]) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    validator.validate(manifest, validator.latest_version(), strict=True)


def test_the_labels_of_the_manifests_agree() -> None:
    for manifest in MANIFESTS:
        spec = manifest["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


def of_quickstart(folder: Path) -> Path:
    """Write the quickstart's programs, which take less time, with what the page adds; return the file for probes."""
    health_file = folder / "health.json"
    of_tasks, of_web = blocks("python")
    added = {
        "tasks.py": of_tasks.replace("/tmp/health.json", str(health_file)),
        "web.py": f"import celery_realtime.contrib.flask\n\n{of_web}",
    }
    for name, text in FILE.findall(QUICKSTART):
        begin, main, end = text.partition("if __name__")
        quick = re.sub(r"time\.sleep\([\d.]+\)", "time.sleep(0.02)", begin)
        (folder / name).write_text(f"{quick}\n{added[name]}\n{main}{end}")
    return health_file


def probes() -> dict[str, list[Any]]:
    """Return the commands, and the paths, that say whether a worker and a web server are well."""
    worker, web = (manifest["spec"]["template"]["spec"]["containers"][0] for manifest in MANIFESTS)
    kinds = ("readinessProbe", "livenessProbe")
    commands = [worker[kind]["exec"]["command"] for kind in kinds]
    checks = [COMPOSE["services"][name]["healthcheck"]["test"][1:] for name in ("worker", "web")]
    return {"commands": [*commands, *checks], "paths": [web[kind]["httpGet"]["path"] for kind in kinds]}


def check_probes(health_file: Path, port: int) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in probes()["paths"]:
        assert opener.open(f"http://{HOST}:{port}{path}", timeout=LONG).status == 200
    for command in probes()["commands"]:
        here = [word.replace("/tmp/health.json", str(health_file)) for word in command]
        here = [word.replace("127.0.0.1:8080", f"{HOST}:{port}") for word in here]
        here[0] = sys.executable if here[0] == "python" else here[0]
        done = subprocess.run(here, capture_output=True, text=True, timeout=LONG, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_they_start_runs_and_ends_when_it_is_asked_to(
    launcher: Launcher, brokers: Brokers, tmp_path: Path
) -> None:
    health_file = of_quickstart(tmp_path)
    port = free_port()
    names = COMPOSE["services"]["worker"]["environment"]
    env = {**brokers.make("redis").env, "SECRET_KEY": os.urandom(32).hex()}
    assert {*names} <= {*env}
    env["XDG_RUNTIME_DIR"] = str(tmp_path)  # gunicorn makes a socket there, else in the user's home
    commands = compose_commands()
    started = {}
    for name, ready in {
        "worker": lambda: "ready." in started["worker"].current_log,
        "web": lambda: accepts_connections(port),
    }.items():
        program, *options = [word.replace("0.0.0.0:8080", f"{HOST}:{port}") for word in commands[name]]
        started[name] = ManagedProcess(
            [str(Path(sys.executable).parent / program), *options],
            folder=tmp_path,
            name=name,
            env=env,
            cwd=tmp_path,
            ready=ready,
            start_timeout=LONG,
        )
        launcher.start(started[name], wait=False)
    for process in started.values():
        process.wait_ready()
    follow_a_job(launcher, f"http://{HOST}:{port}")
    wait_for(lambda: problem_of(str(health_file), "ready", LONG) == "")
    check_probes(health_file, port)
    assert [process.stop(timeout=LONG) for process in started.values()] == [0, 0]


def follow_a_job(launcher: Launcher, url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    client = Recorder()
    launcher.closes(client)
    token = json.load(opener.open(f"{url}/token", timeout=LONG))["token"]
    client.connect(url, token=token, transports=["websocket"])
    assert client.subscribe("apollo")["ok"] is True
    body = json.dumps({"recording": "monday.wav"}).encode()
    request = urllib.request.Request(f"{url}/jobs", body, {"Content-Type": "application/json"})
    job = json.load(opener.open(request, timeout=LONG))["job_id"]
    assert client.wait_for_end(job, timeout=LONG)["result"] == {"recording": "monday.wav", "words": 1234}
    client.close()


def test_the_modules_are_copied_as_the_page_on_react_says(tmp_path: Path) -> None:
    command = re.findall(r"^cp .*$", (ROOT / "docs" / "react.md").read_text(), re.MULTILINE)[0]
    (tmp_path / "src").mkdir()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=env, timeout=100, check=True)
    assert {"celery-realtime.js", "celery-realtime.d.ts"} <= {path.name for path in (tmp_path / "src").iterdir()}
