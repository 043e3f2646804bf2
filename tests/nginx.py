"""nginx with a configuration of the example, on loopback."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.processes import HOST, ROOT, ManagedProcess, accepts_connections, free_port
from tests.programs import require

DEPLOY = ROOT / "example_project" / "deploy"
#: For processes of one host, and for containers.
CONFIGURATION = DEPLOY / "nginx.conf"
COMPOSE_CONFIGURATION = DEPLOY / "nginx-compose.conf"
FOLDER = "nginx-tmp"


class Nginx(ManagedProcess):
    """The example's nginx, on another port and in front of other servers.

    Args:
        folder: Where its files go.
        servers: By the addresses in the configuration, those to use.
        configuration: The file.

    Attributes:
        port, url: Where it listens.
    """

    def __init__(self, folder: Path, servers: Mapping[str, str], configuration: Path = CONFIGURATION) -> None:
        (folder / FOLDER).mkdir(parents=True)
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        file = folder / "nginx.conf"
        file.write_text(_here(configuration.read_text(), servers, self.port))
        command = [*nginx(folder, file), *([] if "daemon off;" in file.read_text() else ["-g", "daemon off;"])]
        super().__init__(command, folder=folder, name="nginx", ready=lambda: accepts_connections(self.port))


def nginx(folder: Path, file: Path) -> Sequence[str]:
    return [require("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(file)]


def _here(text: str, servers: Mapping[str, str], port: int) -> str:
    for stand_in, server in servers.items():
        assert stand_in in text
        text = text.replace(stand_in, server)
    text, count = re.subn(r"listen \S+;", f"listen {HOST}:{port};", text)
    assert count == 1
    if f"{FOLDER}/" not in text:  # in a container it has folders of its own
        paths = "".join(
            f"{kind}_temp_path {FOLDER}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = re.sub(r"pid \S+;", "pid nginx.pid;", text).replace("http {", f"http {{\n  {paths}", 1)
    if os.geteuid() == 0:
        text = f"user root;\n{text}"  # its own user may not look into this test's folder
    return text
