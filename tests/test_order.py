"""The order in which processes of tests take files."""

from __future__ import annotations

import pytest

from tests.conftest import HERE, LONG_FILES


@pytest.mark.parametrize("name", LONG_FILES)
def test_the_files_that_come_first_are_there(name: str) -> None:
    assert (HERE / f"{name}.py").is_file()


def test_none_is_named_twice() -> None:
    assert len({*LONG_FILES}) == len(LONG_FILES)
