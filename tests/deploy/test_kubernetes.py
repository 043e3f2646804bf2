"""The manifests: they have the form of Kubernetes, they fit together, and what they start, runs."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import kubernetes_validate
import pytest

from tests.deploy import files
from tests.deploy.running import SOFT, Place, Visitor, check_soft_shutdown, read
from tests.launcher import Brokers, Launcher
from tests.processes import HOST
from tests.waiting import wait_for

MANIFESTS = files.manifests()
DEPLOYMENTS = [each for each in MANIFESTS if each["kind"] == "Deployment"]
WORKER, WEB = files.container("example-worker"), files.container("example-web")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PLACES = {
    "/run/example": "FOLDER/health",
    "/run/metrics": "FOLDER/metrics",
    "0.0.0.0:8080": f"{HOST}:PORT",
    "0.0.0.0": HOST,
}


def name_of(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_they_have_the_form_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_manifest_of_another_form_would_be_refused() -> None:
    broken = {**files.manifest("Service", "example-web"), "spec": {"port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def labels_of(name: str) -> Any:
    return files.manifest("Deployment", name)["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", ["example-worker", "example-web"])
def test_selectors_choose_the_pods_that_they_mean(name: str) -> None:
    others = [labels_of(other) for other in ("example-worker", "example-web") if other != name]
    for manifest in MANIFESTS:
        if manifest["metadata"]["name"] == name and "selector" in manifest["spec"]:
            selector = manifest["spec"]["selector"]
            selected = selector.get("matchLabels", selector)
            assert selected.items() <= labels_of(name).items()
            assert not any(selected.items() <= other.items() for other in others)


def test_names_of_configuration_and_services_agree() -> None:
    config = files.manifest("ConfigMap", "example")
    for container in (WORKER, WEB):
        assert container["envFrom"] == [
            {"configMapRef": {"name": config["metadata"]["name"]}},
            {"secretRef": {"name": "example"}},
        ]
        # The secret is made by a command of README.md, and committed nowhere.
        assert not {"SECRET_KEY", "CELERY_BROKER_URL"} & {
            *config["data"],
            *(each["name"] for each in container.get("env", [])),
        }
    [rule] = files.manifest("Ingress", "example")["spec"]["rules"]
    [port] = files.manifest("Service", "example-web")["spec"]["ports"]
    backends = [path["backend"]["service"] for path in rule["http"]["paths"]]
    assert all(backend == {"name": "example-web", "port": {"name": port["name"]}} for backend in backends)
    assert port["targetPort"] in [each["name"] for each in WEB["ports"]]
    assert "kubectl create secret generic example" in (files.DEPLOY / "README.md").read_text()


def test_the_ingress_has_each_path_of_the_page_and_neither_metrics_nor_health() -> None:
    from example_project.app import app

    [rule] = files.manifest("Ingress", "example")["spec"]["rules"]
    paths = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}

    def leads_to(path: str) -> bool:
        return path in paths or any(
            kind == "Prefix" and path.startswith(f"{prefix}/") for prefix, kind in paths.items()
        )

    served = {rule.rule for rule in app.url_map.iter_rules()}
    assert {path for path in served if not leads_to(path)} == {"/health", "/health/live", "/health/ready"}
    assert leads_to("/socket.io/")
    assert not leads_to("/metrics")


def test_volumes_are_there_for_all_that_is_written() -> None:
    for deployment in DEPLOYMENTS:
        spec = deployment["spec"]["template"]["spec"]
        [container] = spec["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["mountPath"] for mount in WORKER["volumeMounts"]}
    env = {each["name"]: each["value"] for each in WORKER["env"]}
    assert {os.path.dirname(env["HEALTH_FILE"]), env["PROMETHEUS_MULTIPROC_DIR"]} <= mounted  # noqa: PTH120 (of a pod)


def test_a_pod_has_time_to_end_before_it_is_killed() -> None:
    spec = files.manifest("Deployment", "example-worker")["spec"]["template"]["spec"]
    env = {each["name"]: each["value"] for each in WORKER["env"]}
    assert env["REMAP_SIGTERM"] == "SIGQUIT"
    assert spec["terminationGracePeriodSeconds"] >= float(env["SOFT_SHUTDOWN_SECONDS"]) + 20
    service = files.services()["worker"]
    assert service["stop_grace_period"] == f"{spec['terminationGracePeriodSeconds']}s"
    assert service["environment"]["SOFT_SHUTDOWN_SECONDS"] == env["SOFT_SHUTDOWN_SECONDS"]


def test_what_prometheus_scrapes_is_a_port_of_the_pod() -> None:
    for deployment in DEPLOYMENTS:
        template = deployment["spec"]["template"]
        ports = [str(port["containerPort"]) for port in template["spec"]["containers"][0]["ports"]]
        assert template["metadata"]["annotations"] == {"prometheus.io/scrape": "true", "prometheus.io/port": ports[0]}
    assert files.manifest("ConfigMap", "example")["data"]["METRICS_PORT"] == str(WORKER["ports"][0]["containerPort"])


def test_containers_are_started_as_compose_starts_them() -> None:
    services = files.services()
    assert WEB["command"] == services["web-1"]["command"]
    shell, option, script = WORKER["command"]
    assert (shell, option) == ("sh", "-c")
    assert script.split("exec ")[1].split() == services["worker"]["command"]


def test_what_they_start_runs_and_ends_when_it_is_asked_to(launcher: Launcher, brokers: Brokers) -> None:
    broker = brokers.make("rabbitmq")
    common = {**files.manifest("ConfigMap", "example")["data"], "SECRET_KEY": files.SECRETS["SECRET_KEY"]}
    worker, web = (Place(launcher, name, broker, PLACES) for name in ("worker", "web"))
    for folder in ("health", "metrics"):
        (worker.folder / folder).mkdir()
    left = worker.folder / "metrics" / "counter_1.db"
    left.write_bytes(b"of a container before")
    own = {each["name"]: each["value"] for each in WORKER["env"]}
    worker.start(WORKER["command"], {**common, **own, **SOFT}, worker.is_healthy)
    web.start(WEB["command"], common, web.listens)
    for place in (worker, web):
        place.process.wait_ready()
    assert not left.exists()
    visitor = Visitor(f"http://{HOST}:{web.port}")
    client = visitor.follow(launcher)
    [job] = visitor.start("transcribe", 0.5)
    assert client.wait_for_end(job)["status"] == "success"
    for kind in PROBES:
        wait_for(lambda kind=kind: worker.check(WORKER[kind]["exec"]["command"]) == 0)
        assert WEB[kind]["httpGet"]["port"] == "http"
        assert '"ok"' in read(web.port, WEB[kind]["httpGet"]["path"])
    published = re.compile("^celery_realtime_events_published_total", re.MULTILINE)
    wait_for(lambda: published.search(read(worker.metrics_port, "/metrics")))  # a child counts once a second
    check_soft_shutdown(worker, visitor, client, signal.SIGTERM)
    assert worker.check(WORKER["readinessProbe"]["exec"]["command"]) == 1
    client.close()
    assert web.process.stop() == 0
