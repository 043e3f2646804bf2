"""A list of jobs of which only the lines that are seen are drawn, however many there are."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from celery_realtime.cli.top.feeds import Key
from celery_realtime.cli.top.layout import Layout
from celery_realtime.cli.top.rows import Row
from celery_realtime.clocks import time

#: Lines of titles above the jobs.
TITLES = 1


class JobList(ScrollView, can_focus=True, inherit_bindings=False):
    """The jobs, one a line. The chosen one stays chosen wherever it goes.

    Args:
        with_project: Whether each line names its project.
    """

    DEFAULT_CSS = "JobList { height: 1fr; overflow-x: hidden; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move_page(-1)", "Page up", show=False),
        Binding("pagedown,space", "move_page(1)", "Page down", show=False),
        Binding("home,g", "move_to(0)", "First", show=False),
        Binding("end,G", "move_to(-1)", "Last", show=False),
        Binding("enter", "choose", "Follow"),
    ]

    class Chosen(Message):
        """Somebody wants to see more of a job.

        Attributes:
            row: The job.
        """

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self, with_project: bool) -> None:
        super().__init__()
        self._with_project = with_project
        self._rows: list[Row] = []
        self._places: dict[Key, int] = {}
        #: The job that the cursor is on; None for the first line, whatever comes there.
        self._key: Key | None = None
        self._place = 0

    @property
    def current(self) -> Row | None:
        """The job that the cursor is on, or None if there are no jobs."""
        return self._rows[self._place] if self._rows else None

    @property
    def count(self) -> int:
        """How many jobs there are in it."""
        return len(self._rows)

    @property
    def seen(self) -> list[Row]:
        """The jobs of the lines that are seen."""
        first = self.scroll_offset.y
        return self._rows[first : first + max(0, self.size.height - TITLES)]

    def show(self, rows: list[Row]) -> None:
        """Show jobs, in this order."""
        self._rows = rows
        self._places = {row.key: place for place, row in enumerate(rows)}
        last = max(0, len(rows) - 1)
        self._place = 0 if self._key is None else min(self._places.get(self._key, self._place), last)
        self.virtual_size = Size(1, len(rows) + TITLES)  # it is as wide as there is room
        self._keep_in_sight()
        self.refresh()

    # -- moving the cursor ----------------------------------------------------------------------------------------

    def action_move(self, lines: int) -> None:
        """Move the cursor by some lines."""
        self._go(self._place + lines)

    def action_move_page(self, pages: int) -> None:
        """Move the cursor by some pages."""
        self._go(self._place + pages * max(1, self.size.height - TITLES - 1))

    def action_move_to(self, place: int) -> None:
        """Move the cursor to a line; -1 is the last."""
        self._go(len(self._rows) - 1 if place < 0 else place)

    def action_choose(self) -> None:
        """Say which job the cursor is on."""
        if self.current is not None:
            self.post_message(self.Chosen(self.current))

    def _go(self, place: int) -> None:
        self._place = max(0, min(place, len(self._rows) - 1))
        current = self.current
        self._key = None if current is None or self._place == 0 else current.key
        self._keep_in_sight()
        self.refresh()

    def _keep_in_sight(self) -> None:
        first, lines = self.scroll_offset.y, max(1, self.size.height - TITLES)
        if self._place < first:
            self.scroll_to(y=self._place, animate=False, immediate=True)
        elif self._place >= first + lines:
            self.scroll_to(y=self._place - lines + 1, animate=False, immediate=True)

    # -- drawing --------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """Return a line as it is seen, from 0 on."""
        width, place = self.size.width, self.scroll_offset.y + y - TITLES
        layout = Layout(width, self._with_project)
        if y < TITLES:
            return self._strip(layout.titles(), width)
        if place >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        segments = layout.line(self._rows[place], time.time())
        if place == self._place:
            segments = [Segment(text, Style(reverse=True)) for text, _, _ in segments]
        return self._strip(segments, width)

    def _strip(self, segments: list[Segment], width: int) -> Strip:
        return Strip(segments).adjust_cell_length(width, self.rich_style).apply_style(self.rich_style)
