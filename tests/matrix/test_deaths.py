"""Whichever process dies, whenever, and whatever follows: what is shown of each job is true.

``DEATHS_ONLY='main.*.at-once.prefork.*' make matrix ARGS='-k deaths'`` runs some of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deaths.cells import Flight
from tests.deaths.fixtures import deaths  # noqa: F401
from tests.deaths.running import all_flights, check
from tests.deaths.stage import Stages


@pytest.mark.timeout(300)
@pytest.mark.parametrize("flight", all_flights(), ids=str)
def test_what_is_shown_of_each_job_is_true(deaths: Stages, flight: Flight, tmp_path: Path) -> None:  # noqa: F811
    check(deaths, flight, tmp_path)
