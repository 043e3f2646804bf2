"""The configurations of nginx are accepted by it, and say the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.nginx import COMPOSE_CONFIGURATION, CONFIGURATION, Nginx, nginx
from tests.processes import HOST


@pytest.mark.parametrize(
    ("configuration", "names"),
    [(CONFIGURATION, ("127.0.0.1:8081", "127.0.0.1:8082")), (COMPOSE_CONFIGURATION, ("web-1:8080", "web-2:8080"))],
    ids=["one host", "containers"],
)
def test_nginx_accepts_them(tmp_path: Path, configuration: Path, names: tuple[str, str]) -> None:
    servers = {name: f"{HOST}:{port}" for name, port in zip(names, (8081, 8082), strict=True)}
    Nginx(tmp_path / "nginx", servers, configuration)
    command = [*nginx(tmp_path / "nginx", tmp_path / "nginx" / "nginx.conf"), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_that_of_the_containers_differs_in_names_and_folders_alone() -> None:
    places = r"^\s*(?:pid|daemon|listen|\w+_temp_path|server [\w.-]+:\d+) ?.*$"
    one, other = (
        [line for line in path.read_text().splitlines()[2:] if line and not re.match(places, line)]
        for path in (CONFIGURATION, COMPOSE_CONFIGURATION)
    )
    assert one == other
