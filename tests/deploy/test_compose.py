"""The compose file: its own tools accept it, it fits together, and what it starts, runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import expect

from tests.browsers import opened_browser
from tests.deploy import files
from tests.deploy.running import LONG, Place, Visitor, read
from tests.launcher import Brokers, Launcher
from tests.metrics.prometheus import DASHBOARD, promtool
from tests.nginx import COMPOSE_CONFIGURATION, Nginx
from tests.processes import HOST
from tests.programs import require
from tests.waiting import wait_for

SERVICES = files.services()
WEB = ("web-1", "web-2")
WORKERS = ("worker-1", "worker-2")
PLACES = {
    "/run/example": "FOLDER/health",
    "/run/metrics": "FOLDER/metrics",
    "0.0.0.0:8080": f"{HOST}:PORT",
    "127.0.0.1:8080": f"{HOST}:PORT",
    "0.0.0.0": HOST,
}


# -- the file -----------------------------------------------------------------------------------------------------


def test_it_has_the_form_that_the_specification_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(files.COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_itself_reads_it(tmp_path: Path) -> None:
    done = compose_config(tmp_path, files.SECRETS)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)["services"]
    assert {name: service.get("command") for name, service in found.items() if "command" in service} == {
        name: service["command"] for name, service in SERVICES.items() if "command" in service
    }


@pytest.mark.parametrize("name", sorted(files.SECRETS))
def test_compose_refuses_to_start_without_a_secret_and_names_it(tmp_path: Path, name: str) -> None:
    assert files.required_variables() == {*files.SECRETS}
    done = compose_config(tmp_path, {key: value for key, value in files.SECRETS.items() if key != name})
    assert done.returncode != 0
    assert name in done.stderr
    assert "README.md" in done.stderr


def compose_config(folder: Path, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Have Docker Compose read the file; an old one (Debian's) does not know all of it."""
    program = require("docker-compose")
    text = files.COMPOSE.read_text()
    version = subprocess.run([program, "version", "--short"], capture_output=True, text=True, check=True).stdout
    if version.startswith("1."):
        text, count = re.subn(r", restart: true|^name: example$", "", text, flags=re.MULTILINE)
        assert count == len(WEB) + 1
    file = folder / "compose.yaml"
    file.write_text(text)
    command = [program, "-f", str(file), "--project-directory", str(files.DEPLOY), "config"]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **secrets}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LONG, check=False)


def test_what_it_mounts_is_there() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {*yaml.safe_load(files.COMPOSE.read_text())["volumes"]}
    of_host = [path for path in mounts if path.startswith(".")]
    assert {path for path in mounts if path not in of_host} == named
    assert [path for path in of_host if not files.exists(path)] == []


def test_each_service_waits_only_for_those_that_say_when_they_are_well() -> None:
    for name, service in SERVICES.items():
        assert "healthcheck" in service, name
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES
            assert how["condition"] == "service_healthy"


def test_only_this_host_may_connect() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert len(ports) == 3


def test_prometheus_asks_each_process_where_it_serves_its_metrics() -> None:
    prometheus = yaml.safe_load((files.DEPLOY / "prometheus" / "compose.yml").read_text())
    workers, web = prometheus["scrape_configs"]
    [found] = workers["dns_sd_configs"]
    env = SERVICES["worker"]["environment"]
    assert (found["names"], str(found["port"])) == (["worker"], env["METRICS_PORT"])
    assert env["METRICS_HOST"] == "0.0.0.0"
    assert web["static_configs"] == [{"targets": [f"{name}:8080" for name in WEB]}]
    [option] = [word for word in SERVICES["prometheus"]["command"] if word.startswith("--config.file=")]
    assert option == "--config.file=/etc/prometheus/compose.yml"


def test_prometheus_takes_its_configuration_with_the_rules_for_alerts() -> None:
    file = files.DEPLOY / "prometheus" / "compose.yml"
    command = [promtool(), "check", "config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alerts.yml" in done.stdout


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = files.DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "celery-realtime.yml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"
    assert mounts["./grafana"] == provider["options"]["path"]
    assert DASHBOARD.parent == files.DEPLOY / "grafana"
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"


# -- what it starts -----------------------------------------------------------------------------------------------


class Containers:
    """Two workers and two web servers of the file, with its nginx in front.

    Args:
        launcher: Starts them.
        brokers: Make the RabbitMQ and the Redis.
    """

    def __init__(self, launcher: Launcher, brokers: Brokers) -> None:
        broker = brokers.make("rabbitmq")
        self.places: dict[str, Place] = {}
        for name in (*WORKERS, *WEB):
            service = SERVICES[name.partition("-")[0] if name in WORKERS else name]
            place = self.places[name] = Place(launcher, name, broker, PLACES)
            (place.folder / "health").mkdir()
            (place.folder / "metrics").mkdir()
            # Here they share a host, so its name does not tell them apart.
            own = ["--hostname", f"{name}@here"] if name in WORKERS else []
            ready = place.is_healthy if name in WORKERS else place.listens
            place.start([*service["command"], *own], service["environment"], ready)
        for place in self.places.values():
            place.process.wait_ready()
        servers = {f"{name}:8080": f"{HOST}:{self.places[name].port}" for name in WEB}
        self.nginx = launcher.start(Nginx(launcher.folder / "nginx", servers, COMPOSE_CONFIGURATION))

    def clients_of(self, name: str) -> float:
        """Return how many clients a web server has, as its metrics say."""
        [line] = re.findall(
            r"^celery_realtime_clients\{.*\} (\S+)$", read(self.places[name].port, "/metrics"), re.MULTILINE
        )
        return float(line)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory, brokers: Brokers) -> Iterator[Containers]:
    with Launcher(tmp_path_factory.mktemp("containers")) as launcher:
        yield Containers(launcher, brokers)


def test_a_browser_and_clients_of_both_web_servers_see_the_jobs(containers: Containers, launcher: Launcher) -> None:
    visitor = Visitor(containers.nginx.url)
    clients = []
    while not all(containers.clients_of(name) for name in WEB):
        assert len(clients) < 60, "nginx sends everybody to the same server"
        clients.append(visitor.follow(launcher, f"route-{len(clients)}"))
    with opened_browser() as browser:
        page = browser.new_page()
        page.set_default_timeout(LONG * 1000)
        page.goto(f"{containers.nginx.url}/?user=ada&project=apollo")
        expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "subscribed", timeout=LONG * 1000)
        with page.expect_response("**/jobs") as response:
            page.get_by_test_id("start-group").click()
        jobs = response.value.json()["jobs"]
        group = page.locator("celery-project .workflow .message")
        expect(group).to_have_text("5 of 5 done", timeout=LONG * 1000)
    for client in clients:
        assert [client.wait_for_end(job)["status"] for job in jobs] == ["success"] * 5


def test_its_health_checks_answer_as_they_are_written(containers: Containers) -> None:
    for name, place in containers.places.items():
        service = SERVICES[name.partition("-")[0] if name in WORKERS else name]
        kind, *check = service["healthcheck"]["test"]
        assert kind == "CMD"
        wait_for(lambda place=place, check=check: place.check(check) == 0)
    [url] = [word for word in SERVICES["nginx"]["healthcheck"]["test"] if "://" in word]
    answer = json.loads(read(containers.nginx.port, url.removeprefix("http://127.0.0.1:8080")))
    assert answer["status"] == "ok"


def test_metrics_are_for_prometheus_alone(containers: Containers) -> None:
    for name in WORKERS:
        assert "celery_realtime_leases" in read(containers.places[name].metrics_port, "/metrics")
    for name in WEB:
        assert "celery_realtime_clients" in read(containers.places[name].port, "/metrics")
    for path in ("/metrics", "//metrics", "/./metrics", "/%6detrics", "/metrics/x", "/metrics?x"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(containers.nginx.port, path)


def test_a_worker_that_is_stopped_is_well_no_more(containers: Containers) -> None:
    place = containers.places[WORKERS[0]]
    _, *check = SERVICES["worker"]["healthcheck"]["test"]
    place.process.send_signal(signal.Signals[SERVICES["worker"]["stop_signal"]])
    wait_for(lambda: not place.process.running)
    assert place.check(check) == 1
