"""No version that our bounds let in has a hole that is on our list."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.tools import audit
from tests.tools.audit import Advisory

HOLE = Advisory("some", "X-1", [], [("1.0", "1.5"), ("2.0", "2.3")], "a hole")


def test_no_version_within_our_bounds_has_a_known_hole() -> None:
    assert audit.unbounded(audit.own_bounds(), audit.advisories()) == []


def test_nothing_that_is_installed_has_a_known_hole() -> None:
    assert audit.installed(audit.advisories()) == []


@pytest.mark.parametrize(
    ("bounds", "lets_in"),
    [
        ("", ["1.0", "2.0"]),
        (">=1.2", ["2.0", "1.2"]),
        (">=1.5", ["2.0"]),
        (">=1.5,<2", []),
        ("~=2.1", ["2.1"]),
        (">=2.3", []),
        (">=2.2.9,<3", ["2.2.9"]),
        ("==1.4", ["1.4"]),
    ],
)
def test_bounds_are_compared_with_each_line_of_versions(bounds: str, lets_in: list[str]) -> None:
    found = audit.unbounded({"some": SpecifierSet(bounds)}, [HOLE])
    assert [problem.split(" lets in ")[1].split(",")[0] for problem in found] == lets_in


def test_the_first_sound_version_has_no_hole() -> None:
    having = [version for version in ("0.9", "1.0", "1.4.9", "1.5", "2.2", "2.3", "3") if HOLE.has(Version(version))]
    assert having == ["1.0", "1.4.9", "2.2"]


def test_each_package_that_users_install_has_been_looked_up() -> None:
    data = json.loads(audit.LIST.read_text())
    looked_up = {advisory.package for advisory in audit.advisories()} | {*data["none_found"]}
    # Of the other extras nothing comes to users: tests, style and documentation.
    assert audit.bounds_of_users().keys() <= looked_up


def test_the_list_is_well_formed() -> None:
    known = audit.advisories()
    names = [name for advisory in known for name in (advisory.id, *advisory.aliases)]
    assert len({*names}) == len(names)
    assert all(Version(first) < Version(fixed) for advisory in known for first, fixed in advisory.affected)
    assert [advisory.package for advisory in known] == sorted(advisory.package for advisory in known)


def test_time_alone_leads_to_a_reminder_and_no_failure() -> None:
    assert audit.reminder(audit.reviewed() + timedelta(days=audit.REVIEW_AFTER)) == []
    (line,) = audit.reminder(audit.reviewed() + timedelta(days=audit.REVIEW_AFTER + 1))
    assert "91 days" in line


def test_packages_that_pip_audit_skips_count_as_not_looked_up() -> None:
    skipped = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI and could not be audited"}
    sound = {"name": "click", "version": "8.1", "vulns": []}
    broken = {"name": "some", "version": "1.2", "vulns": [{"id": "X-1"}]}
    assert audit.findings_in([skipped, skipped]) == ([], 0)
    assert audit.findings_in([skipped, sound, broken]) == (["some 1.2: X-1"], 2)
