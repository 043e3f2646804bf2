"""Read the example's files for Compose, Kubernetes and systemd as their own programs do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.processes import ROOT

DEPLOY = ROOT / "example_project" / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DOCKERFILE = DEPLOY / "Dockerfile"
KUBERNETES = DEPLOY / "kubernetes"
SYSTEMD = DEPLOY / "systemd"

#: What ``.env`` is to have beside the compose file.
SECRETS = {"SECRET_KEY": "0123456789abcdef" * 4, "RABBITMQ_PASSWORD": "rabbit", "GRAFANA_PASSWORD": "grafana"}

_VARIABLE = re.compile(r"\$\{(\w+):\?([^}]*)\}")


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file, with the secrets of tests."""

    def value(match: re.Match[str]) -> str:
        return SECRETS[match[1]]

    found: dict[str, dict[str, Any]] = yaml.safe_load(_VARIABLE.sub(value, COMPOSE.read_text()))["services"]
    return found


def required_variables() -> set[str]:
    """Return those without which the compose file is refused."""
    return {match[1] for match in _VARIABLE.finditer(COMPOSE.read_text())}


def manifests() -> list[dict[str, Any]]:
    """Return all that ``kubectl apply`` is given."""
    return [document for path in sorted(KUBERNETES.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]


def manifest(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def container(name: str) -> dict[str, Any]:
    """Return the container of a Deployment."""
    [found] = manifest("Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


class Unit:
    """A unit of systemd.

    Args:
        name: Its file's; that of a template for an instance.
        instance: What ``%i`` stands for.
    """

    def __init__(self, name: str, instance: str = "") -> None:
        self.lines = [*_assignments((SYSTEMD / name).read_text().replace("%i", instance))]

    def all(self, key: str) -> list[str]:
        return [value for name, value in self.lines if name == key]

    def one(self, key: str) -> str:
        [value] = self.all(key)
        return value

    @property
    def command(self) -> list[str]:
        return shlex.split(self.one("ExecStart"))

    @property
    def env(self) -> dict[str, str]:
        """What it has beside its EnvironmentFile."""
        return dict(part.split("=", 1) for line in self.all("Environment") for part in shlex.split(line))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            yield key, value


def environment_file() -> dict[str, str]:
    """Return what the units have in common, as ``/etc/example.env`` has it."""
    return dict(_assignments((SYSTEMD / "example.env").read_text()))


def here(words: list[str], places: Mapping[str, object]) -> list[str]:
    """Return a command in which other places stand for those of a host or a container."""
    return [placed(word, places) for word in words]


def placed(text: str, places: Mapping[str, object]) -> str:
    for place, other in places.items():
        text = text.replace(place, str(other))
    return text


def exists(path: str) -> bool:
    """Tell whether a path of the compose file is there, which is relative to the file."""
    return (DEPLOY / Path(path)).exists()
