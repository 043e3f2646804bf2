from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_realtime.cli.doctor.checkup import Check, Outcome, examine
from celery_realtime.cli.doctor.command import exit_code
from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import ERROR, KINDS, NOTE, UNKNOWN, WARNING, Finding, finding
from tests.cli.doctor.looking import new_realtime
from tests.processes import ROOT


def made(*checks: Check, **options: object) -> list[Outcome]:
    return list(examine(Context(new_realtime(), **options), checks))  # type: ignore[arg-type]


def nothing(_context: Context) -> Iterator[Finding]:
    yield from ()


def breaks(_context: Context) -> Iterator[Finding]:
    yield finding("no-history")
    raise RuntimeError("the check has a mistake")


def test_a_check_that_raises_is_a_finding_and_the_others_are_made() -> None:
    broken, well = made(Check("broken", breaks), Check("well", nothing))
    assert [found.name for found in broken.findings] == ["no-history", "check-failed"]
    assert "the check 'broken' failed: RuntimeError: the check has a mistake" in broken.findings[1].text
    assert (broken.state, well.state) == ("unknown", "ok")


def test_a_check_that_hangs_is_a_finding_and_the_others_are_made() -> None:
    over = threading.Event()

    def hangs(_context: Context) -> Iterator[Finding]:
        yield finding("no-history")
        over.wait(600)

    hung, well = made(Check("hung", hangs), Check("well", nothing), timeout=0.2)
    over.set()
    assert [found.name for found in hung.findings] == ["no-history", "check-timed-out"]
    assert well.state == "ok"


def test_what_cannot_be_looked_at_is_skipped() -> None:
    def is_away(_context: Context) -> Iterator[Finding]:
        yield finding("broker-unreachable")

    checks = Check("broker", is_away), Check("channel", nothing, ("broker-unreachable",)), Check("history", nothing)
    assert [(each.state, each.skipped) for each in made(*checks)] == [
        ("error", ""),
        ("skipped", "broker-unreachable"),
        ("ok", ""),
    ]


def test_without_a_url_there_is_no_web_server_to_look_at() -> None:
    check = Check("http", nothing, needs_url=True)
    assert [each.state for each in (*made(check), *made(check, url="http://127.0.0.1:1"))] == ["skipped", "ok"]


@pytest.mark.parametrize(
    ("names", "code", "strict"),
    [
        ([], 0, 0),
        (["stock-wire"], 0, 0),
        (["no-history"], 0, 1),
        (["no-history", "not-sent"], 1, 1),
        (["check-failed"], 2, 2),
        (["check-failed", "not-sent"], 1, 1),
    ],
)
def test_the_exit_code_is_that_of_the_gravest_finding(names: list[str], code: int, strict: int) -> None:
    outcome = Outcome("all", [finding(name) for name in names])
    assert (exit_code([outcome]), exit_code([outcome], strict=True)) == (code, strict)


# -- what may be found ----------------------------------------------------------------------------------------------


def test_each_kind_is_named_once_and_is_whole() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.severity in (ERROR, WARNING, NOTE, UNKNOWN)
        assert kind.about.endswith(".")
        assert kind.mend


def test_each_kind_is_in_the_documentation_as_it_is_in_the_code() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.+?) \| (.+?) \|$", page(), re.MULTILINE)
    assert rows == [(kind.name, kind.severity, kind.about, kind.mend) for kind in KINDS]


def page() -> str:
    return (ROOT / "docs" / "doctor.md").read_text()


def test_each_kind_is_found_by_some_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [kind.name for kind in KINDS if f'"{kind.name}"' not in tests] == []
