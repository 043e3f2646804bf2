"""What runs a part of the tests on other Pythons and other packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.tools import versions
from tests.tools.versions import HERE, Combination, NotTried


@pytest.fixture
def combination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Combination:
    monkeypatch.setattr(versions, "HOME", tmp_path)
    (tmp_path / "here" / "bin").mkdir(parents=True)
    return Combination("here", HERE)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """What pyenv has in place of a Python that is not chosen: it only fails."""
    program = tmp_path / f"python{HERE}"
    program.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def test_each_python_and_celery_that_we_support_is_tried_and_the_oldest_of_everything() -> None:
    names = [combination.name for combination in versions.combinations()]
    assert names == [
        *(f"python3.{minor}" for minor in range(10, 15)),
        *(f"celery5.{minor}" for minor in (4, 5, 6)),
        "oldest",
    ]


def test_this_python_is_there() -> None:
    assert versions.find_python(HERE) == sys.executable


def test_a_python_that_does_not_start_counts_for_none(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "HERE", "0.0")
    monkeypatch.setenv("PATH", str(stand_in.parent))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.delenv(versions.ELSEWHERE, raising=False)
    with pytest.raises(NotTried, match=f"there is no Python {HERE}"):
        versions.find_python(HERE)
    monkeypatch.setenv(versions.ELSEWHERE, os.pathsep.join([str(tmp_path / "none"), str(stand_in), sys.executable]))
    assert versions.find_python(HERE) == sys.executable


def test_what_cannot_be_had_is_named_and_is_no_failure(
    combination: Combination, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert versions.attempt(combination, [["tests"]])
    assert capsys.readouterr().out.startswith("here: not tried: uv cannot be started")


@pytest.mark.parametrize(
    ("codes", "verdict"), [([0], "passed"), ([1, 0], "passed"), ([1, 1], "FAILED"), ([2], "FAILED"), ([5], "FAILED")]
)
def test_what_fails_alone_too_is_a_failure(
    combination: Combination,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: list[int],
    verdict: str,
) -> None:
    printed = iter([(code, [f"failed twice: test {code}"]) for code in codes])
    monkeypatch.setattr(versions, "python", lambda *_: next(printed))
    monkeypatch.setattr(versions, "packages_in", lambda _: "Python, Celery")
    assert versions.run(combination, [["tests"]]) == (verdict == "passed")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"here (Python, Celery): {verdict} in ")
    assert [line.strip() for line in lines[1:]] == [f"failed twice: test {code}" for code in codes[1:]]


def test_the_python_of_a_combination_is_run_with_its_programs_before_others(
    combination: Combination, tmp_path: Path
) -> None:
    (tmp_path / "here" / "bin" / "python").symlink_to(sys.executable)
    log = tmp_path / "log"
    log.write_text("what was before\n", encoding="utf-8")
    code, printed = versions.python(combination, log, "-c", "import os; print(os.environ['PATH']); raise SystemExit(3)")
    assert (code, len(printed)) == (3, 1)
    assert printed[-1].startswith(f"{tmp_path / 'here' / 'bin'}{os.pathsep}")


def test_the_run_fails_if_one_of_those_that_were_asked_for_does(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def attempt(combination: Combination, selection: object) -> bool:
        tried.append(combination.name + ("" if selection is versions.SELECTION else " quickly"))
        return combination.name != "oldest"

    monkeypatch.setattr(versions, "attempt", attempt)
    runs = (["celery5.4"], ["celery5.4", "oldest"], ["nosuch"], ["--quick", "celery5.4"])
    assert [versions.main(names) for names in runs] == [0, 1, 2, 0]
    assert tried == ["celery5.4", "celery5.4", "oldest", "celery5.4 quickly"]


@pytest.mark.long  # four runs of pytest; test_what_fails_alone_too_is_a_failure shows what becomes of them
def test_a_failure_is_seen_and_named(combination: Combination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "here" / "bin" / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    file = tmp_path / "test_it.py"
    file.write_text("def test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n", encoding="utf-8")
    done = versions.run_pytest(combination, tmp_path / "log", [str(file)])
    assert (done.passed, "1 failed, 1 passed" in done.summary) == (False, True)
    assert [line.rpartition("::")[2] for line in done.failures] == ["test_bad"]
