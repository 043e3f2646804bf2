"""Install what the tests need beside Python, where that is possible, and say what is missing where it is not.

Run it with ``python -m tests.tools.install_services``; with ``--large``, it installs what ``make long`` needs, too,
and with ``--browsers`` what ``make browsers`` does.
As root on Debian it installs packages; elsewhere it tells what to install. Tests skip what is missing, so that is no
failure, except where ``CI`` is set.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.programs import (
    BROWSERS,
    LARGE,
    LARGE_NPM_PACKAGES,
    NPM_PACKAGES,
    PROGRAMS,
    Program,
    can_be_had,
    find_npm,
    improvable,
    missing,
    npm_packages_are_installed,
    on_ci,
)

# Debian's packages ask it before they start a service.
POLICY = Path("/usr/sbin/policy-rc.d")


def main() -> int:
    packages = [*NPM_PACKAGES]
    wanted = {**PROGRAMS}
    if "--browsers" in sys.argv[1:]:
        wanted |= BROWSERS
    if "--large" in sys.argv[1:]:
        packages += LARGE_NPM_PACKAGES
        wanted |= LARGE
    absent = missing(wanted)
    if may_install():
        absent |= improvable()
    if absent:
        print("Missing:", ", ".join(absent))
        install(absent.values())
    if find_npm():
        install_npm_packages(packages)
    return report(wanted)


def install(programs: Iterable[Program]) -> None:
    if may_install():
        install_debian_packages(dict.fromkeys(package for program in programs for package in program.debian))
    elif is_debian():
        packages = " ".join(dict.fromkeys(package for program in programs for package in program.debian))
        print(f"Not root, so it is for you to run: sudo apt-get install --no-install-recommends {packages}")
    elif shutil.which("brew"):
        for formula in dict.fromkeys(program.homebrew for program in programs if program.homebrew):
            print(f"It is for you to run: brew install {formula}")
    else:
        print("It is for you to install: this machine has neither apt-get nor brew.")


def may_install() -> bool:
    return is_debian() and os.geteuid() == 0


def is_debian() -> bool:
    return shutil.which("apt-get") is not None


def install_debian_packages(packages: Iterable[str]) -> None:
    """Install one after the other: one that cannot be had keeps none of the rest away."""
    apt_get("update")
    with no_service_started():
        for package in packages:
            apt_get("install", "--yes", "--no-install-recommends", package)


@contextlib.contextmanager
def no_service_started() -> Iterator[None]:
    """Let packages be installed that would start a server of their own, on the port that everybody knows."""
    if POLICY.exists():  # its owner has decided
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def apt_get(*arguments: str) -> None:
    command = [
        "apt-get",
        "--quiet",
        "-o",
        "Acquire::Retries=3",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
        *arguments,
    ]
    run(command, env={"DEBIAN_FRONTEND": "noninteractive"})


def install_npm_packages(places: Iterable[Path]) -> None:
    for place in places:
        lock = place / "package-lock.json"
        installed = place / "node_modules" / ".package-lock.json"  # which npm writes at the end
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(place)])


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command; whether it did what it should, the report at the end finds out."""
    print("+", " ".join(command), flush=True)
    done = subprocess.run(command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        print(f"{command[0]} ended with {done.returncode}")


def report(wanted: dict[str, Program]) -> int:
    width, absent = max(map(len, wanted)), missing(wanted)
    for name, program in wanted.items():
        outcome = f"missing, so skipped: {program.used_by}" if name in absent else program.find()
        print(f"  {name:{width}}  {outcome}")
    packages = npm_packages_are_installed()
    print(f"  {'(npm packages)':{width}}  {'installed' if packages else 'missing'}")
    needed = [program for name, program in absent.items() if name not in LARGE]
    return int(on_ci() and (any(map(can_be_had, needed)) or not packages))


if __name__ == "__main__":
    sys.exit(main())
