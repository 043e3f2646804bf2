"""Run flights of the death matrix in a test."""

from __future__ import annotations

import os
from pathlib import Path

from tests.deaths.cell_run import FlightRun
from tests.deaths.cells import Cell, Flight, flights, matrix
from tests.deaths.stage import Stages
from tests.deaths.verdict import Fault


def all_flights() -> list[Flight]:
    """Return the matrix.

    ``DEATHS_ONLY`` is a pattern of cells, ``DEATHS_FLIGHT`` how many share a stage at one time.
    """
    return flights(chosen_cells(), int(os.environ.get("DEATHS_FLIGHT", "18")))


def chosen_cells() -> list[Cell]:
    return matrix(os.environ.get("DEATHS_ONLY", "*"))


def check(stages: Stages, flight: Flight, folder: Path) -> None:
    """Run a flight, and fail with all that was shown wrongly."""
    run = FlightRun(stages.stage(flight.stage), flight, folder)
    verdicts = run.run()
    wrong = {cell: faults for cell, faults in verdicts.items() if faults}
    report = _lines(wrong, run)
    write_report([*(f"right {cell}" for cell in verdicts.keys() - wrong.keys()), *report])
    assert not wrong, "\n".join(report)


def write_report(lines: list[str]) -> None:
    """Add verdicts to the file that ``DEATHS_REPORT`` names, if it names one."""
    if lines and "DEATHS_REPORT" in os.environ:
        with Path(os.environ["DEATHS_REPORT"]).open("a") as file:
            file.write("\n".join([*lines, ""]))


def _lines(wrong: dict[str, list[Fault]], run: FlightRun) -> list[str]:
    lines = []
    for cell, faults in wrong.items():
        lines += [f"wrong {cell}:", *(f"    {fault}" for fault in faults)]
        lines += [f"    {line}" for line in run.story(cell, {fault.job for fault in faults})]
    if "DEATHS_LOGS" in os.environ:
        lines += [f"log of {cell}:\n{run.log(cell)}" for cell in wrong]
    return lines
