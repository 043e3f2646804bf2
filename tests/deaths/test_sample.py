"""A few cells of the death matrix, drawn anew each time from those that are known to be right.

``DEATHS_SEED`` draws the same ones again; ``DEATHS_CELLS`` says how many (0 for none). With ``DEATHS_ONLY`` they are
drawn from its cells: not all of the matrix has been run yet.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.deaths.cells import Flight, draw
from tests.deaths.running import check, chosen_cells
from tests.deaths.stage import Stages

CELLS = int(os.environ.get("DEATHS_CELLS", "4"))

#: Cells that were right whenever they were tried, in prefork on Redis with results there.
RIGHT = {
    f"{cell}.prefork.redis.redis"
    for cell in (
        *("main.running.at-once", "main.returned.nothing", "group.returned.nothing", "group.stored.nothing"),
        *("broker.running.at-once", "web.running.at-once", "child.running.nothing", "child.reserved.nothing"),
    )
}


def sample() -> tuple[int, Flight | None]:
    seed = int(os.environ.get("DEATHS_SEED") or random.SystemRandom().randrange(1_000_000))
    cells = [cell for cell in chosen_cells() if cell.is_quick]
    if not os.environ.get("DEATHS_ONLY"):
        cells = [cell for cell in cells if str(cell) in RIGHT]
    return seed, draw(seed, CELLS, cells)


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_what_is_shown_of_each_job_is_true(deaths: Stages, tmp_path: Path) -> None:
    seed, flight = sample()
    if flight is None:
        pytest.skip("no cells are asked for")
    print(f"DEATHS_SEED={seed} DEATHS_CELLS={CELLS}:", *flight.cells, sep="\n  ")  # noqa: T201
    check(deaths, flight, tmp_path)
