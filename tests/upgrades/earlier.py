"""Bring back the package as it was at an earlier commit, as ``pip install`` makes it from there."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from tests.processes import ROOT
from tests.programs import on_ci

#: What pip needs of a commit to make a wheel of it.
PARTS = ("celery_realtime", "pyproject.toml", "README.md", "LICENSE")

HOME = Path(sys.prefix) / "earlier"


def installed(commit: str) -> Path:
    """Return a folder in which the package of a commit is installed, without what it depends on.

    It is kept beside what else the environment has, and made once.

    Args:
        commit: What git calls it.
    """
    whole = _git("rev-parse", "--verify", f"{commit}^{{commit}}")
    if whole.returncode:
        # A clone of a part of the history (git clone --depth), or what was unpacked from an archive.
        _give_up(f"the commit {commit} cannot be had from git (in a shallow clone: git fetch --unshallow)", whole)
    folder = HOME / whole.stdout.decode().strip()
    if not folder.is_dir():
        _install(folder)
    return folder


def _install(folder: Path) -> None:
    HOME.mkdir(exist_ok=True)
    archive = _git("archive", "--format=tar", folder.name, "--", *PARTS)
    if archive.returncode:
        _give_up(f"git makes no archive of {folder.name}", archive)
    with tempfile.TemporaryDirectory(dir=HOME) as scratch:
        sources, target = Path(scratch, "sources"), Path(scratch, "target")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(sources)
        quietly = ["--quiet", "--disable-pip-version-check"]
        made = _run(
            sys.executable, "-m", "pip", "install", *quietly, "--no-deps", "--target", str(target), str(sources)
        )
        if made.returncode:  # it has to fetch setuptools, if it has never done so
            _give_up(f"pip cannot install what was {folder.name}", made)
        try:
            target.rename(folder)
        except OSError:  # another process of the tests has made it meanwhile
            assert folder.is_dir()


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return _run("git", "-C", str(ROOT), *arguments)


def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, b"", str(error).encode())


def _give_up(what: str, done: subprocess.CompletedProcess[bytes]) -> NoReturn:
    """Skip the test; with ``CI`` set, fail it."""
    why = f"{what}: {done.stderr.decode(errors='replace').strip()}"
    if on_ci():
        pytest.fail(why)
    pytest.skip(why)
