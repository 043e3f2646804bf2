"""Look for known holes in what this package depends on: ``python -m tests.tools.audit``.

The list ``security/advisories.json`` is checked always: no version within our bounds, and none that is installed, may
be one that an advisory names. If pip-audit is installed and can reach its data, it is asked about what is installed;
where it can reach nothing, it says that nothing was found, which is not taken for an answer.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LIST = ROOT / "security" / "advisories.json"

#: Days after which somebody should look for new advisories, as docs/security.md says.
REVIEW_AFTER = 90


class Advisory(NamedTuple):
    """One known hole.

    Attributes:
        package: What has it.
        id: Its name; ``aliases`` are others.
        affected: From which version on, and which is the first without it, for each line of versions.
        summary: What it is.
    """

    package: str
    id: str
    aliases: list[str]
    affected: list[tuple[str, str]]
    summary: str

    def has(self, version: Version) -> bool:
        """Tell whether a version has the hole."""
        return any(Version(first) <= version < Version(fixed) for first, fixed in self.affected)

    def __str__(self) -> str:
        names = ", ".join([self.id, *self.aliases])
        return f"{names}: {self.summary}; affected: " + ", ".join(
            f"{first} to below {fixed}" for first, fixed in self.affected
        )


def advisories() -> list[Advisory]:
    """Return those of the list."""
    return [Advisory(**entry) for entry in json.loads(LIST.read_text())["advisories"]]


def reviewed() -> date:
    """Return when somebody looked for advisories last."""
    return date.fromisoformat(json.loads(LIST.read_text())["reviewed"])


def unbounded(bounds: dict[str, SpecifierSet], known: list[Advisory]) -> list[str]:
    """Return what our bounds let in that has a hole."""
    return [
        f"{advisory.package}{bounds[advisory.package]} lets in {version}, which has {advisory}"
        for advisory in known
        if advisory.package in bounds
        for version in _affected_within(advisory, bounds[advisory.package])
    ]


def _affected_within(advisory: Advisory, bounds: SpecifierSet) -> Iterator[Version]:
    """Yield versions within bounds that have a hole: of each line of versions the first, or the lower bound."""
    lowest = [Version(one.version) for one in bounds if one.operator in (">=", "~=", "==")]
    starts = [Version(first) for first, _ in advisory.affected] + lowest
    yield from (version for version in starts if version in bounds and advisory.has(version))


def own_bounds(leave_out: tuple[str, ...] = ()) -> dict[str, SpecifierSet]:
    """Return the bounds of what this package depends on, with all its extras but some."""
    bounds: dict[str, SpecifierSet] = {}
    for requirement in map(Requirement, importlib.metadata.requires("celery-realtime") or ()):
        extra = "" if requirement.marker is None else str(requirement.marker).rpartition("extra == ")[2].strip('"')
        name = canonicalize_name(requirement.name)
        if extra not in leave_out and name != "celery-realtime":
            bounds[name] = bounds.get(name, SpecifierSet()) & requirement.specifier
    return bounds


def bounds_of_users() -> dict[str, SpecifierSet]:
    """Return the bounds of what users install, beside what runs in their tests alone."""
    return own_bounds(("attack", "docs", "jupyter", "lint", "package", "test", "testing"))


def installed(known: list[Advisory]) -> list[str]:
    """Return what is installed and has a hole of the list."""
    versions: dict[str, Version] = {
        canonicalize_name(one.metadata["Name"]): Version(one.version) for one in importlib.metadata.distributions()
    }
    return [
        f"{advisory.package} {versions[advisory.package]} is installed and has {advisory}"
        for advisory in known
        if advisory.package in versions and advisory.has(versions[advisory.package])
    ]


def ask_pip_audit() -> tuple[list[str], int]:
    """Return what pip-audit finds in what is installed, and how many packages it has data of."""
    program = shutil.which("pip-audit")
    if program is None:
        return [], 0
    folder = sysconfig.get_path("purelib")
    command = [program, "--path", folder, "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    try:
        packages = json.loads(finished.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], 0
    return findings_in(packages)


def findings_in(packages: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Return what pip-audit has found, and how many of the packages it has looked up; others it names as skipped."""
    looked_up = [package for package in packages if "skip_reason" not in package]
    found = [f"{one['name']} {one['version']}: {hole['id']}" for one in looked_up for hole in one["vulns"]]
    return found, len(looked_up)


def reminder(today: date) -> list[str]:
    """Return what to remind of: the list does not grow by itself. It is no failure, which would come by time alone."""
    age = (today - reviewed()).days
    return [f"nobody has looked for new advisories for {age} days; see docs/security.md"] if age > REVIEW_AFTER else []


def main() -> int:
    """Print what is wrong; returns 1 if something is."""
    known = advisories()
    problems = [*unbounded(own_bounds(), known), *installed(known)]
    print(f"{len(known)} advisories of {LIST.relative_to(ROOT)}, reviewed {reviewed()}: {len(problems)} problems")
    print(*reminder(date.today()))  # noqa: DTZ011 - a day more or less does not matter
    found, count = ask_pip_audit()
    if count:
        print(f"pip-audit has data of {count} packages: {len(found)} problems")
    else:
        print("pip-audit is not installed, or reaches no data: only the list was checked")
    problems += found
    print("\n".join(problems))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
