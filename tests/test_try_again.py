"""What runs failed tests once more, alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools import try_again


def test_there_is_nothing_to_try_where_nothing_was_noted(tmp_path: Path) -> None:
    assert try_again.failed(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("noted", "passing", "code"),
    [(["a"], {"a"}, 0), (["a", "b"], {"a"}, 1), ([], set(), 1), (list("abcdef"), set("abcdef"), 1)],
    ids=["all pass", "one fails again", "none noted", "too many"],
)
def test_the_run_is_good_if_all_of_a_few_failures_pass_alone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    noted: list[str],
    passing: set[str],
    code: int,
) -> None:
    monkeypatch.setattr(try_again, "failed", lambda cache: noted)
    monkeypatch.setattr(try_again, "passes", passing.__contains__)
    assert try_again.main() == code
    assert ("has to be mended: a" in capsys.readouterr().out) == (0 < len(noted) <= try_again.MOST)


def test_a_test_is_run_by_pytest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the test needs none, and they take a second to load
    file = tmp_path / "test_it.py"
    file.write_text("def test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n", encoding="utf-8")
    assert [try_again.passes(f"{file}::test_{name}") for name in ("good", "bad")] == [True, False]
