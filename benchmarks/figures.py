"""Compare two sides fairly, and say how they compare: rounds in turn, medians, a goal, one line of the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

HEADER = ("row", "what", "broker", "stock", "ours", "ours : stock", "rounds", "goal", "met")

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


class Goal(NamedTuple):
    """What a figure should be.

    Attributes:
        limit: The number that counts.
        is_least: Whether more is better.
        is_ratio: Whether it is about ours : stock, and not about ours alone.
    """

    limit: float
    is_least: bool = False
    is_ratio: bool = True

    def is_met(self, figure: Figure) -> bool:
        """Tell whether a figure is as it should be."""
        return self.miss(figure) <= 1

    def miss(self, figure: Figure) -> float:
        """Return how many times as far as the limit a figure is; 1 or less for one that is as it should be."""
        value = figure.ratio if self.is_ratio else statistics.median(figure.ours)
        return self.limit / value if self.is_least else value / self.limit

    def shown(self, unit: str) -> str:
        """Return the goal as the table shows it."""
        return (
            f"{'≥' if self.is_least else '≤'} {_ratio(self.limit, unit) if self.is_ratio else _value(self.limit, unit)}"
        )


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        row: The benchmark that it is of.
        what: What was measured.
        broker: redis or rabbitmq.
        unit: ``s`` (a time), ``/s`` (a rate) or ``B`` (a size); ours and stock are in it.
        stock: What the stock way reached, a value for each round; empty where it has no such thing.
        ours: The same of ours.
        goal: What should be; None for what is told for information only.
    """

    row: str
    what: str
    broker: str
    unit: str
    stock: Sequence[float]
    ours: Sequence[float]
    goal: Goal | None = None

    @property
    def ratio(self) -> float:
        """The medians, ours : stock."""
        return statistics.median(self.ours) / statistics.median(self.stock) if self.stock else math.nan

    @property
    def cells(self) -> tuple[str, ...]:
        """The line, cell by cell, as in ``HEADER``."""
        stock = _value(statistics.median(self.stock), self.unit) if self.stock else ""
        ours = _value(statistics.median(self.ours), self.unit)
        ratio = _ratio(self.ratio, self.unit) if self.stock else ""
        goal = self.goal.shown(self.unit) if self.goal else ""
        return (self.row, self.what, self.broker, stock, ours, ratio, self._spread(), goal, self._verdict())

    @property
    def is_met(self) -> bool:
        """Whether it is as it should be, or nothing is asked of it."""
        return self.goal is None or self.goal.is_met(self)

    @property
    def is_about_ratio(self) -> bool:
        """Whether what is asked of it is about ours : stock."""
        return self.goal is not None and self.goal.is_ratio

    @property
    def miss(self) -> float:
        """How many times as far as its goal it is, if it misses it; 1 or less if not."""
        return 0.0 if self.goal is None else self.goal.miss(self)

    def packed(self) -> dict[str, Any]:
        """Return it as JSON holds it; the row has a place of its own there."""
        return {
            "what": self.what,
            "broker": self.broker,
            "unit": self.unit,
            "stock": _short(self.stock),
            "ours": _short(self.ours),
            "goal": self.goal and self.goal._asdict(),
        }

    @classmethod
    def unpacked(cls, row: str, packed: dict[str, Any]) -> Figure:
        """Return what :meth:`packed` has packed."""
        goal = packed["goal"] and Goal(**packed["goal"])
        return cls(row, **{**packed, "goal": goal})

    def _spread(self) -> str:
        """Return between what the rounds lie: the ratio of each round, or ours where there is nothing to compare."""
        if len(self.ours) < 2:
            return ""
        if not self.stock:
            return f"{_value(min(self.ours), self.unit)} to {_value(max(self.ours), self.unit)}"
        ratios = [ours / stock for ours, stock in zip(self.ours, self.stock, strict=True)]
        return " to ".join(_ratio(one, self.unit) for one in (min(ratios), max(ratios)))

    def _verdict(self) -> str:
        if self.goal is None:
            return ""
        return "yes" if self.is_met else "**no**"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines as a table in Markdown, with their header."""
    return "\n".join(map(line, (HEADER, ("---",) * len(HEADER), *lines)))


def line(cells: Sequence[str]) -> str:
    """Return a line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def alternate(rounds: int, *sides: Callable[[], Any]) -> list[list[Any]]:
    """Run the sides in turn (A, B, A, B, ...), and return what each of them returned, round by round."""
    found: list[list[Any]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, results in zip(sides, found, strict=True):
            results.append(side())
    return found


def _short(values: Sequence[float]) -> list[float]:
    """Return values with the digits that mean something."""
    return [float(f"{value:.5g}") for value in values]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _value(value: float, unit: str) -> str:
    if unit == "s":
        scale, name = next((one for one in _TIMES if value >= one[0]), _TIMES[-1])
        return f"{_digits(value / scale)} {name}"
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.0f}{unit}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(ratio: float, unit: str) -> str:
    if ratio <= 0.5 and unit == "s":
        return f"1/{_digits(1 / ratio)}"
    return _digits(ratio) if ratio >= 10 else f"{ratio:.2f}"
