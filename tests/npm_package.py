"""The npm package as npm publishes it, and a project that has installed it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.processes import ROOT
from tests.programs import CLIENT, FRAMEWORKS, require

STATIC = ROOT / "celery_realtime" / "static"


def pack(folder: Path) -> Path:
    """Make the archive that ``npm publish`` would send, and return it."""
    said = run([require("npm"), "pack", "--json", "--pack-destination", str(folder)], STATIC)
    return folder / json.loads(said)[0]["filename"]


def install(archive: Path, packages: Path) -> None:
    """Unpack an archive where a project has its packages."""
    with tarfile.open(archive) as files:
        files.extractall(packages, filter="data")
    (packages / "package").rename(packages / "celery-realtime")


class Consumer:
    """A project that has installed the package, and beside it what ``tests/frameworks`` has.

    Args:
        folder: A new folder.
        archive: What ``pack`` has returned.
    """

    def __init__(self, folder: Path, archive: Path) -> None:
        require("vite")
        self.folder = folder
        self.packages = folder / "node_modules"
        self.packages.mkdir(parents=True)
        for package in (FRAMEWORKS / "node_modules").iterdir():
            if package.name != ".package-lock.json":
                (self.packages / package.name).symlink_to(package)
        install(archive, self.packages)
        shutil.copytree(FRAMEWORKS / "pages", folder / "pages")
        shutil.copy(CLIENT / "fake.mjs", folder / "pages")
        (folder / "package.json").write_text('{"private": true, "type": "module"}')

    def build(self, **environment: str) -> Path:
        """Build the pages with Vite, and return where they are.

        Args:
            **environment: ``PAGES``, those that are wanted; ``REACT``, another version of it.
        """
        built = self.folder / f"dist{'-'.join(['', *environment.values()])}"
        vite = [
            require("node"),
            str(self.packages / "vite" / "bin" / "vite.js"),
            "build",
            "pages",
            "--outDir",
            str(built),
        ]
        run(vite, self.folder, **environment)
        return built

    def run(self, *arguments: str, **environment: str) -> str:
        """Run Node in the project to a good end, and return what it has said."""
        return run([require("node"), *arguments], self.folder, **environment)


def run(command: list[str], folder: Path, *, timeout: float = 240, **environment: str) -> str:
    """Run a command to a good end, and return what it has said."""
    env = {**os.environ, **environment, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
