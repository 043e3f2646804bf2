"""Put the chunks of one stream in order before they are emitted, each character or item of it once.

Without input, output, locks and time of its own: :class:`~celery_realtime.web.stream_board.StreamBoard` brings chunks,
what the history has of a stream, and the clock.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from celery_realtime.channel.wire import Heard
from celery_realtime.stream_parts import JSON, KINDS, OPEN, STATES, STREAM_EVENT, TEXT

#: About how many bytes of a stream wait for what is missing before them; beyond, all is in the history anyway.
MOST_HELD = 1024 * 1024

#: Chunks that wait.
MOST_HELD_CHUNKS = 1000


class Chunk(NamedTuple):
    """A chunk of a stream.

    Attributes:
        event: The event that it came in.
        stream: The stream's name.
        kind: ``text`` or ``json``.
        generation: Which start of the stream it is of.
        position: Where it begins.
        content: The text, or the items.
        state: The stream's state behind it.
    """

    event: Heard
    stream: str
    kind: str
    generation: int
    position: int
    content: Any
    state: str

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.position + len(self.content)

    def behind(self, position: int) -> Chunk:
        """Return what of it is behind a position within it."""
        if position <= self.position:
            return self
        content = self.content[position - self.position :]
        data = {**self.event.data, "position": position, "chunk": content}
        event = msgspec.structs.replace(self.event, data=data)
        return self._replace(event=event, position=position, content=content)


def chunk_of(event: Heard) -> Chunk | None:
    """Return the chunk that an event is; None if it is none, whoever has sent it."""
    data = event.data
    if event.event != STREAM_EVENT or not isinstance(data, dict) or event.job_id is None:
        return None
    stream, kind, state = data.get("stream"), data.get("kind"), data.get("state")
    generation, position, content = data.get("generation"), data.get("position"), data.get("chunk")
    is_text = kind == TEXT and isinstance(content, str)
    is_whole = isinstance(stream, str) and kind in KINDS and state in STATES
    if not is_whole or not (is_text or (kind == JSON and isinstance(content, list))):
        return None
    if type(generation) is not int or type(position) is not int or min(generation, position) < 0:
        return None
    return Chunk(event, str(stream), str(kind), generation, position, content, str(state))


class StreamOrder:
    """How far a server has emitted one stream, and chunks that cannot be emitted yet.

    Args:
        generation: Which start of the stream it is of.
        position: Up to where it has been emitted, or was in what a reader was given.
        state: Its state.

    Attributes:
        generation, position, state: As given, now.
        is_behind: Whether something may be missing that is in the history.
    """

    def __init__(self, generation: int, position: int, state: str = OPEN) -> None:
        self.generation = generation
        self.position = position
        self.state = state
        self.is_behind = False
        self._held: list[Chunk] = []
        self._has_emitted = False

    @property
    def is_waiting(self) -> bool:
        """Whether chunks wait for what is missing before them."""
        return bool(self._held)

    def take(self, chunk: Chunk) -> list[Heard]:
        """Take a chunk from the channel, and return what has to be emitted now."""
        if chunk.generation < self.generation:
            return []
        if chunk.generation > self.generation:
            self._begin(chunk.generation)
        if not self._has_emitted and chunk.position <= self.position:
            # One reader was given it before it came here; others, who have read along, were not.
            self.position, self.state = chunk.position, OPEN
        if chunk.position > self.position:
            self._hold(chunk)
            return []
        return [*self._next(chunk), *self._contiguous()]

    def _begin(self, generation: int) -> None:
        self.generation, self.position, self.state = generation, 0, OPEN
        self._held, self.is_behind = [], False

    def _hold(self, chunk: Chunk) -> None:
        self.is_behind = True
        self._held.append(chunk)
        if len(self._held) > MOST_HELD_CHUNKS or sum(len(held.content) for held in self._held) > MOST_HELD:
            self._held = self._held[-1:]

    def _next(self, chunk: Chunk) -> list[Heard]:
        is_end = not chunk.content and chunk.position == self.position and chunk.state != self.state
        if chunk.end <= self.position and not is_end:
            return []
        rest = chunk.behind(self.position)
        self.position, self.state = rest.end, rest.state
        self._has_emitted = True
        return [rest.event]

    def _contiguous(self) -> list[Heard]:
        due: list[Heard] = []
        self._held.sort(key=lambda chunk: chunk.position)
        while self._held and self._held[0].position <= self.position:
            due += self._next(self._held.pop(0))
        return due

    def answer(self, chunk: Chunk | None, end: int) -> list[Heard]:
        """Take what the history has behind the position, and return what has to be emitted now.

        Args:
            chunk: That, as a chunk; None if the history does not know the stream.
            end: Where the stream ends, as far as the history knows; behind the chunk if that is not all.
        """
        if chunk is None or chunk.generation < self.generation:
            return self.give_up()
        if chunk.generation > self.generation:
            self._begin(chunk.generation)
        self.is_behind = chunk.end < end
        # What is between has been let go: readers see it by the position.
        self.position = max(self.position, chunk.position)
        due = [*self._next(chunk), *self._contiguous(), *(() if self.is_behind else self._rest())]
        return [*due, *(self._next(chunk.behind(chunk.end)) if chunk.state != OPEN else ())]

    def _rest(self) -> list[Heard]:
        """Return what still waits, of which the history does not know what is before it: has it lost that?"""
        return self.give_up() if self._held else []

    def give_up(self) -> list[Heard]:
        """Go on without what is missing; return what has to be emitted now."""
        due: list[Heard] = []
        self.is_behind = False
        self._held.sort(key=lambda chunk: chunk.position)
        while self._held:
            self.position = max(self.position, self._held[0].position)
            due += self._contiguous()
        return due
