"""The Dockerfile: its linter accepts it, what it copies is there, and it installs all that the example needs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy import files
from tests.processes import ROOT

INSTRUCTIONS = [
    line.split(maxsplit=1) for line in files.DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")
]
COPIED = [
    words[:-1] for name, rest in INSTRUCTIONS if name == "COPY" and "--from" not in rest for words in [rest.split()]
]
LONG = 600.0


def test_the_linter_accepts_it() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, files.DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_copies_is_there_and_is_sent_to_docker() -> None:
    rules = (files.DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    for path in (path for paths in COPIED for path in paths):
        assert (ROOT / path).exists()
        assert any(path == other or path.startswith(f"{other}/") for other in sent)


def test_its_user_is_the_one_that_may_write_where_it_has_to() -> None:
    [user] = [rest for name, rest in INSTRUCTIONS if name == "USER"]
    assert all(f"uid={user}," in mount for mount in files.services()["worker"]["tmpfs"] if ":" in mount)
    for name in ("example-worker", "example-web"):
        context = files.manifest("Deployment", name)["spec"]["template"]["spec"]["securityContext"]
        assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {int(user)}


def test_its_ports_are_those_that_are_named() -> None:
    [ports] = [rest.split() for name, rest in INSTRUCTIONS if name == "EXPOSE"]
    containers = [files.container(name) for name in ("example-web", "example-worker")]
    assert ports == [str(container["ports"][0]["containerPort"]) for container in containers]


@pytest.mark.long
def test_what_it_installs_is_all_that_the_example_needs(tmp_path: Path) -> None:
    """Carry out its instructions, in virtual environments in place of images."""
    folder, wheels = tmp_path / "srv", tmp_path / "wheels"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], timeout=LONG, check=True)
    python = tmp_path / "venv" / "bin" / "python"
    for name, rest in INSTRUCTIONS:
        if name == "FROM":
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        elif name == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for source in sources:
                copy(ROOT / source, folder / target if target != "./" else folder / Path(source).name)
        elif name == "RUN":
            program, *options = shlex.split(re.sub(r"(?<= )/wheels", str(wheels), rest))
            assert program == "pip"
            subprocess.run([python, "-m", "pip", *options], cwd=folder, timeout=LONG, check=True)
    code = "import example_project.app, celery_realtime; print(celery_realtime.__file__)"
    env = {"METRICS_PORT": "9808", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [python, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "venv") in done.stdout
    assert (python.parent / "gunicorn").exists()


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    else:
        shutil.copy(source, target)
