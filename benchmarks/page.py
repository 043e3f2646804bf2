"""Fill the parts of docs/benchmarks.md and docs/capacity.md that are made of figures, and draw the plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import capacity, plots
from benchmarks.figures import Figure, table
from benchmarks.record import Circumstances, Record

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
CAPACITY_PAGE = PAGE.with_name("capacity.md")

#: Processes that want a processor before a row is measured, from which on its page says so.
BUSY = 1.0

#: Libraries whose versions the page names; the file of figures has all.
NAMED = (
    "Python",
    "celery",
    "python-socketio",
    "Valkey",
    "Redis",
    "RabbitMQ",
    "uvicorn",
    "gevent",
    "eventlet",
    "granian",
)


def refresh(page: Path = PAGE) -> str:
    """Make all that is made of the recorded figures again; returns the names of the files."""
    record = Record.read(page.with_suffix(".json"))
    written = []
    for each, parts in ((page, PARTS), (page.with_name(CAPACITY_PAGE.name), CAPACITY_PARTS)):
        each.write_text(filled(each.read_text(), record, parts))
        written.append(each.name)
    for name, drawing in plots.drawings(record).items():
        (page.parent / name).write_text(drawing)
        written.append(name)
    return ", ".join(written)


Parts = Mapping[str, Callable[[Record], str]]


def filled(page: str, record: Record, parts: Parts | None = None) -> str:
    """Return the page with each of its parts made again; by default those of docs/benchmarks.md.

    Raises:
        ValueError: The page lacks the marks of a part.
    """
    for name, make in (PARTS if parts is None else parts).items():
        begin, end = f"<!-- {name}: made by python -m benchmarks -->", f"<!-- end of {name} -->"
        head, *rest = page.split(begin)
        if len(rest) != 1 or end not in rest[0]:
            raise ValueError(f"the page has no place for its {name}")
        page = f"{head}{begin}\n\n{make(record)}\n\n{end}{rest[0].partition(end)[2]}"
    return page


def circumstances_text(record: Record) -> str:
    """Return where and with what the rows were measured: a paragraph for all that have it in common."""
    alike: dict[tuple[str, str, str, int, str], list[str]] = {}
    for name, row in record.rows.items():
        alike.setdefault(_where(row.circumstances), []).append(f"`{name}`")
    paragraphs = []
    for (machine, versions, date, rounds, remark), names in alike.items():
        which = "All rows" if len(alike) == 1 else _several(names)
        often = "one round" if rounds == 1 else f"{rounds} rounds" if rounds else "rounds not recorded"
        paragraphs.append(f"{which}: {machine}; {versions}; {often}, {date}{remark}.")
    took = sum(row.circumstances.seconds for row in record.rows.values())
    if took < 1:
        return "\n\n".join(paragraphs)
    time = f"{took / 60:.0f} minutes" if took >= 90 else f"{took:.0f} seconds"
    return "\n\n".join([*paragraphs, f"It took {time}."])


def _where(circumstances: Circumstances) -> tuple[str, str, str, int, str]:
    versions = circumstances.versions
    named = ", ".join(f"{name} {versions[name]}" for name in NAMED if name in versions)
    remark = " (quick: the figures mean nothing)" if circumstances.is_quick else ""
    if circumstances.load >= BUSY:
        remark += "; beside other work, so that only ratios of processor time say much"
    return circumstances.machine, named, circumstances.date, circumstances.rounds, remark


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def goals_text(record: Record) -> str:
    """Return how many goals are met, and which are not."""
    asked = [figure for figure in record.figures if figure.goal is not None]
    missed = [figure for figure in asked if not figure.is_met]
    if not missed:
        return f"All {len(asked)} goals are met."
    head = f"{len(asked) - len(missed)} of {len(asked)} goals are met. The others, by their rows:"
    rows = dict.fromkeys(figure.row for figure in missed)
    return "\n".join([head, "", *(_missed(row, asked, missed) for row in rows)])


def _missed(row: str, asked: list[Figure], missed: list[Figure]) -> str:
    """Return a line about the goals that a row misses, with the one that it misses by most."""
    of_row = [figure for figure in missed if figure.row == row]
    count = sum(figure.row == row for figure in asked)
    worst = max(of_row, key=lambda figure: figure.miss)
    _, what, broker, _, ours, ratio, _, goal, _ = worst.cells
    value = f"{ratio} of stock" if ratio and worst.is_about_ratio else ours
    most = "; by most" if len(of_row) > 1 else ""
    return f"- `{row}`: {len(of_row)} of {count}{most}: {what} ({broker}), {value}, goal {goal}"


def _table(record: Record) -> str:
    return table([figure.cells for figure in record.figures])


def _plots(record: Record) -> str:
    return "\n\n".join(f"![{alt}]({name})" for name, alt in plots.texts(record).items())


PARTS: Parts = {
    "circumstances": circumstances_text,
    "goals": goals_text,
    "plots": _plots,
    "table": _table,
    "capacity": capacity.tables,
}

CAPACITY_PARTS: Parts = {"units": capacity.units}
